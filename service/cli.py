"""The commands `serve`, `locate` and `key`: parse, call, print.

Everything that needs more than the base install (torch, FAISS, the web framework) is imported inside the command that
needs it, so that `tilebeam locate --url` works and starts fast without it.
"""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.errors import RegionError, RetrievalError
from retrieval.picture_files import printable
from retrieval.search.options import DEFAULT_K, MAX_ALTERNATIVES, MAX_K, Device, Scoring, parse_bbox
from service.access.keys import add_key, remove_key
from service.errors import LocalFileError, ServiceError
from service.registration_files import Footprint, Gcps, Heading, RegistrationFiles, WidthKm
from service.serving import listen, remember_hangup, run
from tile_cache.errors import TileCacheError

if TYPE_CHECKING:  # the engine
    from retrieval.locator import Locator
    from retrieval.search.query import BBox


def register(app: typer.Typer) -> None:
    """Add this package's commands to `app`."""
    app.command()(serve)
    app.command()(locate)
    app.add_typer(keys, name="key")


keys = typer.Typer(help="API keys of a service: create and remove them.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Option("--file", help="The key file, TILEBEAM_KEYS_FILE.", show_default=False)]
KeyName = Annotated[str, typer.Option("--name", help="Name of the key, shown in the audit log.", show_default=False)]
ScoringOption = Annotated[Scoring | None, typer.Option(help="How tiles are ranked.", show_default="posterior")]
DeviceOption = Annotated[Device, typer.Option(help="Where the encoder and the search run.")]
AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download",
        envvar="TILEBEAM_ALLOW_DOWNLOAD",
        help="Fetch weights that the index or a prior names from a model hub.",
    ),
]
Prior = Annotated[
    str | None,
    typer.Option(help="Name of a prior (geoclip, density, ...), or none.", show_default="the index's default"),
]


@keys.command()
def new(
    file: KeyFile,
    name: KeyName,
    rate: Annotated[int, typer.Option(min=0, help="Images a minute; 0 is unlimited.")] = 60,
    admin: Annotated[bool, typer.Option("--admin", help="The key may also reload the index.")] = False,
) -> None:
    """Create a key and print it once; the file stores only its hash."""
    with errors_reported():
        text = add_key(file, name, rate, admin)
        try:
            typer.echo(text)
            sys.stdout.flush()
        except BaseException:  # nobody has seen the key
            remove_key(file, name)
            raise
        report(
            f"tilebeam: added {name!r} to {printable(file)}; the key is shown only once. Services read it on SIGHUP."
        )


@keys.command()
def remove(file: KeyFile, name: KeyName) -> None:
    """Remove a key from the file."""
    with errors_reported():
        remove_key(file, name)
        report(f"tilebeam: removed {name!r} from {printable(file)}. A running service accepts the key until SIGHUP.")


def serve(
    index: Annotated[Path, typer.Option(help="The index directory to serve.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free port.")] = 8000,
    scoring: ScoringOption = None,
    device: DeviceOption = "auto",
    prior: Prior = None,
    allow_download: AllowDownload = False,
) -> None:
    """Serve an index over HTTP until interrupted."""
    remember_hangup()
    with errors_reported():
        from service.access.addresses import is_loopback
        from service.access.admission import Admission, check_exposure
        from service.ops.logs import capture_everything, configure, say_started
        from service.settings import Settings

        chosen: dict[str, Any] = {} if scoring is None else {"scoring": scoring}
        settings = Settings.from_env(**chosen, allow_download=allow_download)
        configure(settings.log_level)
        listener = listen(host, port)
        address = listener.getsockname()[0]
        check_exposure(address, settings)
        Admission(settings)  # a key file that cannot be used is reported before the index is opened, which takes long
        with _threads(settings.threads):
            from service.app import create_app
            from service.reload import reopening

            locator = open_locator(index, device, prior, allow_download=settings.allow_download)
            again = reopening(index, device, prior, allow_download=settings.allow_download)
            app = create_app(settings, locator, again)
        served = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        capture_everything()
        say_started(
            f"Tilebeam serves {printable(index)} at {served} (API: /docs). Ctrl-C stops it.",
            audit_is_kept=bool(settings.audit_file) or is_loopback(address),
        )
        run(app, listener, settings)


