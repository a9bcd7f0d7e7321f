"""``frazil doctor``, ``selftest``, ``bench``, ``check-settings`` and ``install-service``: commands for the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from frazil.errors import FrazilError, SettingsError
from frazil.model import Device, Precision

__all__ = ["bench", "check_settings", "deploy", "doctor", "install_service", "selftest"]

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file of the daemon on this machine.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as one line of JSON.", metavar="")]


def doctor(
    config: Config = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch",
            metavar="DIR",
            help="Look into this directory: whose layout it has, and what each pattern takes and passes over.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine for frazil, and list each fault with advice.

    The exit status is 1 if a fault keeps frazil from running.
    """
    import msgspec

    from frazil.machine import examine
    from frazil.settings import load_settings

    settings, fault = None, None
    if config is not None:
        try:
            settings = load_settings({}, config)
        except SettingsError as error:
            fault = error
    findings = []
    for finding in examine(settings, fault, tree=watch):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.level:<8} {finding.check:<10} {finding.says}")
            if finding.do:
                typer.echo(f"{'':<19} → {finding.do}")
    if as_json:
        typer.echo(msgspec.json.encode(findings))
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(1)


def selftest(
    config: Config = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="PATH", help="The model to test. Default: that of the settings, or the wheel's."
        ),
    ] = None,
    least: Annotated[
        float, typer.Option("--least", min=0, max=1, metavar="NUMBER", help="Lowest acceptable precision and recall.")
    ] = 0.7,
    as_json: AsJson = False,
) -> None:
    """Pick a simulated micrograph that travels with frazil, and compare the picks with the truth."""
    import dataclasses

    import msgspec

    from frazil.machine import run_selftest
    from frazil.settings import load_settings

    outcome = run_selftest(load_settings({}, config) if config else None, model=model)
    if as_json:
        fractions = {"precision": outcome.precision, "recall": outcome.recall}
        typer.echo(msgspec.json.encode(dataclasses.asdict(outcome) | fractions))
    else:
        typer.echo(
            f"{outcome.model} on {outcome.provider} in {outcome.computes_in}: {outcome.picks} picks for "
            f"{outcome.particles} particles, precision {outcome.precision:.2f}, recall {outcome.recall:.2f}\n"
            f"loaded and warm in {outcome.load_seconds:.2f} s, picked in {outcome.pick_seconds:.2f} s"
        )
    outcome.check(least)


