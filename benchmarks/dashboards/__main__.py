"""Draw the dashboards of deploy/grafana as Grafana would, from real data, so that they can be looked at.

    python -m benchmarks.dashboards [--pages] [--minutes 8] [--folder FOLDER [--again]]

Two real daemons pick simulated micrographs, and a real Prometheus scrapes them (benchmarks/dashboards/scenario.py).
Then each panel's queries are asked over HTTP, with the dashboard's variables put in, and drawn: a picture for each row
of panels. ``--pages`` writes them into docs/images; otherwise they are written into FOLDER. FOLDER keeps all data: with
``--again`` they are drawn from there, and nothing happens anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.dashboards.drawing import draw_rows
from benchmarks.dashboards.panels import read_dashboard
from benchmarks.dashboards.scenario import SCRAPE, play
from benchmarks.prometheus_process import PrometheusProcess

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "docs" / "images"
CHOSEN = {"frazil": {"microscope": "titan1"}, "frazil-fleet": {"microscope": ".*", "session": ".*"}}
"""What the person at the dashboard chose of its variables."""


def main() -> int:
    """Draw; 0 when every panel could be drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="that the scenario takes (default 8)")
    parser.add_argument("--folder", type=Path, help="for its data, which then stay")
    parser.add_argument("--again", action="store_true", help="draw what FOLDER holds")
    parser.add_argument("--pages", action="store_true", help="write the pictures into docs/images")
    args = parser.parse_args()
    program = shutil.which("prometheus")
    if program is None:
        print("needs prometheus: install Debian's, or Prometheus' own release, on the PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as aside:
        folder = args.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        span = folder / "span.json"
        if not args.again:
            span.write_text(json.dumps(play(program, folder, 60 * args.minutes)))
        began, ended = json.loads(span.read_text())
        out = IMAGES if args.pages else folder
        with PrometheusProcess(program, {}, folder, SCRAPE) as server:
            for name, chosen in CHOSEN.items():
                for title, picture, empty in draw_rows(server, read_dashboard(name), chosen, began, ended):
                    file = out / f"dashboard-{'-'.join(title.lower().strip('?').split())}.svg"
                    file.write_text(picture, "utf-8")
                    print(f"{file}: {', '.join(empty) + ': no data' if empty else 'every query has data'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
