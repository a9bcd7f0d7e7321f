"""``frazil measure``: the diameter of the particle in some micrographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frazil.commands import complain
from frazil.errors import MicrographError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from frazil.model import Device, Model
    from frazil.picking import DiameterEstimate, Micrograph, TriedDiameter

__all__ = ["measure"]

_BAR_WIDTH = 40
_MOST_PEAKS = 3


def measure(
    *,
    micrographs: Annotated[
        list[Path], typer.Argument(metavar="MICROGRAPH", help="MRC or TIFF files.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print it as one line of JSON.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="FILE",
            help="Also write a picture, as PNG: the curve, and a micrograph with the picks for a few diameters.",
            show_default=False,
        ),
    ] = None,
    **given: Any,
) -> None:
    """Suggest the diameter of the particle in some micrographs, with its range.

    They are picked for diameters from 60 to 600 Å. Three micrographs are enough where particles are plain to see.

    A micrograph that cannot be used gets one line with the reason. The others are used nevertheless, and the exit
    status is 1.
    """
    from rich.console import Console
    from rich.progress import Progress

    from frazil.picking import TRIED_ANGSTROM, estimate_diameter

    chosen = {name: value for name, value in given.items() if value is not None}
    model = _load(chosen.pop("model", None), chosen.pop("device", "auto"), chosen.pop("threads", None))
    largest_bytes = chosen.pop("max_micrograph_bytes", None)
    tried: list[TriedDiameter] = []
    shown: Micrograph | None = None
    used = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Measuring", total=len(micrographs) * len(TRIED_ANGSTROM))
        for number, path in enumerate(micrographs):
            try:
                micrograph, found = _try(path, largest_bytes, model, chosen, lambda: progress.advance(task))
            except MicrographError as error:
                complain(error)
            else:
                used += 1
                tried += found
                shown = shown or micrograph
            progress.update(task, completed=(number + 1) * len(TRIED_ANGSTROM))
    if shown is not None:
        estimate = estimate_diameter(tried)
        doubt = _doubt_contrast(estimate, shown, model, chosen) or estimate.doubt
        if as_json:
            typer.echo(_as_json(estimate, used, doubt))
        else:
            _draw(estimate, used)
        if doubt:
            typer.echo(f"frazil: warning: {doubt}", err=True)
        if picture is not None:
            _write_picture(picture, estimate, shown, model, chosen)
    if used < len(micrographs):
        raise typer.Exit(1)


def _load(path: Path | None, device: Device, threads: int | None) -> Model:
    import cv2

    from frazil.model import available_cores, load_model
    from frazil.settings import default_model_path

    threads = threads or available_cores()
    cv2.setNumThreads(threads)
    return load_model(path or default_model_path(), device, threads)


def _try(
    path: Path, largest_bytes: int | None, model: Model, chosen: dict[str, Any], progress: Callable[[], None]
) -> tuple[Micrograph, list[TriedDiameter]]:
    from frazil.faults import failure_of
    from frazil.picking import LARGEST_MICROGRAPH_BYTES, read_micrograph, try_diameters

    try:
        micrograph = read_micrograph(path, as_stored=True, largest_bytes=largest_bytes or LARGEST_MICROGRAPH_BYTES)
        return micrograph, try_diameters(micrograph, model, progress=progress, **chosen)
    except Exception as error:
        raise failure_of(path, "measuring", error) from error


def _doubt_contrast(
    estimate: DiameterEstimate, micrograph: Micrograph, model: Model, chosen: dict[str, Any]
) -> str | None:
    """Whether the particles of a micrograph look the other way round, in one line."""
    from frazil.picking import Picker, PickingSettings, weigh_contrast

    settings = PickingSettings(diameter_angstrom=estimate.best.diameter_angstrom, **chosen)
    picker = Picker(model, settings)
    try:
        picture = picker.prepare(micrograph)
    except MicrographError:
        return None  # this one cannot show a particle of that diameter
    if not weigh_contrast(picker, picture, picker.score(picture)).speaks_for_other:
        return None
    other = "bright" if settings.contrast == "dark" else "dark"
    return f"expected {settings.contrast} particles, found {other} ones; measure again with --contrast {other}"


def _as_json(estimate: DiameterEstimate, micrographs: int, doubt: str | None) -> bytes:
    import dataclasses

    import msgspec

    best = dataclasses.asdict(estimate.best)
    named = ("diameter_angstrom", "low_angstrom", "high_angstrom")
    return msgspec.json.encode(
        {
            **{name: round(best[name], 1) for name in named},
            "curve": [[round(diameter, 1), round(value, 4)] for diameter, value in estimate.curve],
            "peaks": estimate.peaks,
            "micrographs": micrographs,
            "doubt": doubt,
        }
    )


def _draw(estimate: DiameterEstimate, micrographs: int) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    best = estimate.best
    of = "1 micrograph" if micrographs == 1 else f"{micrographs} micrographs"
    console.print(f"how sure the model is of its best picks in {of}, by diameter")
    highest = max(value for _, value in estimate.curve)
    tops = {round(peak.tried_angstrom): " ← surest" if peak is best else " ←" for peak in estimate.peaks[:_MOST_PEAKS]}
    for diameter, value in estimate.curve:
        bar = "█" * max(0, round(_BAR_WIDTH * value / max(highest, 1e-9)))
        console.print(f"{diameter:>5.0f} Å  {bar} {value:.2f}{tops.get(round(diameter), '')}")
    for peak in estimate.peaks[:_MOST_PEAKS]:
        ring = "no ring around the mean particle" if peak.ring_angstrom is None else f"ring {peak.ring_angstrom:.0f} Å"
        console.print(
            f"{'diameter' if peak is best else 'or':<8} {peak.diameter_angstrom:.0f} Å, "
            f"{peak.low_angstrom:.0f} to {peak.high_angstrom:.0f} Å (scores {peak.surest_angstrom:.0f} Å, {ring})"
        )
    console.print(f"next: --diameter {best.diameter_angstrom:.0f}")


def _write_picture(
    file: Path, estimate: DiameterEstimate, micrograph: Micrograph, model: Model, chosen: dict[str, Any]
) -> None:
    """The curve, and the picks for the suggestion, both ends of its range, and the second best."""
    import cv2
    import numpy as np

    from frazil.faults import reason_of
    from frazil.files import write_atomically
    from frazil.picking import Picker, PickingSettings, draw_curve, draw_picks

    best = estimate.best
    diameters = [best.low_angstrom, best.diameter_angstrom, best.high_angstrom]
    diameters += [peak.diameter_angstrom for peak in estimate.peaks[1:2]]
    pixel_size = micrograph.resolve_pixel_size(chosen.get("pixel_size_angstrom"))
    panels = []
    for diameter in diameters:
        try:
            picks = Picker(model, PickingSettings(diameter_angstrom=diameter, **chosen)).pick(micrograph)
        except MicrographError:
            continue  # the micrograph cannot show so small or large a particle
        drawn = draw_picks(micrograph.pixels, picks, diameter / pixel_size, longest_side_px=640)
        cv2.putText(
            drawn, f"{diameter:.0f} A: {len(picks)} picks", (10, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (60, 220, 255), 2
        )
        panels.append(drawn)
    height = max((panel.shape[0] for panel in panels), default=480)
    panels = [draw_curve(estimate.curve, (best.low_angstrom, best.high_angstrom), (height, 640)), *panels]
    whole = np.concatenate([_of_height(panel, height) for panel in panels], axis=1)
    try:
        write_atomically(file, cv2.imencode(".png", whole)[1].tobytes())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {reason_of(error)}") from error


def _of_height(panel: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    import numpy as np

    return np.pad(panel, ((0, height - panel.shape[0]), (0, 0), (0, 0)))
