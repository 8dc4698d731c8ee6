"""The commands `sample-data photos` and `sample-data elsewhere`: parse, draw, print. Torch is imported inside them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.options import Fields, command
from indexer.cli.terminal import Bars, say
from indexer.progress import Progress
from indexer.sample_data.settings import Elsewhere, PhotoSet, TileFormat

__all__ = ["register"]

_RESUME = "run the same command again to continue"

Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Sheet = Annotated[Path | None, typer.Option(help="Also write a contact sheet to this PNG file.")]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    group = typer.Typer(help="Draw photos, tiles and pictures without an answer from the built-in Earth, as examples.")
    command(group, go_on=_RESUME)(photos)
    command(group, go_on=_RESUME)(elsewhere)
    app.add_typer(group, name="sample-data")


def photos(
    photo_set: Annotated[PhotoSet, Fields("count", "seed", "size", "style")],
    out: Out,
    folder_tiles: Annotated[bool, typer.Option(help="Also write the tiles and coverage.geojson.")] = True,
    tile_format: Annotated[TileFormat, typer.Option(help="png is exact and three times the size.")] = "jpg",
    sheet: Sheet = None,
) -> None:
    """Draw geotagged photos from above, photos.csv, and the tiles to find them on.

    Run the same command again to continue a killed run. Equal options give equal files on one machine.
    """
    with _drawing() as bars:
        from indexer.sample_data.photos import write_photos
        from indexer.sample_data.tiles import write_tiles

        _timed("photos", lambda: write_photos(photo_set, out, _bar(bars, "Drawing photos")))
        if folder_tiles:
            _timed("tiles", lambda: write_tiles(out, tile_format, _bar(bars, "Drawing tiles")))
        _write_sheet(out / "photos.csv", sheet)


def elsewhere(settings: Elsewhere, out: Out, sheet: Sheet = None) -> None:
    """Draw pictures of no place, maps of real places in foreign renditions, and elsewhere.csv.

    Run the same command again to continue a killed run. Equal options give equal files on one machine.
    """
    with _drawing() as bars:
        from indexer.sample_data.elsewhere import write_elsewhere

        _timed("elsewhere", lambda: write_elsewhere(settings, out, _bar(bars, "Drawing families")))
        _write_sheet(out / "elsewhere.csv", sheet)


@contextmanager
def _drawing() -> Iterator[Bars]:
    """Show progress bars while the block draws with one thread per process."""
    from indexer.sample_data.from_earth import limit_threads

    limit_threads()
    with Bars() as bars:
        yield bars


def _write_sheet(table: Path, sheet: Path | None) -> None:
    if sheet is not None:
        from indexer.sample_data.writing import contact_sheet

        contact_sheet(table, sheet)


def _bar(bars: Bars, text: str) -> Callable[[int, int], None]:
    return lambda done, total: bars(Progress("draw", text, done, total))


def _timed(name: str, draw: Callable[[], None]) -> None:
    start = time.perf_counter()
    draw()
    say(f"{name}: {time.perf_counter() - start:.0f} s")
