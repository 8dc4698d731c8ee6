"""The front door: `tilebeam`, one program that mounts the commands of all packages, and the demonstration.

Heavy libraries are imported inside the commands that need them: `tilebeam locate --url` runs without torch.
"""

import json
import os
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_group

import service.cli

GOOD_KM = 300.0
"""A sample counts as found when it is answered within this distance."""
OFFLINE = ("plan", "fetch", "index", "inspect", "train", "calibrate", "evaluate", "geocells", "prior")
"""Commands that a client's install lacks."""
NEEDED = 6
"""Samples that must be found for `demo --check` to pass, of eight."""


class Commands(TyperGroup):
    """The program's commands; the offline ones, whose packages take a second to import, are mounted when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for the help."""
        self._mount()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; one that needs packages that are not installed ends with how to install them."""
        if cmd_name not in self.commands:
            self._mount()
            if cmd_name not in self.commands and cmd_name in OFFLINE:
                say(f"tilebeam: `{cmd_name}` needs the engine: pip install 'tilebeam[all]'")
                raise typer.Exit(1)
        return super().get_command(ctx, cmd_name)

    def _mount(self) -> None:
        try:
            import indexer.cli.build
            import indexer.cli.calibrate
            import indexer.cli.evaluate
            import indexer.cli.geocells
            import indexer.cli.prior
            import indexer.cli.train
        except ModuleNotFoundError as exc:
            if exc.name and exc.name.partition(".")[0] in ("indexer", "tile_cache", "service"):
                raise
            return  # a client's install: no NumPy, no mercantile
        offline = typer.Typer()
        calibration, evaluation = indexer.cli.calibrate, indexer.cli.evaluate
        priors = (indexer.cli.geocells, indexer.cli.prior)
        for part in (indexer.cli.build, indexer.cli.train, calibration, evaluation, *priors):
            part.register(offline)
        self.commands.update(get_group(offline).commands)


app = typer.Typer(
    cls=Commands,
    name="tilebeam",
    help="Where was this picture taken? Tilebeam answers from maps, with a calibrated confidence for every zoom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Sample(NamedTuple):
    """A bundled picture and where its centre truly lies, in degrees."""

    path: Path
    lng: float
    lat: float


class Found(NamedTuple):
    """A sample with its answer (the HTTP contract's object) and how far that is off."""

    sample: Sample
    answer: dict[str, Any]
    error_km: float


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 8000,
    check: Annotated[bool, typer.Option("--check", help="Locate the samples, print the table, end.")] = False,
    index: Annotated[
        Path | None, typer.Option(help="Where the built-in index lies or goes.", show_default="your cache folder")
    ] = None,
) -> None:
    """The built-in Earth: build its index if it is missing, locate the bundled samples, serve on 127.0.0.1."""
    where = index or builtin_index()
    build_builtin(where)
    found = locate_samples(where)
    show(found)
    good = sum(f.error_km <= GOOD_KM for f in found)
    say(f"{good} of {len(found)} samples within {GOOD_KM:g} km; {NEEDED} are needed.")
    if check:
        raise typer.Exit(0 if good >= NEEDED else 1)
    say(f"\nTry: curl -F image=@{found[0].sample.path} http://127.0.0.1:{port or 8000}/locate\n")
    service.cli.serve(index=where, port=port)


def builtin_index() -> Path:
    """Where this version's built-in index lies: the user's cache folder (XDG_CACHE_HOME or ~/.cache)."""
    try:
        ids = [_builtin_json("photo.json")["fingerprint"], _builtin_json("calibration.json")["id"]]
    except (OSError, ValueError, KeyError) as exc:
        say(f"tilebeam: the built-in encoders are not there or damaged ({exc}): install tilebeam again")
        raise typer.Exit(1) from exc
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tilebeam" / f"builtin-earth-{ids[0][:12]}-{ids[1][:6]}"


def _builtin_json(name: str) -> Any:
    return json.loads(resources.files("indexer.builtin").joinpath(name).read_text())


def build_builtin(out: Path) -> None:
    """Index the built-in Earth at `out`, or find it there."""
    from indexer.build.report import report_in_words
    from indexer.cli.build import builtin_calibration
    from indexer.cli.terminal import Bars, ending_well

    with ending_well("the same command goes on from here"):
        from indexer.build.build import build_index
        from indexer.build.request import BuildRequest

        try:
            out.parent.mkdir(parents=True, exist_ok=True)  # the cache folder: nobody's to make but ours
        except OSError as exc:
            say(f"tilebeam: the index cannot lie in {out.parent} ({exc.strerror}): give another --index")
            raise typer.Exit(1) from exc
        if not (out / "manifest.json").exists():
            say(f"Building the built-in Earth's index at {out}: about 15,700 tiles, a minute or so on two cores.")
        zooms, calibration = (4, 6, 8), builtin_calibration()
        with Bars() as bars:
            request = BuildRequest(source="bluemarble", out=out, zooms=zooms, calibration=calibration)
            report = build_index(request, on_progress=bars)
        if not report.already:
            say("\n".join(report_in_words(report)))


def locate_samples(index: Path) -> list[Found]:
    """Locate the bundled samples with the engine that the service uses."""
    from indexer.cli.terminal import ending_well

    with ending_well("nothing was changed"):
        from indexer.evaluation.metrics import great_circle_km
        from retrieval.locator import Locator
        from retrieval.search.query import LocateQuery
        from service.client.files import locate_here

        samples, found = bundled_samples(), []
        answers = locate_here(Locator.open(index), [s.path for s in samples], LocateQuery())
        for sample, answer in zip(samples, answers, strict=True):
            km = great_circle_km(*_arrays(sample.lng, sample.lat, answer["lon"], answer["lat"]))
            found.append(Found(sample, answer, float(km[0])))
    return found


def bundled_samples() -> list[Sample]:
    """The eight pictures that come with the package."""
    folder = Path(str(resources.files("indexer.builtin").joinpath("samples")))
    entries = json.loads((folder / "samples.json").read_text())
    return [Sample(folder / e["file"], e["lon"], e["lat"]) for e in entries]


def show(found: list[Found]) -> None:
    """The table on standard output: picture, true place, answer, error, confidence per zoom."""
    zooms = found[0].answer["index"]["zooms"]
    table = Table("picture", "true place", "answer", "error km", *(f"zoom {z}" for z in zooms), box=None)
    for one in found:
        confidences = {level["zoom"]: f"{level['confidence']:.0%}" for level in one.answer["levels"]}
        table.add_row(
            one.sample.path.name,
            _place(one.sample.lat, one.sample.lng),
            _place(one.answer["lat"], one.answer["lon"]),
            f"{one.error_km:.0f}",
            *(confidences.get(z, "-") for z in zooms),
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the program."""
    app()


def _place(lat: float, lng: float) -> str:
    return f"{abs(lat):.2f} {'N' if lat >= 0 else 'S'} {abs(lng):.2f} {'E' if lng >= 0 else 'W'}"


def _arrays(*values: float) -> list[Any]:
    import numpy as np

    return [np.array([v]) for v in values]


service.cli.register(app)

if __name__ == "__main__":
    main()
