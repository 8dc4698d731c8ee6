"""Shared by the tests of retrieval: pyramids with exact arithmetic, and an independent brute-force search."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mercantile
import numpy as np
import pytest

from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.locator import BBox, Locator
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, fake_pyramid, write_fake_index
from tile_cache.addressing import tile_of_code

DIM = 8


@dataclass
class Case:
    """A pyramid with vectors in eighths, so that every inner product is exact in any order and in fp16."""

    levels: list[FakeLevel]
    calibration: Calibration
    query: np.ndarray

    def locator(self, directory: Path, **options: object) -> Locator:
        photo = FakePhotoEncoder(self.levels[0].vectors.shape[1])
        write_fake_index(directory, self.levels, photo=photo, **options)
        locator = Locator.open(directory, encoder=photo)
        return Locator(locator.index, self.calibration, photo)


def build_case(
    seed: int,
    zooms: list[int],
    *,
    tiles: int = 120,
    thinning: float = 0.2,
    holes: float = 0.1,
    b: float | None = 0.0,
    gamma: float | None = None,
    rho: float = 1.0,
) -> Case:
    """A random case. Temperatures are random, so that no two different paths have the same mass by chance."""
    rng = np.random.default_rng(seed)
    levels = [
        FakeLevel(v.zoom, v.codes, v.has_vector, eighths(rng, len(v.codes)))
        for v in fake_pyramid(seed, zooms, DIM, tiles=tiles, thinning=thinning, holes=holes)
    ]
    numbers = {
        z: ZoomNumbers(rng.uniform(0.05, 0.6), gamma or rng.uniform(0.3, 1.4), b and b + rng.uniform(0, 3), rho=rho)
        for z in zooms
    }
    return Case(levels, Calibration(numbers), eighths(rng, 1)[0])


def eighths(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.integers(-4, 5, (n, DIM)) / 8).astype(np.float32)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[FakeLevel], FakePhotoEncoder]:
    """An index of three zooms on disk, with holes and thinning."""
    photo = FakePhotoEncoder(32)
    levels = fake_pyramid(11, [4, 6, 8], 32, tiles=300, thinning=0.2)
    write_fake_index(tmp_path / "index", levels, photo=photo)
    return tmp_path / "index", levels, photo


Tile = tuple[int, int]  # zoom, code


@dataclass
class BruteForce:
    """The posterior of docs/method.md with dictionaries and loops, on a linear scale; no code of the product."""

    beams: list[list[int]]  # codes, per level reached
    frontier: dict[Tile, float]
    elsewhere: float


def search_by_brute_force(case: Case, k: int, scoring: str, bbox: BBox | None = None) -> BruteForce:
    mass: dict[int, float] = {0: 1.0}
    result = BruteForce([], {}, 0.0)
    above = None
    for level in case.levels:
        children = _children_of(level, case.query, mass, above, bbox)
        alive = {parent: own for parent, own in children.items() if own}
        if not alive:
            break
        if above is not None:
            result.frontier |= {(above, parent): mass[parent] for parent in mass if parent not in alive}
        masses, nowhere = _divide(alive, mass, case.calibration.numbers(level.zoom))
        result.elsewhere += nowhere
        similarity = {code: s for own in alive.values() for code, s in own.items()}
        score = masses if scoring == "posterior" else similarity
        order = sorted(score, key=lambda code: (-score[code], code))
        result.beams.append(sorted(order[:k]))
        result.frontier |= {(level.zoom, code): masses[code] for code in order[k:]}
        mass = {code: masses[code] for code in result.beams[-1]}
        above = level.zoom
    result.frontier |= {(above, code): m for code, m in mass.items()}
    return result


def _children_of(level, query, mass, above, bbox):
    children: dict[int, dict[int, float]] = {parent: {} for parent in mass}
    for code, has, vector in zip(level.codes.tolist(), level.has_vector.tolist(), level.vectors, strict=True):
        parent = 0 if above is None else code >> (2 * (level.zoom - above))
        if has and parent in children and (bbox is None or meets(code, level.zoom, bbox)):
            children[parent][code] = sum(a * b for a, b in zip(vector.tolist(), query.tolist(), strict=True))
    return children


def _divide(alive, mass, numbers):
    total = math.fsum(mass[parent] for parent in alive)
    odds = {code: math.exp(s / numbers.tau) for own in alive.values() for code, s in own.items()}
    nests = {parent: math.fsum(odds[code] for code in own) for parent, own in alive.items()}
    rho = 1.0 if len(alive) == 1 else numbers.rho
    weights = {
        code: (mass[parent] / total) ** numbers.gamma * nests[parent] ** (rho - 1) * odds[code]
        for parent, own in alive.items()
        for code in own
    }
    nowhere = 0.0 if numbers.b is None else math.exp(numbers.b)
    whole = math.fsum([*weights.values(), nowhere])
    return {code: total * w / whole for code, w in weights.items()}, total * nowhere / whole


def meets(code: int, zoom: int, bbox: BBox) -> bool:
    """Whether a tile and a box share area, by mercantile's bounds."""
    t = mercantile.bounds(tile_of_code(code, zoom))
    spans = [(bbox.west, bbox.east)] if bbox.west <= bbox.east else [(bbox.west, 180), (-180, bbox.east)]
    return t.south < bbox.north and t.north > bbox.south and any(t.west < e and t.east > w for w, e in spans)


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """`build_case`, because tests cannot import this module."""
    return build_case


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., BruteForce]:
    """`search_by_brute_force`."""
    return search_by_brute_force


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A new directory at every call, for Hypothesis's examples."""
    return lambda: tmp_path_factory.mktemp("index") / "i"
