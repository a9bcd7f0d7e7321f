"""Thousands of micrographs through one daemon: its memory and its open files stay where they were."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]

Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821


def resident_mb(pid: int) -> float:
    """Memory of its own: what it shares with the files it mapped may come and go with the machine's needs."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def plot(samples: list[tuple[int, float, int]]) -> str:
    """Memory over micrographs, as SVG."""
    width, height, left, top = 640, 260, 60, 30
    last, most = samples[-1][0], max(mb for _, mb, _ in samples) * 1.1
    x = [left + (width - left - 20) * n / last for n, _, _ in samples]
    y = [height - 40 - (height - 40 - top) * mb / most for _, mb, _ in samples]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    ticks = [(mb, height - 36 - (height - 40 - top) * mb / most) for mb in range(0, int(most) + 1, 20)]
    marks = "".join(f'<text x="{left - 8}" y="{at:.1f}" text-anchor="end">{mb}</text>' for mb, at in ticks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>{marks}'
        f'<path d="M{left},{top} V{height - 40} H{width - 20}" fill="none" stroke="black"/>'
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>'
        f'<text x="{left}" y="18">memory of the daemon (anonymous resident), MB</text>'
        f'<text x="{width - 20}" y="{height - 10}" text-anchor="end">micrographs picked: {last:,}</text></svg>\n'
    )


def test_memory_and_descriptors_do_not_grow(
    serve: Serve,
    blob_model: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
    metric: Callable[[str, str], float],
    report: Callable[[str, str], None],
    wait_for: Callable[..., None],
    tmp_path: Path,
    memory_folder: Path,
    is_long: bool,
) -> None:
    count, settled, step = (5_000, 500, 50) if is_long else (200, 80, 20)
    contents = [
        write_mrc(tmp_path / "aside.tmp", make_scene(seed=seed).pixels, 2.0).read_bytes()  # type: ignore[attr-defined]
        for seed in range(3)
    ]
    folders = {"watched": memory_folder / "watched", "out": memory_folder / "out"}
    daemon = serve("--diameter", "48", "--model", blob_model, "--scan", "1", **folders)
    pid = daemon.process.pid
    samples: list[tuple[int, float, int]] = []
    for start in range(0, count, step):
        for i in range(start, start + step):
            (daemon.watched / f"m{i:05}.mrc").write_bytes(contents[i % len(contents)])
        wait_for(lambda done=start + step: metric(daemon.metrics, "frazil_ledger_sequence") >= done, "a portion", 600)
        samples.append((start + step, resident_mb(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))))
        for i in range(start, start + step):  # the disk is not what is tested
            (daemon.watched / f"m{i:05}.mrc").unlink()
    assert daemon.stop() == 0

    at_first = [sample for sample in samples if settled / 2 <= sample[0] <= settled]
    at_last = [sample for sample in samples if sample[0] > count - settled / 2]
    before, after = max(mb for _, mb, _ in at_first), sorted(mb for _, mb, _ in at_last)[len(at_last) // 2]
    growth = after / before - 1
    # The fewest of several looks: at any one a pick file may be open, or somebody connected.
    opened, still_open = min(n for _, _, n in at_first), min(n for _, _, n in at_last)
    report("soak.svg", plot(samples))
    report(
        "soak.md",
        f"{count:,} micrographs: {before:.0f} MB of memory after the first {settled}, {after:.0f} MB at the end, "
        f"growth {100 * growth:.1f} %; {opened} open files at first, {still_open} at the end.",
    )
    assert growth < 0.05
    assert still_open <= opened + 2
