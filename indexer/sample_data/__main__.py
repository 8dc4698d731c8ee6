"""Photo sets, a tile folder and pictures without an answer, made from what dependencies install.

    python -m indexer.sample_data photos --out DIR            12,000 photos, photos.csv, tiles/, coverage.geojson
    python -m indexer.sample_data elsewhere --out DIR         pictures of no place, foreign maps, elsewhere.csv

A killed run goes on where it was. The same arguments give the same files on one machine.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer

from indexer.cli.terminal import Bars, ending_well, say
from indexer.progress import Progress
from indexer.sample_data.elsewhere import Elsewhere, write_elsewhere
from indexer.sample_data.photos import STYLES, PhotoSet, write_photos
from indexer.sample_data.sheet import contact_sheet
from indexer.sample_data.tiles import FORMATS, write_tiles


def main() -> None:
    """Parse and make."""
    arguments = _parser().parse_args()
    torch.set_num_threads(2)
    try:
        with ending_well("the same command goes on"), Bars() as bars:
            arguments.make(arguments, bars)
    except typer.Exit as end:
        sys.exit(end.exit_code)


def make_photos(arguments: argparse.Namespace, bars: Bars) -> None:
    """The photos and, unless left out, the tiles."""
    chosen = PhotoSet(arguments.count, arguments.seed, arguments.size, arguments.style)
    _timed("photos", lambda: write_photos(chosen, arguments.out, _bar(bars, "Drawing photos")))
    if arguments.folder_tiles:
        _timed("tiles", lambda: write_tiles(arguments.out, arguments.tile_format, _bar(bars, "Drawing tiles")))
    if arguments.sheet:
        contact_sheet(arguments.out / "photos.csv", arguments.sheet)


def make_elsewhere(arguments: argparse.Namespace, bars: Bars) -> None:
    """Pictures without an answer, and foreign maps."""
    chosen = Elsewhere(arguments.per_family, arguments.seed, arguments.size)
    _timed("elsewhere", lambda: write_elsewhere(chosen, arguments.out, _bar(bars, "Drawing families")))
    if arguments.sheet:
        contact_sheet(arguments.out / "elsewhere.csv", arguments.sheet)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    photos = verbs.add_parser("photos", help="geotagged photos from above, and the tiles to find them on")
    photos.add_argument("--out", type=Path, required=True, help="folder to write to")
    photos.add_argument("--count", type=int, default=PhotoSet.count)
    photos.add_argument("--seed", type=int, default=PhotoSet.seed)
    photos.add_argument("--size", type=int, default=PhotoSet.size, help="pixels along a photo's edge")
    photos.add_argument("--style", choices=STYLES, default=PhotoSet.style)
    photos.add_argument("--folder-tiles", action=argparse.BooleanOptionalAction, default=True, help="write tiles/ too")
    photos.add_argument("--tile-format", choices=FORMATS, default=FORMATS[0], help="png: exact, three times the size")
    photos.set_defaults(make=make_photos)
    elsewhere = verbs.add_parser("elsewhere", help="pictures of no place, and real places as foreign maps show them")
    elsewhere.add_argument("--out", type=Path, required=True, help="folder to write to")
    elsewhere.add_argument("--per-family", type=int, default=Elsewhere.per_family)
    elsewhere.add_argument("--seed", type=int, default=Elsewhere.seed)
    elsewhere.add_argument("--size", type=int, default=Elsewhere.size, help="pixels along a picture's edge")
    elsewhere.set_defaults(make=make_elsewhere)
    for verb in (photos, elsewhere):
        verb.add_argument("--sheet", type=Path, help="write a contact sheet there too, as PNG")
    return parser


def _bar(bars: Bars, text: str) -> Callable[[int, int], None]:
    return lambda done, total: bars(Progress("draw", text, done, total))


def _timed(what: str, make: Callable[[], None]) -> None:
    start = time.perf_counter()
    make()
    say(f"{what}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
