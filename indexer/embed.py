"""Embedding: the rows of a zoom to committed units, reading and composing ahead of the encoder.

A unit is a pure function of its rows and of what they show: its distinct pictures (by hash and comparison of bytes)
are encoded in order, in batches of one constant shape, the last one padded. So a unit made again after a kill has the
same bits. It knows nothing of coverage, shards or how an index is laid out.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.compose import Composed, Composer
from indexer.decode import TileProblem
from indexer.units import Unit, hash_codes, read_unit, unit_path, write_unit
from tile_cache.addressing import Tile, tile_of_code

if TYPE_CHECKING:  # the module that holds it loads torch, which planning and tests of units do not need
    from indexer.retrieval.encoders import EncodesTiles

__all__ = ["UNIT_ROWS", "Distinct", "EmbedCounts", "ahead", "embed_zoom", "encode_distinct"]

UNIT_ROWS = 1024

Pixels = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class EmbedCounts:
    """What embedding has done so far: rows done, of which `kept` were found on disk, and pictures encoded."""

    rows: int = 0
    kept: int = 0
    encoded: int = 0


class Distinct:
    """Pictures in order of first sight, each once: equal only if every byte is."""

    def __init__(self) -> None:
        self.pictures: list[Pixels] = []
        self._by_hash: dict[bytes, list[int]] = {}

    def place(self, pixels: Pixels, digest: bytes) -> int:
        """The number of this picture, new or seen before; `digest` is its hash."""
        same_hash = self._by_hash.setdefault(digest, [])
        for number in same_hash:
            if np.array_equal(self.pictures[number], pixels):
                return number
        self.pictures.append(pixels)
        same_hash.append(len(self.pictures) - 1)
        return same_hash[-1]


class UnitMaker:
    """Collects a unit's pictures row by row and encodes each batch as soon as it is full."""

    def __init__(
        self, encoder: "EncodesTiles", zoom: int, first_row: int, codes: NDArray[np.uint64], dtype: str
    ) -> None:
        self._encoder, self._zoom, self._first_row, self._dtype = encoder, zoom, first_row, dtype
        self._codes = codes
        self._distinct = Distinct()
        self._places: list[int] = []  # per row: which distinct picture, or -1
        self._vectors: list[NDArray[np.float32]] = []
        self._problems: dict[TileProblem, None] = {}

    @property
    def full(self) -> bool:
        """Whether every row of the unit has come."""
        return len(self._places) == len(self._codes)

    def add(self, composed: Composed) -> None:
        """Take the next row's picture."""
        self._problems.update(dict.fromkeys(composed.problems))
        pixels = composed.pixels
        self._places.append(-1 if pixels is None else self._distinct.place(pixels, composed.digest))
        waiting = len(self._distinct.pictures) - self._encoder.batch_size * len(self._vectors)
        if waiting == self._encoder.batch_size:
            self._encode(waiting)

    def finished(self) -> Unit:
        """The unit, once `full`."""
        waiting = len(self._distinct.pictures) - self._encoder.batch_size * len(self._vectors)
        if waiting:
            self._encode(waiting)
        places = np.array(self._places, dtype=np.int64)
        table = np.concatenate([np.zeros((0, self._encoder.dim), dtype=np.float32), *self._vectors])
        return Unit(
            zoom=self._zoom,
            first_row=self._first_row,
            has_imagery=places >= 0,
            vectors=table[places[places >= 0]].astype(self._dtype),
            encoded=len(self._distinct.pictures),
            codes_hash=hash_codes(self._codes),
            problems=tuple(sorted(self._problems)),
        )

    def _encode(self, waiting: int) -> None:
        self._vectors.append(encode_distinct(self._encoder, self._zoom, self._distinct.pictures[-waiting:]))


def encode_distinct(encoder: "EncodesTiles", zoom: int, pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """At most one batch of pictures to (n, dim) float32, padded to the encoder's batch with the last picture."""
    padded = [*pictures, *[pictures[-1]] * (encoder.batch_size - len(pictures))]
    return np.asarray(encoder.encode(zoom, np.stack(padded))[: len(pictures)])


def embed_zoom(
    codes: NDArray[np.uint64],
    zoom: int,
    encoder: "EncodesTiles",
    composer: Composer,
    directory: Path,
    *,
    dtype: str,
    threads: int,
    unit_rows: int = UNIT_ROWS,
    on_unit: Callable[[EmbedCounts], None] = lambda counts: None,
) -> EmbedCounts:
    """Make every unit of a zoom that is not whole yet. `codes`: (n,) uint64 ascending, perhaps memory-mapped.

    `on_unit` is called after each unit. Errors of the source, the encoder and the disk pass through; what was committed
    stays.
    """
    counts = EmbedCounts()
    units = _missing_units(codes, zoom, directory, unit_rows, counts, on_unit)
    with ThreadPoolExecutor(threads, thread_name_prefix="compose") as pool:
        try:
            for number, part, pictures in _composed(pool, units, zoom, composer, window=3 * encoder.batch_size):
                maker = UnitMaker(encoder, zoom, number * unit_rows, part, dtype)
                for composed in pictures:
                    maker.add(composed)
                unit = maker.finished()
                write_unit(unit_path(directory, zoom, number), unit)
                counts.rows, counts.encoded = counts.rows + len(part), counts.encoded + unit.encoded
                on_unit(counts)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return counts


def _missing_units(
    codes: NDArray[np.uint64],
    zoom: int,
    directory: Path,
    unit_rows: int,
    counts: EmbedCounts,
    on_unit: Callable[[EmbedCounts], None],
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(number, codes) of every unit that is not whole on disk; those that are, are counted on the way."""
    for number, start in enumerate(range(0, len(codes), unit_rows)):
        part = np.asarray(codes[start : start + unit_rows])
        unit = read_unit(unit_path(directory, zoom, number))
        if unit is not None and unit.codes_hash == hash_codes(part):
            counts.rows, counts.kept = counts.rows + len(part), counts.kept + len(part)
            on_unit(counts)
        else:
            yield number, part


def _composed(
    pool: Executor, units: Iterable[tuple[int, NDArray[np.uint64]]], zoom: int, composer: Composer, window: int
) -> Iterator[tuple[int, NDArray[np.uint64], Iterator[Composed]]]:
    """Each unit with its pictures. They are composed ahead across the border of units, so that no unit starts cold."""
    coming: deque[tuple[int, NDArray[np.uint64]]] = deque()

    def tiles() -> Iterator[Tile]:
        for number, part in units:
            coming.append((number, part))
            for code in part:
                yield tile_of_code(int(code), zoom)

    pictures = ahead(pool, composer.compose, tiles(), window)
    for first in pictures:
        number, part = coming.popleft()
        yield number, part, _first_then(first, pictures, len(part) - 1)


def _first_then(first: T, rest: Iterator[T], n: int) -> Iterator[T]:
    yield first
    for _ in range(n):
        yield next(rest)


def ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    """Results of `work` in order, with up to `window` items under way ahead of the caller."""
    waiting: deque[Future[R]] = deque()
    source: Iterator[T] = iter(items)
    for item in source:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
