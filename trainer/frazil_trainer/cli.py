"""``frazil-train``: the command line of the trainer.

Only the commands that train import torch.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from frazil.errors import FrazilError, OutputError, SettingsError, error_line
from frazil.model import Device
from frazil.picking import YAxis

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import rich.console

    from frazil.cluster.engine import Engine
    from frazil_trainer.recipe import Recipe

__all__ = ["app", "main"]

_RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="A recipe that frazil ships, by name (mlp, cnn, fcn, ...), or a file of your own that ends in .toml.",
    ),
]
_DataFolder = Annotated[Path, typer.Option("--data", help="Folder that holds the recipe's training sets.")]
_Diameter = Annotated[float, typer.Option(min=1, help="Diameter of the particle, in Å.")]
_PixelSize = Annotated[
    float | None, typer.Option(min=0.01, help="Pixel size in Å, if it is missing or wrong in the micrographs' headers.")
]
_Labels = Annotated[
    str | None,
    typer.Option(
        metavar="ENDING",
        help="How the names of label files end, behind the micrograph's: .star, .box, _picked.star, ... "
        "Default: what is there, of several the plain one.",
    ),
]
_YAxis = Annotated[
    YAxis,
    typer.Option(help="Whether labels count y from the first row of the micrograph's file, or, up, from the last."),
]

_Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Number of workers on the cluster. Default: a core for each thread here; 1 with Slurm."),
]
_ThreadsPerWorker = Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker. Default: 1.")]
_Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file with a table of the cluster.")
]
_LOWEST_PRIORITY = 19
_SHARED_FOLDER = ".frazil-cluster"
"""Beside what is written: certificates and logs of Slurm jobs."""

app = typer.Typer(
    name="frazil-train",
    help="Simulates micrographs, trains pickers, exports and evaluates them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a `FrazilError` becomes one line and exit status 1."""
    try:
        app()
    except FrazilError as error:
        print(error_line("frazil-train", error), file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except ModuleNotFoundError as error:
        of_the_trainer = ("torch", "onnx", "onnxscript", "tensorboardX", "jinja2")
        extra = {"scipy": "simulate"} | dict.fromkeys(of_the_trainer, "trainer")
        if error.name not in extra:
            raise
        install = f"pip install 'frazil[{extra[error.name]}]'"
        print(f"frazil-train: error: this command needs {error.name}: {install}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def simulate(
    *,
    out: Annotated[Path, typer.Option(help="Directory for the micrographs; made if missing.")],
    count: Annotated[int, typer.Option(min=1, help="How many micrographs.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same micrographs.")],
    size: Annotated[int, typer.Option(min=64, help="Width of a micrograph, in pixels.")] = 4096,
    height: Annotated[int | None, typer.Option(min=64, help="Height, if not the same.")] = None,
    interval: Annotated[
        float, typer.Option(min=0, help="Seconds from one micrograph to the next, as at a microscope.")
    ] = 0.0,
    particle: Annotated[
        str, typer.Option(help="Molecule to simulate, or imaginary for invented ones. A wrong name lists them.")
    ] = "galactosidase",
    diameter: Annotated[float, typer.Option(help="Diameter of imaginary molecules, in Å.")] = 180.0,
    pixel_size: Annotated[float, typer.Option(help="Pixel size in Å.")] = 1.77,
    dose: Annotated[float, typer.Option(help="Dose in electrons per Å².")] = 40.0,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="Write simulated_NNNN.junk.png beside each: 0 in good ice, more on film and dirt."
        ),
    ] = False,
) -> None:
    """Simulate micrographs with known particles.

    Each becomes simulated_NNNN.mrc, renamed into place when it is complete, with simulated_NNNN.star beside it.
    Existing files are kept.
    """
    from rich.progress import track

    from frazil_trainer.simulate import IMAGINARY, SimulationSettings, density_model
    from frazil_trainer.simulate.series import write_series

    settings = SimulationSettings(
        shape=(height or size, size),
        pixel_size_angstrom=pixel_size,
        dose_e_per_a2=dose,
        model=particle,
        imaginary_diameter_angstrom=diameter,
    )
    shown = diameter if particle == IMAGINARY else density_model(particle).diameter_angstrom
    typer.echo(f"{particle}, diameter {shown:.0f} Å, {pixel_size:g} Å a pixel", err=True)
    written = write_series(out, settings, count=count, seed=seed, interval_seconds=interval, masks=masks)
    for path in track(written, total=count, description="Simulating", console=_console()):
        typer.echo(path)


