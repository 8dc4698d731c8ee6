"""The meaning of a table's columns: from names that the caller gives, common names, and layouts of known data sets.

The known data sets' tables (from public copies of their files and loaders, read in 2026):

- MP-16 (`mp16_places365.csv` of TIBHannover/GeoEstimation, 4.7 million photos): `IMG_ID,AUTHOR,LAT,LON,S3_Label,...`,
  IMG_ID as `34/8d/9055806529.jpg` below one folder. MP16-Pro's copies name the file `34_8d_9055806529.jpg`.
- IM2GPS and IM2GPS3k (`im2gps_places365.csv`, `im2gps3k_places365.csv`): the same columns, IMG_ID a bare file name as
  `104123223_7410c654ba_19_19355699@N00.jpg`; loaders look in `images/`, `img/` or `im2gps3ktest/`. One published
  version of the IM2GPS3k table has LON and LAT swapped in its header: `read` refuses it with an explanation.
- YFCC4k: `yfcc4k_places365.csv` by loaders with IMG_ID, LAT and LON; or `yfcc4k.txt`, 25 tab-separated columns of
  YFCC100M without a header, of which one loader reads photo id, longitude and latitude as columns 2, 13 and 14 and
  pictures as `<photo id>.jpg`. Neither file itself was available.
- exiftool (`exiftool -csv -gps* FOLDER`): `SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,...`, numbers as
  `24 deg 40' 39.00" N` or, with -n, as signed degrees; with -G as `EXIF:GPSLatitude`, which has no sign, and as
  `Composite:GPSLatitude`, which has one.
- OSV-5M (`train.csv`, `test.csv`): `id,latitude,longitude,...`; the pictures are `<id>.jpg` in `images/train/00/` to
  `images/test/04/` as unpacked from the archives, or in one folder per split in the authors' own loader.

For this reason pictures are looked up by name, wherever they lie below the images folder (`files.Finder`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.errors import PhotoSetError

__all__ = ["LAYOUTS", "YFCC_COLUMNS", "Columns", "is_yfcc", "recognise"]

_PATHS = (
    *("path", "sourcefile", "source_file", "image_path", "img_path", "file_path", "filepath", "photo_path", "image"),
    *("img", "file", "filename", "file_name", "image_name", "image_file", "img_name", "photo", "picture", "name"),
)
_LATITUDES = ("latitude", "lat", "gps_latitude", "gpslatitude", "latitude_deg")
_LONGITUDES = ("longitude", "lon", "lng", "long", "gps_longitude", "gpslongitude", "longitude_deg")

_LATITUDE_SIDES = ("gpslatituderef", "gps_latitude_ref", "latitude_ref", "lat_ref")
_LONGITUDE_SIDES = ("gpslongituderef", "gps_longitude_ref", "longitude_ref", "lon_ref", "lng_ref")
_UNSIGNED = ("exif:", "gps:")
"""Groups whose coordinates lack the hemisphere, which stands in a column of its own."""
_GROUPS = ("exif:", "gps:", "composite:", "xmp:", "xmp-exif:", "file:", "system:")
"""Groups that `exiftool -G` writes before the names of its columns."""

LAYOUTS: dict[str, tuple[str, ...]] = {
    "table": (),
    "mp16": ("img_id",),
    "osv5m": ("id",),
    "im2gps": ("img_id",),
    "im2gps3k": ("img_id", "name"),
    "yfcc4k": ("img_id", "photo_id"),
}
"""The columns of each layout that hold ids, which are looked up by name below the images folder."""

YFCC_COLUMNS = tuple({1: "photo_id", 12: "longitude", 13: "latitude"}.get(i, f"column_{i + 1}") for i in range(25))


@dataclass(frozen=True)
class Columns:
    """Positions in the table's header; None if the table has no such column. `by_stem`: the column `path` holds ids."""

    path: int
    by_stem: bool
    latitude: int | None
    longitude: int | None
    name: int | None
    split: int | None
    family: int | None
    latitude_side: int | None = None
    longitude_side: int | None = None

    def used(self) -> tuple[int | None, ...]:
        """All positions in a fixed order: path, latitude, longitude, name, split, family, and the hemispheres."""
        sides = self.latitude_side, self.longitude_side
        return self.path, self.latitude, self.longitude, self.name, self.split, self.family, *sides