def locate(
    images: Annotated[
        list[Path], typer.Argument(help="Picture files, and folders of them.", metavar="PATH", show_default=False)
    ],
    index: Annotated[Path | None, typer.Option(help="Locate with this index directory.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="Locate with the service at this URL.", show_default=False)] = None,
    k: Annotated[int, typer.Option(min=1, max=MAX_K, help="Beam width: tiles kept per zoom.")] = DEFAULT_K,
    alternatives: Annotated[int, typer.Option(min=0, max=MAX_ALTERNATIVES, help="Other places to return.")] = 0,
    bbox: Annotated[
        str | None,
        typer.Option(
            help="Search only this box, in degrees: W,S,E,N or W S E N.", metavar="W,S,E,N", show_default=False
        ),
    ] = None,
    within: Annotated[
        Path | None, typer.Option(help="Search only this region: a GeoJSON file.", show_default=False)
    ] = None,
    prior: Prior = None,
    method: Annotated[
        str, typer.Option(help="beam, or the name of a prior whose own answer is returned (with --index).")
    ] = "beam",
    scoring: ScoringOption = None,
    device: DeviceOption = "auto",
    allow_download: AllowDownload = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="TILEBEAM_API_KEY", help="API key of the service (with --url).", show_default=False),
    ] = None,
    register: Annotated[
        bool | None,
        typer.Option(
            "--register/--no-register",
            help="Find exactly where pictures from above lie, in any case or never.",
            show_default="where the index can",
        ),
    ] = None,
    width_km: WidthKm = None,
    heading: Heading = None,
    footprint: Footprint = None,
    gcps: Gcps = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, in order.")] = False,
) -> None:
    """Locate picture files, with an index or with a running service."""
    if (index is None) == (url is None):
        raise typer.BadParameter("give either --index DIR or --url URL", param_hint="--index / --url")
    if url is not None and scoring is not None:
        raise typer.BadParameter("is a setting of the service: `tilebeam serve --scoring`", param_hint="--scoring")
    if url is not None and method != "beam":
        raise typer.BadParameter("needs --index; a service always searches", param_hint="--method")
    if register is False and (unused := _given(width_km=width_km, heading=heading, footprint=footprint, gcps=gcps)):
        raise typer.BadParameter(f"registers nothing, but {unused} is given", param_hint="--no-register")
    options: dict[str, Any] = {"k": k, "alternatives": alternatives, "bbox": _bbox(bbox), "prior": prior}
    options |= {"register": {None: "auto", True: "on", False: "off"}[register]}
    options |= {"width_km": width_km, "heading": heading}
    files = RegistrationFiles(footprint, gcps)
    with errors_reported():
        options["within"] = None if within is None else _region(within, by_service=url is not None)
        photos = files_of(images)
        files.check(photos)
        if url is not None:
            outcomes = _locate_by_service(url, api_key, photos, options)
        else:
            assert index is not None
            options |= {"scoring": scoring or "posterior", "bbox": _checked_box(options["bbox"])}
            if method != "beam":
                options |= {"prior": method, "prior_only": True}
            outcomes = _locate_by_index(index, photos, options, device, allow_download)
        failed = []
        for photo, outcome in zip(photos, outcomes, strict=True):
            failed.append(_print(photo, outcome, as_json))
            files.add(photo, outcome.get("registration"))
        files.finish()
    if any(failed):
        raise typer.Exit(1)


def _given(**options: object) -> str:
    """The names of the options that have a value, as they are written."""
    return " and ".join(f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None)


