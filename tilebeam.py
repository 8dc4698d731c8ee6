"""The program `tilebeam`, which mounts the commands of all packages; its demo; and what users import by name.

    from tilebeam import AsyncClient, Client, LocateQuery, Locator, locate_picture

These names are loaded on first use, and commands import heavy libraries only when they run: the client and `tilebeam
locate --url` work without NumPy, FAISS and torch.
"""

import json
import os
import sys
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_group

import service.cli
import service.register_cli
import service.standard_streams
from retrieval.errors import CacheFolderError
from service.arguments import box_arguments, with_value

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` loads these names
    from retrieval.locator import Locator
    from retrieval.pipeline import locate_picture
    from retrieval.search.query import LocateQuery
    from service.client.client import AsyncClient, Client

    __version__: str

__all__ = ["AsyncClient", "Client", "LocateQuery", "Locator", "__version__", "app", "locate_picture", "main"]

GOOD_KM = 300.0
"""A sample counts as located when its answer lies within this distance of the true place."""
COMMAND_EXTRAS = {
    "demo": "index,service",
    "serve": "service",
    "locate": "engine",
    "register": "index",
    "plan": "index",
    "fetch": "index",
    "index": "index",
    "inspect": "index",
    "prior": "index",
    "train": "learn",
    "calibrate": "learn",
    "evaluate": "learn",
    "geocells": "geocells",
    "sample-data": "sample-data",
}
"""The extras that install all that a command needs. The other commands need no extra."""
MODULE_EXTRAS = {"geoclip": "geoclip", "transformers": "geoclip", "pillow_heif": "heic"}
"""The extras of modules that a command needs for some options only."""
OWN_PACKAGES = ("tile_cache", "retrieval", "indexer", "service")
MIN_LOCATED = 6
"""How many of the eight samples must be located for `demo --check` to pass."""


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import tilebeam` stays light."""
    if name == "__version__":
        return metadata.version("tilebeam")
    if name in ("LocateQuery", "Locator", "locate_picture"):
        try:
            from retrieval import locator, pipeline
        except ModuleNotFoundError as exc:
            raise ImportError(f"{name} needs the module {exc.name}: pip install 'tilebeam[engine]'") from exc
        return getattr(pipeline if name == "locate_picture" else locator, name)
    if name in ("AsyncClient", "Client"):
        from service.client import client

        return getattr(client, name)
    raise AttributeError(f"module 'tilebeam' has no attribute {name!r}")


class Commands(TyperGroup):
    """The program's commands. Those of the indexer, which take a second to import, are mounted when one is needed.

    A client's install and those with single extras lack packages that other commands need. Whichever command runs into
    that, and wherever, ends with one line that names the extra.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command; report a package that is not installed, and a wrong value of an option by the value."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            raise with_value(exc) from exc
        except ImportError as exc:
            if (exc.name or "").partition(".")[0] in OWN_PACKAGES:
                raise  # a mistake in Tilebeam, or a damaged installation: no extra would help
            say(missing_package(ctx.meta["tilebeam.command"], exc))
            raise typer.Exit(1) from exc

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return a command's name, the command, and its arguments, in which a box may be written in two ways."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else box_arguments(command, rest)

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names, for the help; without those of the indexer where its packages are not installed."""
        with suppress(ImportError):
            self._mount()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name. Raises ImportError if it is one of the indexer's and packages are missing."""
        ctx.meta["tilebeam.command"] = cmd_name
        if cmd_name in COMMAND_EXTRAS and cmd_name not in self.commands:
            self._mount()
        return super().get_command(ctx, cmd_name)

    def _mount(self) -> None:
        import indexer.cli.build
        import indexer.cli.calibrate
        import indexer.cli.evaluate
        import indexer.cli.geocells
        import indexer.cli.prior
        import indexer.cli.sample_data
        import indexer.cli.train

        offline = typer.Typer()
        calibration, evaluation = indexer.cli.calibrate, indexer.cli.evaluate
        others = (indexer.cli.geocells, indexer.cli.prior, indexer.cli.sample_data)
        for part in (indexer.cli.build, indexer.cli.train, calibration, evaluation, *others):
            part.register(offline)
        self.commands.update(get_group(offline).commands)


def missing_package(command: str, error: ImportError) -> str:
    """The line for a command that needs a package which is not installed, or cannot be loaded."""
    module = (error.name or "").partition(".")[0]
    extra = MODULE_EXTRAS.get(module) or COMMAND_EXTRAS.get(command, "all")
    if isinstance(error, ModuleNotFoundError):
        return f"tilebeam: `{command}` needs the module {module}, not installed: pip install 'tilebeam[{extra}]'"
    reason = str(error).partition("\n")[0]
    return f"tilebeam: `{command}` cannot load a package ({reason}): pip install 'tilebeam[{extra}]'"


