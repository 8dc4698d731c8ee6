"""Pictures that an index cannot place, in families: `FAMILY/NNN.jpg` and `elsewhere.csv`, decided by a seed.

The column `kind` says whether a picture shows no place at all (`no-place`, without coordinates) or a real place in a
rendition that no encoder learnt (`foreign`, with its true centre). `split` is per family: models are fitted on the
families of `train` and tested on those of `test`.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from indexer.builtin.views import Views
from indexer.sample_data import foreign, from_earth, patterns
from indexer.sample_data.collected import crops_of
from indexer.sample_data.settings import Elsewhere
from indexer.sample_data.writing import Pixels, claim, degrees, jpeg, put, read_csv, write_csv

QUALITY = 92
_FLAT = 6.0  # standard deviation of a channel, of 255
HEADER = ("path", "family", "split", "latitude", "longitude", "kind")

Split = Literal["train", "test"]
Kind = Literal["no-place", "foreign"]
Single = Callable[[np.random.Generator, int], Pixels]
Many = Callable[[np.random.Generator, int, int], Pixels]
Rendition = Callable[[Views, int, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Family:
    """Pictures of one kind. `draw` returns `per_family` pictures and, for a foreign family, their views."""

    name: str
    split: Split
    kind: Kind
    draw: Callable[["Family", Elsewhere], tuple[Pixels, Views | None]]

    def generator(self, settings: Elsewhere, stream: int) -> np.random.Generator:
        """A generator of this family's own, so that adding or removing another family changes nothing here."""
        return np.random.default_rng([settings.seed, zlib.crc32(self.name.encode()), stream])


def _one_by_one(single: Single) -> Callable[[Family, Elsewhere], tuple[Pixels, None]]:
    def draw(family: Family, settings: Elsewhere) -> tuple[Pixels, None]:
        pictures = [single(family.generator(settings, i), settings.size) for i in range(settings.per_family)]
        return np.stack(pictures), None

    return draw


def _at_once(many: Many) -> Callable[[Family, Elsewhere], tuple[Pixels, None]]:
    return lambda family, settings: (many(family.generator(settings, 0), settings.per_family, settings.size), None)


def _rendered(rendition: Rendition) -> Callable[[Family, Elsewhere], tuple[Pixels, Views]]:
    def draw(family: Family, settings: Elsewhere) -> tuple[Pixels, Views]:
        views = from_earth.land_views(settings.per_family + settings.per_family // 2, family.generator(settings, 0))
        pictures = rendition(views, settings.size, family.generator(settings, 1))
        # The map of a country's interior is one flat colour, which shows nothing of the place: use such pictures last.
        flat = pictures.std(axis=(1, 2)).mean(axis=1) < _FLAT
        order = np.argsort(flat, kind="stable")[: settings.per_family]
        return pictures[order], views.take(order)

    return draw


FAMILIES = (
    Family("noise", "train", "no-place", _one_by_one(patterns.noise)),
    Family("gradients", "train", "no-place", _one_by_one(patterns.gradients)),
    Family("stripes", "train", "no-place", _one_by_one(patterns.stripes)),
    Family("discs", "train", "no-place", _one_by_one(patterns.discs)),
    Family("text", "train", "no-place", _one_by_one(patterns.text)),
    Family("banded-planets", "train", "no-place", _one_by_one(patterns.banded_planets)),
    Family("people", "train", "no-place", _one_by_one(crops_of("people"))),
    Family("microscopy", "train", "no-place", _one_by_one(crops_of("microscopy"))),
    Family("textures", "train", "no-place", _one_by_one(crops_of("textures"))),
    Family("deep-space", "train", "no-place", _one_by_one(crops_of("deep-space"))),
    Family("shuffled", "train", "no-place", _at_once(from_earth.shuffled)),
    Family("open-sea", "train", "no-place", _at_once(from_earth.open_sea)),
    Family("political", "train", "foreign", _rendered(foreign.political)),
    Family("two-tone", "train", "foreign", _rendered(foreign.two_tone)),
    Family("false-colour", "train", "foreign", _rendered(foreign.false_colour)),
    Family("facets", "train", "foreign", _rendered(foreign.facets)),
    Family("noise-clouds", "test", "no-place", _one_by_one(patterns.noise_clouds)),
    Family("mosaics", "test", "no-place", _one_by_one(patterns.mosaics)),
    Family("charts", "test", "no-place", _one_by_one(patterns.charts)),
    Family("cratered-bodies", "test", "no-place", _one_by_one(patterns.cratered_bodies)),
    Family("invented-lands", "test", "no-place", _one_by_one(patterns.invented_lands)),
    Family("objects", "test", "no-place", _one_by_one(crops_of("objects"))),
    Family("medical", "test", "no-place", _one_by_one(crops_of("medical"))),
    Family("moon", "test", "no-place", _one_by_one(crops_of("moon"))),
    Family("scans", "test", "no-place", _one_by_one(crops_of("scans"))),
    Family("mirrored", "test", "no-place", _at_once(from_earth.mirrored)),
    Family("polar-ice", "test", "no-place", _at_once(from_earth.polar_ice)),
    Family("sketch", "test", "foreign", _rendered(foreign.sketch)),
    Family("tinted-heights", "test", "foreign", _rendered(foreign.tinted_heights)),
    Family("cartoon", "test", "foreign", _rendered(foreign.cartoon)),
    Family("engraving", "test", "foreign", _rendered(foreign.engraving)),
)


def write_elsewhere(
    settings: Elsewhere, folder: Path, on_progress: Callable[[int, int], None], families: tuple[Family, ...] = FAMILIES
) -> None:
    """Draw the missing pictures and write the table. `on_progress` gets (done, total). Raises AnotherSetError."""
    claim(folder, "elsewhere.json", {**vars(settings), "families": [f.name for f in families]})
    rows: list[list[str]] = []
    for number, family in enumerate(families):
        on_progress(number * settings.per_family, len(families) * settings.per_family)
        rows += _write_family(family, settings, folder)
    write_csv(folder / "elsewhere.csv", HEADER, rows)
    on_progress(len(rows), len(rows))


def _write_family(family: Family, settings: Elsewhere, folder: Path) -> list[list[str]]:
    """Draw a family unless its table, which is written last, exists; return the table's rows."""
    table = folder / family.name / "pictures.csv"
    if not table.exists():
        pictures, views = family.draw(family, settings)
        paths = [f"{family.name}/{i:03d}.jpg" for i in range(len(pictures))]
        for path, pixels in zip(paths, pictures, strict=True):
            put(folder / path, jpeg(pixels, QUALITY))
        nowhere = np.full(len(paths), np.nan)
        lats, lngs = (nowhere, nowhere) if views is None else (views.lat, views.lng)
        fixed = (family.name, family.split)
        places = zip(paths, map(degrees, lats), map(degrees, lngs), strict=True)
        write_csv(table, HEADER, [(path, *fixed, lat, lng, family.kind) for path, lat, lng in places])
    return read_csv(table)[1:]