def recognise(
    header: Sequence[str],
    layout: str,
    *,
    path: str | None = None,
    latitude: str | None = None,
    longitude: str | None = None,
    need_place: bool = True,
) -> Columns:
    """The positions of a table's columns. `layout`: a key of LAYOUTS, or `auto`.

    `path`, `latitude` and `longitude` name a column; None: recognise it. Raises PhotoSetError, which lists the table's
    columns and the option to give, if a column is missing.
    """
    picture, by_stem = _picture_column(header, layout, path)
    if picture is None:
        raise _missing(header, "names the pictures", "path", _PATHS)
    place = (
        _coordinate(header, latitude, _LATITUDES, "latitude"), _coordinate(header, longitude, _LONGITUDES, "longitude")
    )  # fmt: skip
    if place[0] is None and (need_place or place[1] is not None):
        raise _missing(header, "holds latitudes", "latitude", _LATITUDES)
    if place[1] is None and place[0] is not None:
        raise _missing(header, "holds longitudes", "longitude", _LONGITUDES)
    name = _first(header, ("name",))
    sides = _first(header, _LATITUDE_SIDES), _first(header, _LONGITUDE_SIDES)
    for position, side, ref in zip(place, sides, ("GPSLatitudeRef", "GPSLongitudeRef"), strict=True):
        if position is not None and side is None and header[position].strip().lower().startswith(_UNSIGNED):
            raise PhotoSetError(
                f"column {header[position]!r} has no hemisphere, so places of the south and west would be misplaced:"
                f" write {ref} too, or the Composite group, as `exiftool -csv -n -Composite:GPS*` does"
            )
    return Columns(
        path=picture,
        by_stem=by_stem,
        latitude=place[0],
        longitude=place[1],
        name=None if name == picture or by_stem else name,
        split=_first(header, ("split",)),
        family=_first(header, ("family",)),
        latitude_side=None if place[0] is None else sides[0],
        longitude_side=None if place[1] is None else sides[1],
    )


def is_yfcc(first_row: Sequence[str]) -> bool:
    """Whether a table's first row is a data row of YFCC100M's own files, which have no header."""
    try:
        return len(first_row) == len(YFCC_COLUMNS) and bool(first_row[1]) and -90 <= float(first_row[13]) <= 90
    except ValueError:
        return False


def _picture_column(header: Sequence[str], layout: str, name: str | None) -> tuple[int | None, bool]:
    """The column of paths or ids, and whether it holds ids."""
    ids = {id_column for columns in LAYOUTS.values() for id_column in columns} - set(_PATHS)
    known = sorted(ids) if layout == "auto" else LAYOUTS[layout]
    if name is not None:
        return _find(header, name, (), "path"), layout in LAYOUTS and bool(known)
    by_path, by_id = _first(header, _PATHS), _first(header, known)
    if layout == "auto":
        return (by_id, True) if by_path is None else (by_path, False)
    return (by_path, bool(known)) if by_id is None else (by_id, True)


def _coordinate(header: Sequence[str], name: str | None, usual: Sequence[str], option: str) -> int | None:
    """The column of latitudes or longitudes. Raises PhotoSetError where several would do: their values may differ."""
    position = _find(header, name, usual, option)
    if position is None:
        return None
    alike = [i for i, column in enumerate(header) if _plain(column) in usual]
    if name is not None:
        alike = [i for i, column in enumerate(header) if column == header[position]]
    elif composite := [i for i in alike if header[i].strip().lower().startswith("composite:")]:
        alike = composite
    if len(alike) > 1:
        columns = ", ".join(repr(header[i][:40]) for i in alike[:5])
        raise PhotoSetError(
            f"several columns may hold {option}s: {columns}; give --{option}-column, or rename all but one"
        )
    return alike[0] if alike else position


def _find(header: Sequence[str], name: str | None, usual: Sequence[str], option: str) -> int | None:
    if name is None:
        return _first(header, usual)
    if name in header:
        return header.index(name)
    position = _first(header, (_plain(name),))
    if position is None:
        raise PhotoSetError(f"--{option}-column {name!r} is not in the table; its columns are {_listed(header)}")
    return position


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    """The position of the first of `names` that the header has."""
    plain = [_plain(column) for column in header]
    return next((plain.index(name) for name in names if name in plain), None)


def _plain(column: str) -> str:
    plain = column.strip().strip('"').lower()
    group = next((group for group in _GROUPS if plain.startswith(group)), "")
    return plain.removeprefix(group).replace(" ", "_").replace("-", "_")


def _missing(header: Sequence[str], role: str, option: str, usual: Sequence[str]) -> PhotoSetError:
    if option != "path" and _first(header, ("gpsposition", "gps_position")) is not None:
        return PhotoSetError(
            "the table's column GPSPosition holds latitude and longitude in one cell: write it with "
            "`exiftool -csv -n -GPSLatitude -GPSLongitude`"
        )
    return PhotoSetError(
        f"no column was recognised as the one that {role}: the table's columns are {_listed(header)}; "
        f"give --{option}-column, or rename the column to one of {', '.join(usual[:5])}"
    )


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(column[:40]) for column in header[:30])
    return shown + (f" and {len(header) - 30} more" if len(header) > 30 else "")
