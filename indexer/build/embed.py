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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.build.compose import Composed, Composer
from indexer.build.decode import TileProblem
from indexer.build.request import UNIT_ROWS
from indexer.build.units import Unit, hash_codes, read_unit, unit_path, write_unit
from indexer.threads import ahead
from tile_cache.addressing import Tile, tile_of_code

if TYPE_CHECKING:  # the module that holds it loads torch, which planning and tests of units do not need
    from retrieval.encoders.open_clip import EncodesTiles

__all__ = ["Distinct", "EmbedCounts", "embed_zoom", "encode_distinct"]

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]
T = TypeVar("T")


@dataclass
class EmbedCounts:
    """What embedding has done so far: rows done, of which `kept` were found on disk, and pictures encoded."""

    rows: int = 0
    kept: int = 0
    encoded: int = 0


class Pictured(NamedTuple):
    """A unit to be made: its first row, its codes, and the picture of each, in order, as they come."""

    first_row: int
    codes: NDArray[np.uint64]
    pictures: Iterator[Composed]


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


class EncoderLane:
    """The encoder in a thread of its own, so that it works while the next batch is put together."""

    def __init__(self, pool: Executor, encoder: "EncodesTiles", zoom: int) -> None:
        self.encoder, self.zoom = encoder, zoom
        self._pool = pool
        self._under_way: deque[Future[Vectors]] = deque()

    def submit(self, pictures: Sequence[Pixels]) -> Future[Vectors]:
        """Queue at most one batch; waits while two are queued already."""
        while len(self._under_way) >= 2:
            self._under_way.popleft().result()
        future = self._pool.submit(encode_distinct, self.encoder, self.zoom, pictures)
        self._under_way.append(future)
        return future


class UnitMaker:
    """Collects a unit's pictures row by row and hands each batch to the encoder as soon as it is full."""

    def __init__(self, lane: EncoderLane, first_row: int, codes: NDArray[np.uint64], dtype: str) -> None:
        self._lane, self._first_row, self._codes, self._dtype = lane, first_row, codes, dtype
        self._distinct = Distinct()
        self._places: list[int] = []  # per row: which distinct picture, or -1
        self._batches: list[Future[Vectors]] = []
        self._problems: dict[TileProblem, None] = {}

    def add(self, composed: Composed) -> None:
        """Take the next row's picture."""
        self._problems.update(dict.fromkeys(composed.problems))
        pixels = composed.pixels
        self._places.append(-1 if pixels is None else self._distinct.place(pixels, composed.digest))
        self._encode(at_least=self._lane.encoder.batch_size)

    def seal(self) -> None:
        """All rows have come: hand over the batch that is not full."""
        self._encode(at_least=1)

    def unit(self) -> Unit:
        """The unit, once sealed; waits for the encoder."""
        places = np.array(self._places, dtype=np.int64)
        nothing = np.zeros((0, self._lane.encoder.dim), dtype=np.float32)
        table = np.concatenate([nothing, *(batch.result() for batch in self._batches)])
        return Unit(
            zoom=self._lane.zoom,
            first_row=self._first_row,
            has_imagery=places >= 0,
            vectors=table[places[places >= 0]].astype(self._dtype),
            encoded=len(self._distinct.pictures),
            codes_hash=hash_codes(self._codes),
            problems=tuple(sorted(self._problems)),
        )

    def _encode(self, at_least: int) -> None:
        waiting = self._distinct.pictures[self._lane.encoder.batch_size * len(self._batches) :]
        if len(waiting) >= at_least:
            self._batches.append(self._lane.submit(waiting))


def encode_distinct(encoder: "EncodesTiles", zoom: int, pictures: Sequence[Pixels]) -> Vectors:
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
    composing = ThreadPoolExecutor(threads, thread_name_prefix="compose")
    encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
    try:
        pictured = _composed(composing, units, zoom, composer, window=3 * encoder.batch_size)
        for maker in _sealed(pictured, EncoderLane(encoding, encoder, zoom), dtype):
            unit = maker.unit()
            write_unit(unit_path(directory, zoom, unit.first_row // unit_rows), unit)
            counts.rows, counts.encoded = counts.rows + len(unit.has_imagery), counts.encoded + unit.encoded
            on_unit(counts)
    finally:
        for pool in (composing, encoding):
            pool.shutdown(wait=True, cancel_futures=True)
    return counts


def _sealed(pictured: Iterable[Pictured], lane: EncoderLane, dtype: str) -> Iterator[UnitMaker]:
    """Each unit when all its pictures are with the encoder, and the first batch of the next one too.

    So whoever waits for a unit's last vectors and writes it leaves the encoder something to do.
    """
    before: UnitMaker | None = None
    for unit in pictured:
        maker = UnitMaker(lane, unit.first_row, unit.codes, dtype)
        for n, composed in enumerate(unit.pictures, start=1):
            maker.add(composed)
            if before is not None and n >= min(lane.encoder.batch_size, len(unit.codes)):
                yield before
                before = None
        maker.seal()
        before = maker
    if before is not None:
        yield before


def _missing_units(
    codes: NDArray[np.uint64],
    zoom: int,
    directory: Path,
    unit_rows: int,
    counts: EmbedCounts,
    on_unit: Callable[[EmbedCounts], None],
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(first row, codes) of every unit that is not whole on disk; those that are, are counted on the way."""
    for number, start in enumerate(range(0, len(codes), unit_rows)):
        part = np.asarray(codes[start : start + unit_rows])
        unit = read_unit(unit_path(directory, zoom, number))
        if unit is not None and unit.codes_hash == hash_codes(part):
            counts.rows, counts.kept = counts.rows + len(part), counts.kept + len(part)
            on_unit(counts)
        else:
            yield start, part


def _composed(
    pool: Executor, units: Iterable[tuple[int, NDArray[np.uint64]]], zoom: int, composer: Composer, window: int
) -> Iterator[Pictured]:
    """Each unit with its pictures. They are composed ahead across the border of units, so that no unit starts cold."""
    coming: deque[tuple[int, NDArray[np.uint64]]] = deque()

    def tiles() -> Iterator[Tile]:
        for first_row, codes in units:
            coming.append((first_row, codes))
            for code in codes:
                yield tile_of_code(int(code), zoom)

    pictures = ahead(pool, composer.compose, tiles(), window)
    for first in pictures:
        first_row, codes = coming.popleft()
        yield Pictured(first_row, codes, _first_then(first, pictures, len(codes) - 1))


def _first_then(first: T, rest: Iterator[T], n: int) -> Iterator[T]:
    yield first
    for _ in range(n):
        yield next(rest)
