"""A set of geotagged photos from above: `photos/NN/NNNNN.jpg` and `photos.csv`, decided by a seed.

Pictures are drawn in runs of one style. Each run has a seed of its own, so runs that exist already are skipped. This
module knows views and styles, not tiles.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from indexer.builtin.pictures import PictureSet, to_pixels
from indexer.builtin.styles import Stylist
from indexer.builtin.views import Centres, Earth, Views, draw_views
from indexer.sample_data.settings import PhotoSet
from indexer.sample_data.writing import claim, degrees, jpeg, put, write_csv
from tile_cache.bluemarble import PRODUCTS

QUALITY = 92
_RUN = 32  # photos drawn together; a mixed set changes its style with each run
_SETS = Path(__file__).with_name("accuracy_sets.json")


def views_of(photo_set: PhotoSet) -> Views:
    """The views that a set's photos show."""
    centres = Centres(-60, 78, 8, 0.01)
    generator = np.random.default_rng([photo_set.seed, 0])
    return draw_views(centres, photo_set.count, photo_set.footprint_km, photo_set.turn, generator)


def write_photos(photo_set: PhotoSet, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Draw the missing photos and write the table. `on_progress` gets (done, total). Raises AnotherSetError."""
    claim(folder, "photos.json", {**asdict(photo_set), "footprint_km": list(photo_set.footprint_km)})
    views, paths = views_of(photo_set), photo_paths(photo_set.count)
    missing = [
        r for r in range(0, photo_set.count, _RUN) if not all((folder / p).exists() for p in paths[r : r + _RUN])
    ]
    with ThreadPoolExecutor(2) as pool:
        on_progress(photo_set.count - min(photo_set.count, _RUN * len(missing)), photo_set.count)
        for first, pixels in _drawn(photo_set, views, missing):
            files = [folder / p for p in paths[first : first + _RUN]]
            list(pool.map(lambda file, picture: put(file, jpeg(picture, QUALITY)), files, pixels))
            on_progress(first + len(files), photo_set.count)
    rows = zip(paths, map(degrees, views.lat), map(degrees, views.lng), strict=True)
    write_csv(folder / "photos.csv", ("path", "latitude", "longitude"), rows)


def photo_paths(count: int) -> list[str]:
    """The paths of the photos, relative to the set's folder."""
    return [f"photos/{i // 1000:02d}/{i:05d}.jpg" for i in range(count)]


def _drawn(photo_set: PhotoSet, views: Views, runs: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each run in `runs`, given by the number of its first photo: that number and (n, size, size, 3) uint8."""
    if not runs:
        return
    earth = _earth(tuple(PRODUCTS))
    sets = PictureSet.read(_SETS)
    stylists = {name: Stylist(earth, sets[name].style) for name in ("clean", "degraded")}
    for first in runs:
        rng = np.random.default_rng([photo_set.seed, 1, first])
        run = views.take(np.arange(first, min(first + _RUN, len(views))))
        yield first, to_pixels(stylists[photo_set.style_of(first // _RUN)].draw(run, photo_set.size, rng))


@lru_cache(maxsize=1)
def _earth(products: tuple[str, ...]) -> Earth:
    return Earth(products)
