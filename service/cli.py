"""The commands `serve` and `locate`: parse, call, print. The engine is imported inside the commands that need it."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.errors import RetrievalError
from retrieval.search.options import Device, parse_bbox
from service.access.keys import add_key, remove_key
from service.errors import ServiceError
from service.serving import listen, remember_hangup, run
from tile_cache.errors import TileCacheError

if TYPE_CHECKING:
    from retrieval.locator import Locator

__all__ = ["keys", "locate", "register", "serve"]


class Scoring(StrEnum):
    """How tiles are ranked."""

    posterior = "posterior"
    paper = "paper"


def register(app: typer.Typer) -> None:
    """Add this package's commands to the front door."""
    app.command()(serve)
    app.command()(locate)
    app.add_typer(keys, name="key")


keys = typer.Typer(help="API keys of a service: make them, remove them.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Option("--file", help="The file of keys, TILEBEAM_KEYS_FILE.", show_default=False)]
KeyName = Annotated[str, typer.Option("--name", help="Who it is for; the audit says it.", show_default=False)]


@keys.command()
def new(
    file: KeyFile,
    name: KeyName,
    rate: Annotated[int, typer.Option(min=0, help="Images a minute; 0 is no limit.")] = 60,
    admin: Annotated[bool, typer.Option("--admin", help="May also load another index.")] = False,
) -> None:
    """Make a key and print it, once: the file keeps its hash alone."""
    with _reported():
        text = add_key(file, name, rate, admin)
        typer.echo(text)
        _say(f"tilebeam: {name!r} is in {file}; the key above is shown once. A running service reads it on SIGHUP.")


@keys.command()
def remove(file: KeyFile, name: KeyName) -> None:
    """Take a key out of the file."""
    with _reported():
        remove_key(file, name)
        _say(f"tilebeam: {name!r} is no longer in {file}. A running service lets it in until SIGHUP.")


def serve(
    index: Annotated[Path, typer.Option(help="The index directory to serve.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    scoring: Annotated[Scoring | None, typer.Option(help="How tiles are ranked.", show_default="posterior")] = None,
    device: Annotated[Device, typer.Option(help="Where encoder and beam run.")] = "auto",
    prior: Annotated[
        str | None,
        typer.Option(
            help="Asked unless a question names another: geoclip, ... or none.", show_default="the index's own"
        ),
    ] = None,
) -> None:
    """Serve an index over HTTP until interrupted."""
    remember_hangup()
    with _reported():
        from service.access.admission import check_exposure
        from service.ops.logs import configure
        from service.settings import Settings

        settings = Settings.from_env() if scoring is None else Settings.from_env(scoring=scoring.value)
        configure(settings.log_level)
        listener = listen(host, port)
        check_exposure(listener.getsockname()[0], settings)
        with _threads(settings.threads):
            from service.app import create_app
            from service.reload import reopening

            app = create_app(settings, _opened(index, device, prior), reopening(index, device, prior))
        bound = listener.getsockname()[1]
        _say(f"Tilebeam serves {index} at http://{host}:{bound} (for programs: /docs). Ctrl-C ends it.")
        run(app, listener, settings)


def locate(
    images: Annotated[list[Path], typer.Argument(help="Picture files.", show_default=False)],
    index: Annotated[Path | None, typer.Option(help="An index directory: locate here.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="A service's address: locate there.", show_default=False)] = None,
    k: Annotated[int, typer.Option(min=1, max=1024, help="Beam width: tiles kept per zoom.")] = 64,
    alternatives: Annotated[int, typer.Option(min=0, max=20, help="Other places wanted.")] = 0,
    bbox: Annotated[
        str | None, typer.Option(help="Only there: W,S,E,N in degrees.", metavar="W,S,E,N", show_default=False)
    ] = None,
    within: Annotated[
        Path | None, typer.Option(help="Only there: a file of a GeoJSON polygon.", show_default=False)
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="A prior of the index's to ask, or none.", show_default="the index's own")
    ] = None,
    method: Annotated[
        str, typer.Option(help="beam, or the name of a prior that is to answer alone (with --index).")
    ] = "beam",
    scoring: Annotated[
        Scoring | None, typer.Option(help="How tiles are ranked (with --index).", show_default="posterior")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where encoder and beam run (with --index).")] = "auto",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="TILEBEAM_API_KEY", help="A key that the service knows (with --url).", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, in order.")] = False,
) -> None:
    """Locate picture files, with an index here or a service there."""
    if (index is None) == (url is None):
        raise typer.BadParameter("give either --index DIR or --url URL", param_hint="--index / --url")
    if url is not None and scoring is not None:
        raise typer.BadParameter("the service decides it: `tilebeam serve --scoring`", param_hint="--scoring")
    if url is not None and method != "beam":
        raise typer.BadParameter("a service answers with its beam; ask an index", param_hint="--method")
    question: dict[str, Any] = {"k": k, "alternatives": alternatives, "bbox": _bbox(bbox), "prior": prior}
    question["within"] = None if within is None else _text(within)
    with _reported():
        if url is not None:
            outcomes = _there(url, api_key, images, question)
        else:
            assert index is not None
            question |= {"scoring": (scoring or Scoring.posterior).value}
            if method != "beam":
                question |= {"prior": method, "alone": True}
            outcomes = _here(index, images, question, device)
        failed = [_print(photo, outcome, as_json) for photo, outcome in zip(images, outcomes, strict=True)]
    if any(failed):
        raise typer.Exit(1)


_Box = tuple[float, float, float, float]


def _there(url: str, api_key: str | None, images: list[Path], question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from service.client.client import Client
    from service.client.files import locate_there

    with Client(url, api_key=api_key) as client:
        yield from locate_there(client, images, **question)


def _here(index: Path, images: list[Path], question: dict[str, Any], device: Device) -> Iterator[dict[str, Any]]:
    from retrieval.search.query import BBox, LocateQuery
    from service.client.files import locate_here

    box, within = question["bbox"], question["within"]
    if within is not None:
        from retrieval.geo.region import Region

        within = Region.of_geojson(within)
    query = LocateQuery(**question | {"bbox": None if box is None else BBox(*box), "within": within})
    yield from locate_here(_opened(index, device, query.prior, ()), images, query)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise typer.BadParameter(f"{path} cannot be read ({exc})", param_hint="--within") from exc


def _opened(index: Path, device: Device, prior: str | None = None, priors: tuple[str, ...] | None = None) -> "Locator":
    """`prior`: asked by default; `priors`: opened beside it, None all that the index has."""
    from retrieval.locator import Locator

    # In a thread that ends: OpenMP keeps threads for each that has used it, and those would be in the engine's way.
    with ThreadPoolExecutor(1) as passing:
        return passing.submit(Locator.open, index, device=device, prior=prior, priors=priors).result()


def _bbox(text: str | None) -> _Box | None:
    try:
        return None if text is None else parse_bbox(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--bbox") from exc


def _print(photo: Path, outcome: dict[str, Any], as_json: bool) -> bool:
    """Print one outcome; True if it is a failure."""
    problem = outcome.get("error")
    if as_json:
        sys.stdout.write(json.dumps(outcome, allow_nan=False) + "\n")
        sys.stdout.flush()
    elif problem is None:
        typer.echo(_sentence(photo, outcome))
    if problem is not None:
        _say(f"tilebeam: {photo}: {problem['detail']}")
    return problem is not None


def _sentence(photo: Path, answer: dict[str, Any]) -> str:
    radius = answer["radius_km"]["90"]
    within = "" if radius is None else f", 90% within {radius:,.0f} km"
    calibrated = "" if answer["calibrated"] else ", not calibrated"
    lines = [
        f"{photo}: {answer['lat']:.4f}, {answer['lon']:.4f}{within} "
        f"({answer['confidence']:.0%} for the tile of zoom {answer['zoom']}{calibrated})"
    ]
    lines += [f"    zoom {v['zoom']:>2}  {v['quadkey']:<16}  {v['confidence']:>4.0%}" for v in answer["levels"]]
    lines += [f"    or {v['lat']:.4f}, {v['lon']:.4f}  {v['confidence']:.0%}" for v in answer["alternatives"]]
    return "\n".join(lines)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch and FAISS, both on OpenMP, be loaded with `count` threads; 0 leaves them what OpenMP takes."""
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    yield
    if count and (torch := sys.modules.get("torch")):
        torch.set_num_threads(count)


@contextmanager
def _reported() -> Iterator[None]:
    """Errors of our trees as one line and exit code 1."""
    try:
        yield
    except (ServiceError, RetrievalError, TileCacheError) as error:
        _say(f"tilebeam: {error}")
        raise typer.Exit(1) from error


def _say(words: str) -> None:
    typer.echo(words, err=True)
