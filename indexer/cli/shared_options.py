"""Options that several commands share, and the values that they stand for. Loads no heavy library."""

from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.build.area import Area
from indexer.cli.options import Fields, flag
from indexer.photos.read import ReadOptions
from tile_cache.fetch.settings import ABSENT_STATUSES, CONTACT_VARIABLE, FetchSettings
from tile_cache.repeats import absent_images

__all__ = [
    "ALLOW_DOWNLOAD",
    "FETCHING",
    "PHOTOS_PANEL",
    "ZOOMS",
    "AsJson",
    "Bbox",
    "Bootstrap",
    "Device",
    "GeoJson",
    "Land",
    "Overlay",
    "Photo",
    "Reading",
    "Split",
    "World",
    "area_from_options",
    "area_of",
    "fetching",
    "zooms_of",
]

Overlay = Annotated[str | None, typer.Option(help="A second source, composited on top: labels, borders.")]
World = Annotated[bool, typer.Option("--world", help="Every tile.")]
Bbox = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(help="Degrees; W > E crosses the date line.", metavar="W S E N"),
]
GeoJson = Annotated[Path | None, typer.Option("--geojson", help="Polygons, as a GeoJSON file.")]
Land = Annotated[
    float | None, typer.Option(help="Least share of land in a tile; default 0.01 where the source knows land. 0: all.")
]
Photo = Annotated[str, typer.Option("--photo-encoder", help="builtin, MODEL:TAG, MODEL:FILE, hf-hub:NAME or a folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

ALLOW_DOWNLOAD = flag("--allow-download", envvar="TILEBEAM_ALLOW_DOWNLOAD")
"""The option of a request's `allow_download` field."""
PHOTOS_PANEL = "Photos"

Reading = Annotated[
    ReadOptions,
    Fields("layout", "images", "path_column", "latitude_column", "longitude_column", panel=PHOTOS_PANEL),
]
"""The options of a request's `reading` field."""


def _of_photos(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=PHOTOS_PANEL, **more)


Split = Annotated[
    str | None,
    _of_photos("The split to use, if the photos have splits; by default validation for calibrate, test for evaluate."),
]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples for the 95% intervals; 0: none.")]


def zooms_of(text: str) -> tuple[int, ...]:
    """`4,6,8` as numbers."""
    try:
        return tuple(int(zoom) for zoom in text.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"zooms {text!r} are not whole numbers with commas, such as 4,6,8") from exc


ZOOMS = flag(parser=zooms_of, metavar="4,6,8")


def area_from_options(world: World = False, *, area: Annotated[Area, Fields(bbox=flag(metavar="W S E N"))]) -> Area:
    """The area that --world, --bbox or --geojson give; exactly one of them is required."""
    if (int(world) + (area.bbox is not None) + (area.geojson is not None)) != 1:
        raise typer.BadParameter("give exactly one of --world, --bbox W S E N and --geojson FILE")
    return area


def fetching(*more: str) -> Any:
    """Fetch settings from --rate, --concurrency, --contact, --absent, --absent-image and `more` fields."""
    return Annotated[
        FetchSettings,
        Fields(
            "rate_per_s",
            "concurrency",
            "contact",
            "absent_statuses",
            "absent_images",
            *more,
            rate_per_s=flag("--rate"),
            contact=flag(parser=str.strip, envvar=CONTACT_VARIABLE),
            absent_statuses=flag(
                "--absent",
                parser=lambda statuses: ABSENT_STATUSES | {int(status) for status in statuses},
                kind=list[int],
                metavar="STATUS",
                help="An HTTP status that means that there is no such tile, beside 204, 404 and 410; S3 without list"
                " rights uses 403. May be repeated.",
            ),
            absent_images=flag(
                "--absent-image",
                parser=absent_images,
                kind=list[str],
                metavar="FILE|SHA256",
                help="A picture that means that there is no data: a file, or the SHA-256 of its bytes. Its tiles count"
                " as tiles without imagery. May be repeated.",
            ),
        ),
    ]


FETCHING = fetching()


def area_of(
    world: bool,
    bbox: tuple[float, float, float, float] | None,
    geojson: Path | None,
    deep_geojson: Path | None,
    land: float | None,
) -> Area:
    """The area that --world, --bbox or --geojson give; exactly one of them is required."""
    if (int(world) + (bbox is not None) + (geojson is not None)) != 1:
        raise typer.BadParameter("give exactly one of --world, --bbox W S E N and --geojson FILE")
    return Area(bbox, geojson, deep_geojson, land)
