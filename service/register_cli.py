"""The command `register`: parse, call, print. The engine is imported when it runs."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from retrieval.errors import NoReferenceError
from retrieval.picture_files import printable
from service.cli import errors_reported, files_of, open_locator, report
from service.registration_files import Footprint, Gcps, Heading, RegistrationFiles, WidthKm

if TYPE_CHECKING:  # the engine
    from retrieval.registration.registration import Registration
    from service.registering import Places, Registered

__all__ = ["register", "register_pictures"]

NOT_ACCEPTED = 3
"""Exit code where every file could be read, and at least one picture was not accepted."""
_NEAR_KM = 300.0
_COLUMNS = ("", "latitude", "longitude", "width km", "heading", "probability")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("register")(register_pictures)


def register_pictures(
    pictures: Annotated[
        list[Path], typer.Argument(help="Picture files, and folders of them.", metavar="PICTURE", show_default=False)
    ],
    near: Annotated[
        str | None,
        typer.Option(
            help="Search around this place only: degrees, and km around it.",
            metavar="LAT,LON[,KM]",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Search around what this index answers.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Compare with this z/x/y folder or .mbtiles file (with --index or --near).",
            show_default="the built-in Earth",
        ),
    ] = None,
    width_km: WidthKm = None,
    heading: Heading = None,
    footprint: Footprint = None,
    gcps: Gcps = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, in order.")] = False,
    deadline_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds a picture; what there is by then is judged.")
    ] = 300.0,
) -> None:
    """Find exactly where pictures from above lie, and how they are turned. Fetches nothing.

    Exit code 0 if all pictures were accepted, 3 if some were not, 1 if one could not be read.
    """
    place = None if near is None else _near(near)
    if place is not None and index is not None:
        raise typer.BadParameter("give --near or --index, not both", param_hint="--near / --index")
    if source is not None and place is None and index is None:
        raise typer.BadParameter(f"{source} can be searched only with --near or --index", param_hint="--source")
    files = RegistrationFiles(footprint, gcps)
    with errors_reported():
        photos = files_of(pictures)
        files.check(photos)
        outcomes = _outcomes(photos, place, index, source, width_km, heading, deadline_s)
        codes = [0]
        for outcome in outcomes:
            codes.append(_print(outcome, photos, as_json, deadline_s))
            files.add(outcome.path, outcome.to_json().get("registration"))
        files.finish()
    if any(codes):
        raise typer.Exit(1 if 1 in codes else NOT_ACCEPTED)


def _outcomes(
    photos: list[Path],
    place: tuple[float, float, float] | None,
    index: Path | None,
    source: str | None,
    width_km: float | None,
    heading: float | None,
    deadline_s: float,
) -> Iterator["Registered"]:
    from retrieval.index.manifest import Manifest
    from retrieval.registrar import reference_of
    from retrieval.registration.reference import BuiltinEarth
    from retrieval.registration.registration import Hints
    from service.registering import Anywhere, ByIndex, Near, Registered, register_files

    try:
        manifest = None if index is None else Manifest.read(index)
        reference = reference_of(manifest, source, str(index))
    except NoReferenceError as error:
        report(f"tilebeam: {error}")
        yield from (Registered(photo, untried=str(error)) for photo in photos)
        return
    places: Places
    if index is not None:
        directory = index
        places = ByIndex(lambda: open_locator(directory, "auto", allow_download=False))
    elif place is not None:
        places = Near(*place)
    else:
        assert isinstance(reference, BuiltinEarth)
        places = Anywhere(reference)
    hints = Hints(width_km=width_km, heading=heading)
    outcomes = register_files(photos, places, reference, hints, deadline_s)
    for number, photo in enumerate(photos):
        with _shown(f"registering {printable(photo)} ({number + 1} of {len(photos)})"):
            outcome = next(outcomes)
        yield outcome


@contextmanager
def _shown(text: str) -> Iterator[None]:
    """Show on a terminal what takes long."""
    if sys.stderr.isatty():
        with Console(stderr=True).status(text):
            yield
    else:
        yield


def _near(text: str) -> tuple[float, float, float]:
    """LAT,LON or LAT,LON,KM as latitude, longitude in degrees and km."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"{text!r} is not LAT,LON or LAT,LON,KM, such as 46.5,8.0,300", param_hint="--near")
    lat, lng, km = [*numbers, _NEAR_KM][:3]
    if not (-90 <= lat <= 90 and -180 <= lng <= 180):
        raise typer.BadParameter(
            f"{text!r}: latitudes are -90 to 90 and longitudes -180 to 180, latitude first", param_hint="--near"
        )
    if not 0 <= km <= 20_000:
        raise typer.BadParameter(f"{text!r}: {km:g} km is not 0 to 20,000 km", param_hint="--near")
    return lat, lng, km


def _print(outcome: "Registered", photos: list[Path], as_json: bool, deadline_s: float) -> int:
    """Print one outcome; returns what it makes of the exit code."""
    name, registration = printable(outcome.path), outcome.registration
    if as_json:
        sys.stdout.write(json.dumps({"name": name} | outcome.to_json(), allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        width = min(40, max(len(printable(photo)) for photo in photos))
        if outcome.path is photos[0]:
            typer.echo(_row("picture", _COLUMNS, width))
        typer.echo(_row(name, _cells(registration), width))
    if outcome.problem is not None:
        report(f"tilebeam: {name}: {outcome.problem['detail'].removeprefix(f'{name}: ')}")
    if registration is None:
        return 1
    if registration.reason is not None:
        report(f"tilebeam: {name}: {registration.reason}")
    if not registration.finished:
        report(f"tilebeam: {name}: stopped after {deadline_s:g} s, with places not searched; raise --deadline-s")
    return 0 if registration.accepted else NOT_ACCEPTED


def _row(name: str, cells: tuple[str, ...], width: int) -> str:
    verdict, *figures = cells
    return f"{name:<{width}}  {verdict:<14}" + "".join(f"{figure:>12}" for figure in figures)


def _cells(registration: "Registration | None") -> tuple[str, ...]:
    if registration is None or registration.frame is None:
        return ("not registered", *["-"] * 5)
    frame, width_km = registration.frame, registration.width_km or 0.0
    verdict = "accepted" if registration.accepted else "not accepted"
    figures = f"{frame.lat:.3f}", f"{frame.lng:.3f}", f"{width_km:,.0f}", f"{frame.heading:.1f}"
    return verdict, *figures, f"{registration.probability:.0%}"