@app.command()
def worlds(
    *,
    out: Annotated[Path, typer.Option(help="Directory for the micrographs; made if missing.")],
    count: Annotated[int, typer.Option(min=1, help="How many micrographs.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed and molecules give the same micrographs.")],
    molecules: Annotated[
        Path | None,
        typer.Option(
            help="Folder of molecules to draw from: .npz files of pseudo-atoms, listed in index.csv. "
            "Default: the simulator's own."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out molecules whose name begins so. Repeat for more."),
    ] = None,
    dirty: Annotated[
        bool,
        typer.Option(
            "--dirty", help="Worlds to learn junk from: wide, most with one or several kinds of it, with a mask of it."
        ),
    ] = False,
) -> None:
    """Simulate micrographs to train on that have nothing in common.

    Molecule, density, ice, dirt, microscope and filters are drawn anew for each, and some hold no particle at all. Each
    becomes world_NNNN.mrc with world_NNNN.star beside it, and, with --dirty, world_NNNN.junk.png: 0 in good ice,
    elsewhere what lies there. diameters.csv lists the diameters. Existing files are kept.
    """
    from rich.progress import track

    from frazil_trainer.simulate.library import read_molecules
    from frazil_trainer.simulate.molecules import MODEL_NAMES, density_model
    from frazil_trainer.simulate.worlds import write_worlds

    known = [density_model(name) for name in MODEL_NAMES] if molecules is None else read_molecules(molecules)
    drawn = [one for one in known if not one.name.startswith(tuple(without or ()))]
    typer.echo(f"{len(drawn)} molecules, and imaginary ones", err=True)
    written = write_worlds(out, drawn, count=count, seed=seed, are_dirty=dirty)
    for _ in track(written, total=count, description="Simulating", console=_console()):
        pass


@app.command()
def train(
    context: typer.Context,
    *,
    recipe: _RecipeName,
    data: _DataFolder,
    out: Annotated[Path, typer.Option(help="The model's folder in the repository; the next version goes in.")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run-folder", help="Folder for checkpoints and TensorBoard events. Default: runs/NAME of --out."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in that folder, if there is one.")] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs instead of the recipe's, for a short run.")
    ] = None,
    only_score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Only score this training set and do not train on it, to see how well unseen particles are picked. "
            "Repeat for more.",
        ),
    ] = None,
    missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Train without those training sets whose folders are not below --data."),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Make an int8 twin too, and keep it if it picks as well.")
    ] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the serving one.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Train on labels that do not seem to lie on particles.")
    ] = False,
    device: Annotated[
        Device, typer.Option(help="Device of the training; auto takes a CUDA device if there is one.")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 2,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Least time between two checkpoints.")] = 5.0,
    cluster: Annotated[
        Literal["slurm"] | None,
        typer.Option(help="Train in a job of Slurm, by torchrun, and show its log. Default: here."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the job.")] = 1,
    processes_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Processes of the training on each node. Default: one for each GPU, or one."),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs that the job asks for on each node.")] = 0,
    queue: Annotated[str | None, typer.Option(help="Slurm partition. Default: the cluster's own.")] = None,
    walltime: Annotated[
        str | None, typer.Option(metavar="H:MM:SS", help="Longest time of the job. Default: 08:00:00.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of each process, such as 8GB. Default: the cluster's own."),
    ] = None,
    config: _Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script of the Slurm job, and do nothing else.")
    ] = False,
) -> None:
    """Train a picker and export it as the next version of a model.

    Under torchrun, several processes divide each batch; only the first one writes.
    """
    import msgspec
    import torch

    from frazil_trainer.data.load import skip_missing
    from frazil_trainer.recipe import find_recipe, leave_out, read_recipe
    from frazil_trainer.run import run_recipe

    run = run or Path("runs") / out.name
    torch.set_num_threads(threads)
    read = leave_out(read_recipe(find_recipe(recipe)), only_score or [])
    if missing:
        read, skipped = skip_missing(read, data)
        if skipped:
            typer.echo(f"trains without {', '.join(skipped)}: not in {data}", err=True)
    if cluster is not None:
        from frazil.settings import load_cluster_settings
        from frazil_trainer.slurm import Shape, batch_script

        settings = load_cluster_settings({"queue": queue, "walltime": walltime, "memory": memory}, config)
        processes = processes_per_node or gpus_per_node or 1
        shape = Shape(nodes=nodes, processes_per_node=processes, gpus_per_node=gpus_per_node, threads=threads)
        words = ["train", *_words(context, without=(*_OF_A_JOB, "resume")), "--resume"]
        script = batch_script(words, run, settings, shape)
        if dry_run:
            typer.echo(script, nl=False)
        else:
            _train_by_job(script, read, data, out, run, processes=shape.processes, resume=resume)
        return
    if given := list(_words(context, without=set(context.params) - set(_OF_A_JOB))):
        raise SettingsError(f"--cluster: expected it beside {given[0]}, found none")
    version = run_recipe(
        read if epochs is None else msgspec.structs.replace(read, epochs=epochs),
        data,
        out,
        _console(),
        run=run,
        resume=resume,
        device=device,
        checkpoint_minutes=checkpoint_minutes,
        force=force,
        int8=int8,
    )
    if version is None:
        return
    _end(version, out, promote=promote)