def _locate_by_service(
    url: str, api_key: str | None, images: list[Path], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    from service.client.client import Client
    from service.client.files import locate_there

    with Client(url, api_key=api_key) as client:
        yield from locate_there(client, images, **options)


def _locate_by_index(
    index: Path, images: list[Path], options: dict[str, Any], device: Device, allow_download: bool
) -> Iterator[dict[str, Any]]:
    from retrieval.search.query import LocateQuery
    from service.client.files import locate_here

    query = LocateQuery(**options)

    def opened() -> "Locator":
        return open_locator(index, device, query.prior, (), allow_download=allow_download)

    yield from locate_here(opened, images, query)


def files_of(paths: list[Path]) -> list[Path]:
    """The files, with the pictures below a folder in its place. Raises LocalFileError for a folder without any."""
    from service.client.photos import pictures_below

    files = []
    for path in paths:
        below = pictures_below(path) if path.is_dir() else [path]
        if not below:
            raise LocalFileError(f"{printable(path)}: no picture lies below this folder (recognised by suffix)")
        files += below
    return files


def _region(path: Path, *, by_service: bool) -> Any:
    """The region of --within: its path for a service's client, a Region for an index."""
    try:
        path.open("rb").close()
    except OSError as exc:
        raise typer.BadParameter(f"{printable(path)} cannot be read ({exc.strerror})", param_hint="--within") from exc
    if by_service:
        return path
    from retrieval.geo.region import Region

    try:
        return Region.from_file(path)
    except RegionError as exc:
        raise typer.BadParameter(str(exc), param_hint="--within") from exc


def open_locator(
    index: Path,
    device: Device,
    prior: str | None = None,
    priors: tuple[str, ...] | None = None,
    *,
    allow_download: bool,
) -> "Locator":
    """Open an index. `prior`: the default prior; `priors`: other priors to open, None for all of the index."""
    from retrieval.locator import Locator

    # In a thread that ends: OpenMP keeps a pool for each thread that used it, which would slow down the engine.
    with ThreadPoolExecutor(1) as executor:
        opening = executor.submit(
            Locator.open, index, device=device, prior=prior, priors=priors, allow_download=allow_download
        )
        return opening.result()


def _bbox(text: str | None) -> tuple[float, float, float, float] | None:
    """The box of --bbox; its ranges are checked by `BBox` here, or by the service."""
    try:
        return None if text is None else parse_bbox(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--bbox") from exc


def _checked_box(edges: tuple[float, float, float, float] | None) -> "BBox | None":
    from retrieval.search.query import BBox

    try:
        return None if edges is None else BBox(*edges)
    except RegionError as exc:
        raise typer.BadParameter(str(exc), param_hint="--bbox") from exc


def _print(photo: Path, outcome: dict[str, Any], as_json: bool) -> bool:
    """Print one outcome; returns whether it is a failure."""
    problem = outcome.get("error")
    if as_json:
        sys.stdout.write(json.dumps(outcome, allow_nan=False) + "\n")
        sys.stdout.flush()
    elif problem is None:
        typer.echo(_sentence(photo, outcome))
    name = printable(photo)
    if problem is not None:
        detail = problem["detail"]
        if problem["status"] == 401:
            detail += "; here by --api-key KEY or TILEBEAM_API_KEY"
        report(f"tilebeam: {detail}" if detail.startswith(f"{name}: ") else f"tilebeam: {name}: {detail}")
    for note in outcome.get("notes", ()):
        report(f"tilebeam: {name}: {note}")
    return problem is not None


def _sentence(photo: Path, answer: dict[str, Any]) -> str:
    name, outcome = printable(photo), answer.get("outcome", "located")  # an older service has none
    if outcome == "elsewhere" and _is_from_above(answer):
        registration = answer.get("registration") or {}
        if registration.get("probability", 0.0) > 0.5:  # of a place that is not covered
            return f"{name}: None of the indexed tiles shows this place: {registration['reason']}"
        return (
            f"{name}: This does not look like a picture of the Earth from above; the index cannot place it "
            f"({_percent(answer['elsewhere'])} elsewhere)"
        )
    radius = answer["radius_km"]["90"]
    guess = "" if outcome == "located" else f"{outcome}, perhaps "
    radius_text = "" if radius is None else f", 90% within {radius:,.0f} km"
    calibrated = "" if answer["calibrated"] else ", not calibrated"
    lines = [
        f"{name}: {guess}{answer['lat']:.4f}, {answer['lon']:.4f}{radius_text} "
        f"({_percent(answer['confidence'])} for the tile of zoom {answer['zoom']}{calibrated})"
    ]
    lines += _registered(answer)
    if answer["elsewhere"] > 0.5:
        lines.append(f"    probably none of the indexed tiles ({_percent(answer['elsewhere'])}); the best one is given")
    lines += [f"    zoom {v['zoom']:>2}  {v['quadkey']:<16}  {_percent(v['confidence']):>4}" for v in answer["levels"]]
    lines += [f"    or {v['lat']:.4f}, {v['lon']:.4f}  {_percent(v['confidence'])}" for v in answer["alternatives"]]
    return "\n".join(lines)


def _is_from_above(answer: dict[str, Any]) -> bool:
    return bool(answer.get("index", {}).get("pictures") == "above")


def _registered(answer: dict[str, Any]) -> list[str]:
    """What registration found, as lines; none where nobody expects it."""
    registration, reason = answer.get("registration"), answer.get("registration_reason")
    if registration is None:
        return [f"    not registered: {reason}"] if reason and _is_from_above(answer) else []
    if not registration["accepted"]:
        return [f"    not registered: {registration['reason']}"]
    width_km, heading = registration["width_km"], registration["heading_deg"]
    sure = _percent(registration["probability"])
    return [f"    registered: {width_km:,.0f} km wide, top towards {heading:.1f} degrees ({sure})"]


def _percent(share: float) -> str:
    """In whole percent; 0% and 100% stand only for exactly these shares."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 < share < 1 else f"{share:.0%}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Load PyTorch and FAISS, which both use OpenMP, with `count` threads; 0 leaves OpenMP's default."""
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    yield
    if count and (torch := sys.modules.get("torch")):
        torch.set_num_threads(count)


@contextmanager
def errors_reported() -> Iterator[None]:
    """Print errors of Tilebeam's packages as one line and exit with code 1."""
    try:
        yield
    except (ServiceError, RetrievalError, TileCacheError) as error:
        report(f"tilebeam: {error}")
        raise typer.Exit(1) from error


def report(text: str) -> None:
    typer.echo(text, err=True)
