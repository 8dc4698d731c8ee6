"""Footprints and control points of registered pictures as files, and the options that `locate` and `register` share.

It takes registrations as the HTTP contract's objects, so that `tilebeam locate --url` needs no engine.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.picture_files import printable
from retrieval.registration.gis import footprint_feature, gdal_options, holds_pole, qgis_points
from service.errors import LocalFileError

__all__ = ["Footprint", "Gcps", "Heading", "RegistrationFiles", "WidthKm"]

WidthKm = Annotated[
    float | None,
    typer.Option(min=1, help="Width of the picture on the ground, within 10%.", show_default="120 to 3,000"),
]
Heading = Annotated[
    float | None,
    typer.Option(
        min=-360, max=360, help="Compass direction of the picture's top, within 15 degrees.", show_default="any"
    ),
]
Footprint = Annotated[Path | None, typer.Option(help="Write the outlines here, as GeoJSON.", show_default=False)]
Gcps = Annotated[
    Path | None,
    typer.Option(
        help="Write control points here: FILE.points for QGIS, FILE.txt for GDAL's --optfile; a folder for several "
        "pictures.",
        show_default=False,
    ),
]


class RegistrationFiles:
    """The file of outlines, and the file or folder of control points; None for those that nobody wants.

    Raises typer.BadParameter for a path that cannot be written.
    """

    def __init__(self, footprint: Path | None, gcps: Path | None) -> None:
        self._footprint, self._gcps = footprint, gcps
        self._features: list[dict[str, Any]] = []
        for path, option in ((footprint, "--footprint"), (gcps, "--gcps")):
            _check_folder(path, option)

    def check(self, photos: list[Path]) -> None:
        """Raise typer.BadParameter if the control points of these pictures would get the same name."""
        gcps = self._gcps
        if gcps is None:
            return
        if gcps.is_dir():
            names = Counter(photo.name for photo in photos)
            if twice := [name for name, count in names.items() if count > 1]:
                raise typer.BadParameter(
                    f"several pictures are named {printable(twice[0])}; register them one by one", param_hint="--gcps"
                )
        elif len(photos) > 1:
            raise typer.BadParameter(
                f"{printable(gcps)} is not a folder, which {len(photos)} pictures need; make it first",
                param_hint="--gcps",
            )
        elif gcps.suffix not in (".points", ".txt"):
            raise typer.BadParameter(
                f"{printable(gcps)}: name a .points file for QGIS, a .txt file for GDAL, or a folder",
                param_hint="--gcps",
            )

    def add(self, photo: Path, registration: Mapping[str, Any] | None) -> None:
        """Write the control points of an accepted registration, and remember its outline. Raises LocalFileError."""
        if registration is None or not registration["accepted"]:
            return
        self._features.append(footprint_feature(printable(photo), registration))
        if self._gcps is None:
            return
        if holds_pole(registration):
            text = f"tilebeam: {printable(photo)}: no control points are written: a pole lies in the picture"
            typer.echo(text, err=True)
            return
        path = self._gcps / f"{photo.name}.points" if self._gcps.is_dir() else self._gcps
        _write(path, (gdal_options if path.suffix == ".txt" else qgis_points)(registration))

    def finish(self) -> None:
        """Write the outlines. Raises LocalFileError."""
        if self._footprint is not None:
            _write(self._footprint, json.dumps({"type": "FeatureCollection", "features": self._features}) + "\n")


def _check_folder(path: Path | None, option: str) -> None:
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"{printable(path)}: there is no folder {printable(path.parent)}", param_hint=option)
    if path is not None and option == "--footprint" and path.is_dir():
        raise typer.BadParameter(f"{printable(path)} is a folder; name a file, such as a.geojson", param_hint=option)


def _write(path: Path, text: str) -> None:
    """Raises LocalFileError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise LocalFileError(f"{printable(path)} cannot be written ({exc.strerror}); give another path") from exc
