"""A set of geotagged photos from above: `photos/NN/NNNNN.jpg` and `photos.csv`, decided by a seed.

Pictures are drawn in runs of one style, each from a seed of its own, so that a run that is there already is passed
over. It knows views and styles, not tiles.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from indexer.builtin.pictures import PictureSet, to_pixels
from indexer.builtin.styles import Stylist
from indexer.builtin.views import Centres, Earth, Views, draw_views
from indexer.sample_data.writing import claim, degrees, jpeg, put, write_csv
from tile_cache.bluemarble import PRODUCTS

QUALITY = 92
STYLES = ("clean", "degraded", "mixed")
_RUN = 32  # pictures drawn at a time; mixed sets change the style with each run
_SETS = Path(__file__).with_name("accuracy_sets.json")


@dataclass(frozen=True)
class PhotoSet:
    """What decides a set: the same values give the same pictures on one machine."""

    count: int = 12_000
    seed: int = 301  # neither the recipe's, nor 77 (fitting), nor those of accuracy_sets.json
    size: int = 160  # pixels along an edge
    style: str = "mixed"
    footprint_km: tuple[float, float] = (200.0, 1000.0)
    turn: float = 15.0  # degrees, either way

    def views(self) -> Views:
        """Where the pictures look."""
        centres = Centres(-60, 78, 8, 0.01)
        return draw_views(centres, self.count, self.footprint_km, self.turn, np.random.default_rng([self.seed, 0]))

    def style_of(self, run: int) -> str:
        """Which style a run of pictures has."""
        return ("clean", "degraded")[run % 2] if self.style == "mixed" else self.style


def write_photos(chosen: PhotoSet, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Draw what is missing and write the table. `on_progress` is told (done, all). Raises AnotherSetError."""
    claim(folder, "photos.json", {**asdict(chosen), "footprint_km": list(chosen.footprint_km)})
    views, paths = chosen.views(), photo_paths(chosen.count)
    missing = [r for r in range(0, chosen.count, _RUN) if not all((folder / p).exists() for p in paths[r : r + _RUN])]
    with ThreadPoolExecutor(2) as pool:
        on_progress(chosen.count - min(chosen.count, _RUN * len(missing)), chosen.count)
        for first, pixels in _drawn(chosen, views, missing):
            files = [folder / p for p in paths[first : first + _RUN]]
            list(pool.map(lambda file, picture: put(file, jpeg(picture, QUALITY)), files, pixels))
            on_progress(first + len(files), chosen.count)
    rows = zip(paths, map(degrees, views.lat), map(degrees, views.lng), strict=True)
    write_csv(folder / "photos.csv", ("path", "latitude", "longitude"), rows)


def photo_paths(count: int) -> list[str]:
    """Where the pictures lie, below the set's folder."""
    return [f"photos/{i // 1000:02d}/{i:05d}.jpg" for i in range(count)]


def _drawn(chosen: PhotoSet, views: Views, runs: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first picture, (n, size, size, 3) uint8) of each run that is asked for."""
    if not runs:
        return
    earth = _earth(tuple(PRODUCTS))
    known = PictureSet.read(_SETS)
    stylists = {name: Stylist(earth, known[name].style) for name in ("clean", "degraded")}
    for first in runs:
        rng = np.random.default_rng([chosen.seed, 1, first])
        part = views.take(np.arange(first, min(first + _RUN, len(views))))
        yield first, to_pixels(stylists[chosen.style_of(first // _RUN)].draw(part, chosen.size, rng))


@lru_cache(maxsize=1)
def _earth(products: tuple[str, ...]) -> Earth:
    return Earth(products)