def bench(
    micrograph: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MICROGRAPH]", help="The micrograph. Default: a small simulated one.", show_default=False
        ),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", metavar="NUMBER", help="Diameter of its particle, in Å.", show_default=False),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="PATH", help="The model. Default: the wheel's.", show_default=False),
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Where the model runs.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of the model. Default: every core.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="How the model computes on the CPU, if it can.")
    ] = "float32",
    preparation: Annotated[
        Literal["auto", "device", "host"],
        typer.Option(
            "--preparation",
            help="Where pictures are prepared: on the device that runs the model, or on the CPU. auto: on a GPU.",
        ),
    ] = "auto",
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="NUMBER", help="Number of repetitions.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a micrograph is picked here, stage by stage, in comparison with the floor.

    The floor is the time that no picker with this model can avoid: reading the bytes, and the bare model on ready
    tiles.

    Picks made on a GPU are compared with the CPU's. If they differ, the exit status is 1.
    """
    import dataclasses

    import msgspec
    from rich.console import Console
    from rich.progress import track

    from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH, STAGES, Bench
    from frazil.picking import PickingSettings
    from frazil.settings import default_model_path

    if (micrograph is None) != (diameter is None):
        raise SettingsError("expected a micrograph and --diameter, or neither for the one that travels with frazil")
    measured = Bench(
        micrograph=micrograph or KNOWN_MICROGRAPH,
        model=model or default_model_path(),
        settings=PickingSettings(diameter_angstrom=diameter or KNOWN_DIAMETER_ANGSTROM),
        device=device,
        threads=threads,
        precision=precision,
        preparation=preparation,
    )
    for _ in track(measured.rounds(rounds), total=rounds, description="Picking", console=Console(stderr=True)):
        pass
    medians = {name: measured.median(name) for name in (*STAGES, "whole", "floor")}
    throughput = measured.measure_throughput(rounds)
    agreement = measured.compare_with_cpu()
    if as_json:
        facts = {
            "model": measured.name,
            "provider": measured.provider,
            "precision": measured.computes_in,
            "preparation": measured.prepared,
            "rounds": rounds,
            "seconds": medians,
            "times_the_floor": measured.times_the_floor,
            "share_of_the_floor": measured.share_of_the_floor,
            "micrographs_per_second": throughput,
            "agreement": dataclasses.asdict(agreement) if agreement else None,
        }
        typer.echo(msgspec.json.encode(facts))
    else:
        where = f"{measured.provider} in {measured.computes_in}"
        typer.echo(f"{measured.name} on {where}, {measured.prepared}; medians of {rounds} rounds")
        for name, seconds in medians.items():
            least, most = min(measured.seconds[name]), max(measured.seconds[name])
            typer.echo(f"{name:<8} {seconds:8.4f} s   {least:.4f} to {most:.4f}")
        typer.echo(
            f"{1 / medians['whole']:.2f} micrographs a second one by one, {throughput:.2f} with the next being read\n"
            f"{measured.times_the_floor:.2f} times the floor: {measured.share_of_the_floor:.0%} of the time is needed"
        )
        typer.echo(agreement or "picked on the CPU: nothing to compare with")
    if agreement:
        agreement.check()


def check_settings(file: Annotated[Path, typer.Argument(metavar="FILE", help="A settings file.")]) -> None:
    """Read a settings file as the daemon would, and list every fault with its line. Nothing is started."""
    from frazil.settings import load_cluster_settings, load_settings

    load_settings({}, file)
    load_cluster_settings({}, file)
    typer.echo(f"{file}: nothing wrong")


def install_service(
    instance: Annotated[str, typer.Argument(metavar="NAME", help="Name of the microscope, such as titan1.")],
    watch: Annotated[
        Path | None,
        typer.Option("--watch", metavar="PATH", help="Directory where micrographs appear.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="Directory for the STAR files.", show_default=False)
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", metavar="NUMBER", help="Diameter of the particle, in Å.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="USER",
            help="User of the service. Default: the user who called sudo, else the owner of WATCH.",
        ),
    ] = None,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, as a test or for an image.")
    ] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Print the files, and write nothing.")] = False,
) -> None:
    """Make frazil a systemd service on this machine, for one microscope.

    Writes the unit, a drop-in for this microscope's paths, and /etc/frazil/NAME.toml if there is none yet.

    Run it again, with the name alone, after a change of paths in that file.
    """
    if os.geteuid() != 0 and root == Path("/") and not dry_run:
        raise FrazilError(
            f"/etc: expected to run as root, found user {os.geteuid()}; run it with sudo {sys.argv[0]}, or with "
            "--dry-run to see the files"
        )
    from frazil.machine import plan_installation

    given = {
        name: value
        for name, value in (("watch", watch), ("out", out), ("diameter_angstrom", diameter))
        if value is not None
    }
    installation = plan_installation(instance, given, user=user, executable=_executable(), root=root)
    if dry_run:
        for path, content in installation.files.items():
            typer.echo(f"# {path}\n{content}")
        return
    installation.write()
    for note in installation.notes:
        typer.echo(note)
    for path in installation.files:
        typer.echo(f"wrote {path}")
    if installation.kept:
        typer.echo(f"kept  {installation.kept}")
    typer.echo(
        "next:\n"
        "  sudo systemctl daemon-reload\n"
        f"  sudo systemctl enable --now frazil@{instance}\n"
        f"  systemctl status frazil@{instance}\n"
        f"  journalctl -u frazil@{instance} -f"
    )


def deploy(
    program: Annotated[Literal["prometheus", "grafana"], typer.Argument(help="Whose files.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory for them.", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", metavar="", help="Replace files with other content, which are kept otherwise.")
    ] = False,
) -> None:
    """Write the files for Prometheus or Grafana that travel with frazil: rules, targets, dashboards."""
    from frazil.machine import deploy as write

    deployed = write(program, to, replace=replace)
    for file in deployed.written:
        typer.echo(f"wrote {file}")
    for file in deployed.as_they_were:
        typer.echo(f"there {file}")
    for file in deployed.kept:
        typer.echo(f"kept  {file} (it has other content; --replace writes over it)")
    if program == "prometheus":
        typer.echo(f"next: put your daemons into {to / 'frazil-targets.yml'}, then")
        typer.echo(f"  promtool check config {to / 'prometheus.yml'}")


def _executable() -> Path:
    """The running ``frazil`` program, by the name under which it was called: a link to a version stays a link."""
    called, beside = Path(sys.argv[0]).absolute(), Path(sys.executable).with_name("frazil")
    found = next((program for program in (called, beside) if program.name == "frazil" and program.is_file()), None)
    if found is None:
        raise FrazilError(f"{beside}: expected the frazil program beside its Python, found none")
    return found