@app.command()
def adapt(
    *,
    parent: Annotated[Path, typer.Option("--from", help="The model to adapt: its folder, or one version's folder.")],
    data: Annotated[Path, typer.Option(help="Folder of a few micrographs, with their labels beside them.")],
    diameter: _Diameter,
    out: Annotated[Path, typer.Option(help="The model's folder in the repository; the next version goes in.")],
    pixel_size: _PixelSize = None,
    labels: _Labels = None,
    y_axis: _YAxis = "down",
    minutes: Annotated[float, typer.Option(min=0.1, help="How long it may take in all.")] = 2.5,
    incomplete: Annotated[
        bool | None,
        typer.Option(
            "--incomplete/--complete",
            help="Whether labels miss many particles. Default: frazil judges by what it picks.",
            show_default=False,
        ),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the serving one.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Adapt to labels that do not seem to lie on particles.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run-folder", help="Folder for what is needed to go on when stopped. Default: runs/NAME of --out."
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Device; auto takes a CUDA device if there is one.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 2,
) -> None:
    """Adapt a model to a particle, from a few labelled micrographs, within minutes.

    The result is the next version of a model. Stopped and started again with the same arguments, it goes on.
    """
    import torch

    from frazil_trainer.adapt.adaptation import AdaptationSettings, adapt_model
    from frazil_trainer.data.labelled import describe_set

    torch.set_num_threads(threads)
    version = adapt_model(
        parent,
        data,
        describe_set(
            data,
            name=data.resolve().name,
            diameter_angstrom=diameter,
            labels=labels,
            y_axis=y_axis,
            pixel_size_angstrom=pixel_size,
        ),
        out,
        _console(),
        run=run or Path("runs") / out.name,
        settings=AdaptationSettings(
            minutes=minutes, device=device, threads=threads, incomplete=incomplete, force=force
        ),
    )
    _end(version, out, promote=promote)


@app.command()
def follow(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="ZeroMQ address of a daemon, such as tcp://127.0.0.1:5556.")
    ],
    *,
    parent: Annotated[
        Path, typer.Option("--from", help="The model of the session's settings: its folder, or one version's folder.")
    ],
    out: Annotated[Path, typer.Option(help="The session's output directory; its own model goes in.")],
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="Session of a microscope; needed if it has several.")
    ] = None,
    after: Annotated[
        int, typer.Option(min=1, help="Micrographs that are corrected, or corrected again, before a training begins.")
    ] = 3,
    quiet_seconds: Annotated[
        float,
        typer.Option("--quiet", metavar="SECONDS", min=0, help="Time without a correction before a training begins."),
    ] = 20.0,
    promote: Annotated[
        bool, typer.Option("--promote", help="Hand in what is better; else it waits to be promoted by hand.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Leave after one training.")] = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long a training may take in all.")] = 2.5,
    device: Annotated[Device, typer.Option(help="Device; auto takes a CUDA device if there is one.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 2,
    key: Annotated[Path | None, typer.Option(help="Own .key_secret file, if the stream is encrypted.")] = None,
    server_key: Annotated[Path | None, typer.Option(help="The daemon's .key file.")] = None,
) -> None:
    """Learn while a session collects: adapt its model to what people correct, and offer it the better one.

    It runs at the lowest priority, until Ctrl-C. Started again with the same arguments, it goes on.
    """
    import os

    import torch

    from frazil_trainer.adapt.adaptation import AdaptationSettings
    from frazil_trainer.follow.follower import Follower, FollowSettings

    os.nice(_LOWEST_PRIORITY)
    torch.set_num_threads(threads)
    follower = Follower(
        parent,
        out,
        _console(),
        settings=FollowSettings(after=after, quiet_seconds=quiet_seconds, promote=promote, once=once),
        adaptation=AdaptationSettings(minutes=minutes, device=device, threads=threads),
    )
    if not follower.run(address, session, key=key, server_key=server_key):
        raise FrazilError(f"{follower.folder}: expected a version that is better, found none; see above")


_OF_A_JOB = (
    *("cluster", "nodes", "processes_per_node", "gpus_per_node", "queue", "walltime", "memory", "config", "dry_run"),
)
"""Parameters of `train` for a job of Slurm."""


def _words(context: typer.Context, without: Iterable[str]) -> Iterator[str]:
    """The options that were given, but for some, as they can be typed again."""
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        source = context.get_parameter_source(name)
        if name in without or source is None or source.name == "DEFAULT":
            continue
        if isinstance(value, bool):
            yield from option.opts[:1] if value else option.secondary_opts[:1]
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                yield from (option.opts[0], str(one))


def _train_by_job(
    script: str, recipe: Recipe, data: Path, out: Path, run: Path, *, processes: int, resume: bool
) -> None:
    """Have a job of Slurm train, or find the one that does, show its log, and say what it made."""
    from frazil_trainer.data.labelled import find_labelled
    from frazil_trainer.run import check_writable
    from frazil_trainer.slurm import Job
    from frazil_trainer.training.processes import Processes
    from frazil_trainer.training.run_folder import CHECKPOINT_NAME, read_version

    def say(line: str) -> None:
        typer.echo(line, err=True)

    # What would fail after hours in a queue fails here.
    Processes(count=processes).shard(recipe.batch)
    for folder in (out, run):
        check_writable(folder)
    for source in recipe.data:
        find_labelled(data, source)
    job = Job.at_work(run)
    version = read_version(run)
    if not resume and (job or version or (run / CHECKPOINT_NAME).exists()):
        found = f"job {job.number} at one" if job else "one"
        raise SettingsError(
            f"{run}: expected a folder without a run, found {found}; "
            "--resume goes on with it, --run-folder takes another folder"
        )
    if version is None:
        if job is None:
            job = Job.submit(script, run)
        say(f"job {job.number}, its log is {job.log}")
        try:
            state = job.follow(say)
        except KeyboardInterrupt:
            say(
                f"job {job.number} goes on; the same command with --resume shows it again, scancel {job.number} ends it"
            )
            raise
        version = job.result(state, lambda: read_version(run))
        if version is None:
            raise job.failure(state)
    typer.echo(f"wrote {version}")


def _end(version: Path, out: Path, *, promote: bool) -> None:
    """Say which version was written, and have it serve if it is to be promoted."""
    from frazil.model import ModelFolder

    typer.echo(f"wrote {version}")
    if promote:
        ModelFolder(out).promote(int(version.name))
        typer.echo(f"{out} now serves version {version.name}")


@app.command()
def evaluate(
    *,
    recipe: _RecipeName,
    data: _DataFolder,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="A model's folder, one version's folder, or an .onnx file. May be given several times.",
        ),
    ] = None,
    picks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Files with another picker's picks, named after the micrographs. May be given several times.",
        ),
    ] = None,
    picks_y_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="down|up",
            help="Direction of the y axis in the picks: once for all, or once for each --picks.",
            show_default="down",
        ),
    ] = None,
    picks_binning: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FACTOR",
            help="How many times smaller the micrographs were on which the picks were made: once for all, or once for "
            "each --picks.",
            show_default="1",
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Threshold instead of the models' own.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write an HTML report here.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table for a document here.")
    ] = None,
    overlays: Annotated[int, typer.Option(min=0, help="Number of micrographs in the report.")] = 6,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|slurm|tcp://...",
            help="Have workers score one micrograph each: on this machine, in jobs of Slurm, or of a Dask scheduler. "
            "Default: one by one, in this process.",
        ),
    ] = None,
    workers: _Workers = None,
    threads_per_worker: _ThreadsPerWorker = None,
    config: _Config = None,
) -> None:
    """Score models, run by the daemon's own picker, and other pickers' files on the validation micrographs."""
    import msgspec

    from frazil_trainer import evaluation
    from frazil_trainer.recipe import find_recipe, read_recipe

    recipe_file = find_recipe(recipe)
    paths = evaluation.validation_paths(data, read_recipe(recipe_file).data)
    sources = evaluation.open_sources(
        model or (), picks or (), picks_y_axis or (), threshold, paths, picks_binning or ()
    )
    console = _console()
    with contextlib.ExitStack() as closing:
        bar = closing.enter_context(_Bar("scoring", len({one.micrograph for one in paths}), console))
        scoring = None
        if cluster is not None:
            from frazil.cluster.engine import open_engine
            from frazil.settings import load_cluster_settings

            asked = {"workers": workers, "threads_per_worker": threads_per_worker}
            settings = load_cluster_settings(asked, config)
            outputs = [file.absolute().parent for file in (json_file, markdown_file, html_file) if file]
            folder = (outputs or [Path.cwd()])[0] / _SHARED_FOLDER
            engine = closing.enter_context(open_engine(cluster, settings, folder))
            scoring = evaluation.score_by_workers(engine, settings.threads_per_worker, lambda: bar.look(engine))
        elif workers or threads_per_worker or config:
            raise SettingsError(
                "--cluster: expected it beside --workers, --threads-per-worker and --config, found none"
            )
        scored = evaluation.score_micrographs(sources, paths, bar.advance, scoring)
    result = evaluation.evaluate(recipe_file.name, scored, sources, paths)
    evaluation.show_table(result.rows, console)
    for line in evaluation.flip_warnings(result.rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if json_file:
        _write(json_file, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    if markdown_file:
        _write(markdown_file, evaluation.markdown_table(result.rows).encode())
    if html_file:
        from frazil_trainer.evaluation.overlays import choose_overlays, make_overlays
        from frazil_trainer.evaluation.report import html_report

        pictures = make_overlays(choose_overlays(paths, overlays), scored, sources)
        _write(html_file, html_report(result, pictures).encode())


@app.command()
def quantise(
    *,
    recipe: _RecipeName,
    data: _DataFolder,
    model: Annotated[Path, typer.Option(help="A model's folder, or one version's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The model's folder for the new version. Default: that of the model.")
    ] = None,
) -> None:
    """Make an int8 twin of a model, and write both as its next version if the twin picks as well.

    The twin is calibrated on the recipe's training micrographs and compared with the model on the validation ones.
    """
    from frazil.model import locate_model
    from frazil_trainer.export.int8 import add_twin, load_twin_data, make_twin, show_twin
    from frazil_trainer.recipe import find_recipe, read_recipe

    console = _console()
    version = locate_model(model)[0].parent
    with console.status("reading micrographs") as status:
        twin, content = make_twin(version, load_twin_data(data, read_recipe(find_recipe(recipe))), status.update)
    show_twin(twin, console)
    if not twin.admitted:
        raise FrazilError(
            f"{version}: expected an int8 twin that picks as well, found F1 lower by {twin.largest_f1_drop:.4f}; "
            "nothing is written"
        )
    written = add_twin(version, out or version.parent, twin, content)
    typer.echo(f"wrote {written}; nothing serves by it until it is promoted")


@app.command()
def half(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model's folder, or one version's folder.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The new model's folder.")],
) -> None:
    """Write a copy of a model in half precision, for GPUs, as the next version in a folder.

    It must give the full model's reference scores within 0.01 at every load. It does not serve until it is promoted.
    """
    from frazil_trainer.export.half import export_half

    version = export_half(model, out)
    typer.echo(f"wrote {version}; evaluate it beside {model} before it is promoted")


@app.command("new-recipe")
def new_recipe(
    *,
    data: Annotated[Path, typer.Option(help="Folder of micrographs, with their labels beside them.")],
    diameter: _Diameter,
    pixel_size: _PixelSize = None,
    labels: _Labels = None,
    y_axis: _YAxis = "down",
) -> None:
    """Write a recipe for a folder of labelled micrographs to the standard output.

    It is to be trained with --data of the same folder.
    """
    from frazil_trainer.data.labelled import describe_set
    from frazil_trainer.new_recipe import write_recipe

    source = describe_set(
        data, name=".", diameter_angstrom=diameter, labels=labels, y_axis=y_axis, pixel_size_angstrom=pixel_size
    )
    typer.echo(write_recipe(data, source, _console()), nl=False)


@app.command("check-data")
def check_data(
    *,
    recipe: _RecipeName,
    data: _DataFolder,
    out: Annotated[Path, typer.Option(help="Directory for pictures of the labels; made if missing.")],
    count: Annotated[int, typer.Option(min=0, help="Number of micrographs of each set to draw.")] = 3,
) -> None:
    """Read all training data as training does, and show whether the labels lie on particles."""
    from frazil_trainer.data.check import inspect_set, show_inspection
    from frazil_trainer.recipe import find_recipe, read_recipe

    read, console = read_recipe(find_recipe(recipe)), _console()
    with console.status("reading micrographs") as status:
        inspections = [inspect_set(data, source, read, out, count, status.update) for source in read.data]
    for one in inspections:
        show_inspection(one, console)
    refused = sum(len(one.refusals) for one in inspections)
    if refused:
        raise FrazilError(f"{recipe}: expected labels to train on, found {refused} micrographs that would be refused")


class _Bar:
    """A bar with the number of what is done, and the time left."""

    def __init__(self, doing: str, total: int, console: rich.console.Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
        self._task = self._bar.add_task(doing, total=total, note="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, _: str) -> None:
        """One more is done."""
        self._bar.advance(self._task)

    def look(self, engine: Engine[str]) -> None:
        """Say it where there is no worker."""
        self._bar.update(self._task, note=engine.waits_for)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def _console() -> rich.console.Console:
    from rich.console import Console

    return Console(stderr=True)
