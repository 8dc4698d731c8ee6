"""Fixtures of the training tests: a tiny tower, a synthetic Earth whose colours encode the place, one thread."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from indexer.builtin import views
from indexer.builtin.views import Earth
from retrieval.encoders.open_clip import Tower, build_tower

VISION = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 3, "head_width": 16}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "quick_gelu": False}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread: sums then have one order, and equal runs are equal to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_tower() -> Callable[[int], Tower]:
    """Make a tiny open_clip tower with weights that follow from a seed."""

    def make(seed: int) -> Tower:
        torch.manual_seed(seed)
        return build_tower(TINY)

    return make


def compass() -> np.ndarray:
    """An Earth of 1-degree pixels: red and green encode the longitude, blue the latitude."""
    lng, lat = np.radians(np.arange(360) - 179.5), np.linspace(1, 0, 180)
    picture = np.empty((180, 360, 3))
    picture[..., 0] = 127.5 + 127.5 * np.sin(lng)
    picture[..., 1] = 127.5 + 127.5 * np.cos(lng)
    picture[..., 2] = 255 * lat[:, None]
    return picture.round().astype(np.uint8)


def eastern_land() -> np.ndarray:
    """Land east of Greenwich, water west of it, in the mask's 2.5 minutes."""
    land = np.zeros((4320, 8640), dtype=np.uint8)
    land[:, 4320:] = 1
    return land


PRODUCTS = {
    "compass": compass,
    "white": lambda: np.full((180, 360, 3), 255, dtype=np.uint8),
    "board": lambda: (np.indices((180, 360)).sum(0)[..., None] % 2 * np.ones(3) * 255).astype(np.uint8),
}


@pytest.fixture(scope="session")
def earths() -> Callable[..., Earth]:
    """An Earth of synthetic products, by name."""
    cache: dict[tuple[str, ...], Earth] = {}

    def make(*names: str) -> Earth:
        if names not in cache:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(views, "load_product", lambda name: PRODUCTS[name]())
                patch.setattr(views, "load_land", eastern_land)
                cache[names] = Earth(names)
        return cache[names]

    return make