app = typer.Typer(
    cls=Commands,
    name="tilebeam",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Sample(NamedTuple):
    """A bundled picture and its true centre in degrees."""

    path: Path
    lng: float
    lat: float


class LocatedSample(NamedTuple):
    """A sample, its answer as in the HTTP contract, and the answer's distance from the true place."""

    sample: Sample
    answer: dict[str, Any]
    error_km: float


def _print_version(requested: bool) -> None:
    if requested:
        print(f"tilebeam {metadata.version('tilebeam')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Estimate where a picture was taken from map tiles, with a calibrated confidence for every zoom."""


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 picks a free one.")] = 8000,
    check: Annotated[bool, typer.Option("--check", help="Locate the samples, print the table and exit.")] = False,
    index: Annotated[
        Path | None,
        typer.Option(help="Folder of the built-in index.", show_default="your cache folder"),
    ] = None,
) -> None:
    """Build the built-in Earth's index if it is missing, locate the bundled samples, and serve on 127.0.0.1."""
    if not check:
        import service.app
    directory = index or builtin_index()
    build_builtin(directory)
    samples = locate_samples(directory)
    show(samples)
    located = sum(sample.error_km <= GOOD_KM for sample in samples)
    say(f"{located} of {len(samples)} samples within {GOOD_KM:g} km; {MIN_LOCATED} are needed.")
    if check:
        raise typer.Exit(0 if located >= MIN_LOCATED else 1)
    say(f"\nTry: curl -F image=@{samples[0].sample.path} http://127.0.0.1:{port or 8000}/locate\n")
    service.cli.serve(index=directory, port=port)


def builtin_index() -> Path:
    """Return the folder of this version's built-in index, in the user's cache folder (XDG_CACHE_HOME or ~/.cache)."""
    try:
        ids = [_builtin_json("photo.json")["fingerprint"], _builtin_json("calibration.json")["id"]]
    except (OSError, ValueError, KeyError) as exc:
        say(f"tilebeam: the built-in encoders are missing or damaged ({exc}): install tilebeam again")
        raise typer.Exit(1) from exc
    from retrieval.files import cache_folder  # needs platformdirs, which the client's installation does not have

    try:
        return cache_folder() / f"builtin-earth-{ids[0][:12]}-{ids[1][:6]}"
    except CacheFolderError as exc:
        say(f"tilebeam: {exc}, or give --index DIR")
        raise typer.Exit(1) from exc


def _builtin_json(name: str) -> Any:
    return json.loads(resources.files("indexer.builtin").joinpath(name).read_text())


def build_builtin(out: Path) -> None:
    """Index the built-in Earth at `out`, unless that index is there already."""
    from indexer.build.report import report_in_words
    from indexer.cli.terminal import Bars, ending_well

    with ending_well("run the same command to go on"):
        from indexer.build.build import build_index
        from indexer.build.request import BuildRequest

        try:
            out.parent.mkdir(parents=True, exist_ok=True)  # the cache folder may not exist yet
        except OSError as exc:
            say(f"tilebeam: cannot create the folder {out.parent} ({exc.strerror}): give another --index")
            raise typer.Exit(1) from exc
        if not (out / "manifest.json").exists():
            say(f"Building the built-in Earth's index at {out}: about 15,700 tiles, a minute or so on two cores.")
        with Bars() as bars:
            report = build_index(BuildRequest(source="bluemarble", out=out, zooms=(4, 6, 8)), on_progress=bars)
        if not report.already:
            say("\n".join(report_in_words(report)))


def locate_samples(index: Path) -> list[LocatedSample]:
    """Locate the bundled samples in this process, with the engine that the service uses."""
    from indexer.cli.terminal import ending_well

    with ending_well("nothing was changed"):
        from retrieval.locator import Locator
        from retrieval.search.query import LocateQuery
        from retrieval.sphere import great_circle_km
        from service.client.files import locate_here

        samples, located = bundled_samples(), []
        answers = locate_here(lambda: Locator.open(index), [s.path for s in samples], LocateQuery(register="off"))
        for sample, answer in zip(samples, answers, strict=True):
            km = great_circle_km(*_arrays(sample.lng, sample.lat, answer["lon"], answer["lat"]))
            located.append(LocatedSample(sample, answer, float(km[0])))
    return located


def bundled_samples() -> list[Sample]:
    """Return the eight pictures that come with the package."""
    folder = Path(str(resources.files("indexer.builtin").joinpath("samples")))
    entries = json.loads((folder / "samples.json").read_text())
    return [Sample(folder / e["file"], e["lon"], e["lat"]) for e in entries]


def show(samples: list[LocatedSample]) -> None:
    """Print a table to standard output: picture, true place, answer, error, confidence per zoom."""
    zooms = samples[0].answer["index"]["zooms"]
    table = Table("picture", "true place", "answer", "error km", *(f"zoom {z}" for z in zooms), box=None)
    for located in samples:
        confidences = {level["zoom"]: f"{level['confidence']:.0%}" for level in located.answer["levels"]}
        table.add_row(
            located.sample.path.name,
            _place(located.sample.lat, located.sample.lng),
            _place(located.answer["lat"], located.answer["lon"]),
            f"{located.error_km:.0f}",
            *(confidences.get(z, "-") for z in zooms),
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def say(text: str) -> None:
    """Print a line for people to standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the program."""
    # OpenMP's threads spin while they wait, unless its library finds this when it is loaded. Beside anything else that
    # computes, such as a decoder, a spinning thread keeps the one that it waits for from its core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    service.standard_streams.run(app)


def _place(lat: float, lng: float) -> str:
    return f"{abs(lat):.2f} {'N' if lat >= 0 else 'S'} {abs(lng):.2f} {'E' if lng >= 0 else 'W'}"


def _arrays(*values: float) -> list[Any]:
    import numpy as np

    return [np.array([v]) for v in values]


service.cli.register(app)
service.register_cli.register(app)

if __name__ == "__main__":
    main()
