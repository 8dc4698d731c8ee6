"""Embedding: the rows of a zoom become units, with tiles read and composed ahead of the encoder.

A unit depends on its rows and their pixels alone: its distinct pictures (by hash and comparison of bytes) are encoded
in order, in batches of one constant shape, the last one padded. So a unit that is made again after a kill has the
same bits. The module knows nothing of coverage, shards or the layout of an index.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.build.compose import Composed, Composer
from indexer.build.decode import TileProblem
from indexer.build.inputs import Inputs
from indexer.build.units import Unit, ZoomRows, hash_codes, unit_path, write_unit
from indexer.build.workdir import Workdir
from indexer.progress import OnProgress, counter
from indexer.threads import ahead
from retrieval.encoders.base import EncodesTiles
from tile_cache.addressing import Tile, tile_of_code
from tile_cache.source import TileSource

__all__ = ["Distinct", "EmbedCounts", "embed", "embed_zoom", "encode_distinct"]

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]
T = TypeVar("T")


@dataclass
class EmbedCounts:
    """Progress of embedding: rows done, of which `kept` were embedded by an earlier attempt, and pictures encoded."""

    rows: int = 0
    kept: int = 0
    encoded: int = 0


def embed(
    work: Workdir, inputs: Inputs, levels: Sequence[ZoomRows], layers: Sequence[TileSource], on_progress: OnProgress
) -> EmbedCounts:
    """Embed every row into units in work/units, zoom by zoom; nothing for rows only.

    `layers`: the source and, if there is one, its overlay. Errors of sources, encoder and disk pass through; finished
    units stay.
    """
    totals = EmbedCounts()
    if inputs.encoders is None:
        return totals
    maps = inputs.encoders.maps
    for rows in levels:
        overlay = layers[1] if len(layers) > 1 else None
        absent = inputs.request.fetch.absent_images
        composer = Composer(layers[0], overlay, maps.input_size, maps.context(rows.zoom), absent)
        on_rows = counter(on_progress, "embed", f"Embedding zoom {rows.zoom}")
        threads = inputs.request.threads or _cores()
        counts = embed_zoom(rows, maps, composer, dtype=inputs.dtype, threads=threads, on_rows=on_rows)
        totals.rows, totals.kept = totals.rows + counts.rows, totals.kept + counts.kept
        totals.encoded += counts.encoded
    return totals


def embed_zoom(
    rows: ZoomRows,
    encoder: EncodesTiles,
    composer: Composer,
    *,
    dtype: str,
    threads: int,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> EmbedCounts:
    """Make every unit of a zoom that is not whole yet; `dtype`: NumPy type of the stored vectors.

    `on_rows(done, total)` is called after each unit. Errors of the source, the encoder and the disk pass through;
    finished units stay.
    """
    counts = EmbedCounts()
    missing = _missing_units(rows, counts, on_rows)
    composing = ThreadPoolExecutor(threads, thread_name_prefix="compose")
    encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
    try:
        pictured = _composed(composing, missing, rows.zoom, composer, window=3 * encoder.batch_size)
        for maker in _sealed(pictured, EncoderLane(encoding, encoder, rows.zoom), dtype):
            unit = maker.unit()
            write_unit(unit_path(rows.units, rows.zoom, unit.first_row // rows.unit_rows), unit)
            counts.rows, counts.encoded = counts.rows + len(unit.has_imagery), counts.encoded + unit.encoded
            on_rows(counts.rows, len(rows.codes))
    finally:
        for pool in (composing, encoding):
            pool.shutdown(wait=True, cancel_futures=True)
    return counts


class PicturedUnit(NamedTuple):
    """A unit to be made: its first row, its codes, and the pictures of its rows, in order, as they are composed."""

    first_row: int
    codes: NDArray[np.uint64]
    pictures: Iterator[Composed]


class Distinct:
    """Distinct pictures in the order of their first occurrence; equal only if every byte is."""

    def __init__(self) -> None:
        self.pictures: list[Pixels] = []
        self._by_hash: dict[bytes, list[int]] = {}

    def place(self, pixels: Pixels, digest: bytes) -> int:
        """The number of this picture, which is added if it is new; `digest` is its hash."""
        same_hash = self._by_hash.setdefault(digest, [])
        for number in same_hash:
            if np.array_equal(self.pictures[number], pixels):
                return number
        self.pictures.append(pixels)
        same_hash.append(len(self.pictures) - 1)
        return same_hash[-1]


class EncoderLane:
    """Runs the encoder in its own thread, so that it works while the next batch is collected."""

    def __init__(self, pool: Executor, encoder: EncodesTiles, zoom: int) -> None:
        self.encoder, self.zoom = encoder, zoom
        self._pool = pool
        self._queued: deque[Future[Vectors]] = deque()

    def submit(self, pictures: Sequence[Pixels]) -> Future[Vectors]:
        """Queue at most one batch of pictures; waits while two batches are queued already."""
        while len(self._queued) >= 2:
            self._queued.popleft().result()
        future = self._pool.submit(encode_distinct, self.encoder, self.zoom, pictures)
        self._queued.append(future)
        return future


class UnitMaker:
    """Collects a unit's pictures row by row and hands each batch to the encoder as soon as it is full."""

    def __init__(self, lane: EncoderLane, first_row: int, codes: NDArray[np.uint64], dtype: str) -> None:
        self._lane, self._first_row, self._codes, self._dtype = lane, first_row, codes, dtype
        self._distinct = Distinct()
        self._places: list[int] = []  # per row: which distinct picture, or -1
        self._batches: list[Future[Vectors]] = []
        self._problems: dict[TileProblem, None] = {}
        self._tiles: dict[str, tuple[int, int]] = {}  # SHA-256 of a tile's bytes: how often it came, first row

    def add(self, composed: Composed) -> None:
        """Add the next row's picture."""
        self._problems.update(dict.fromkeys(composed.problems))
        if composed.sha256:
            count, row = self._tiles.get(composed.sha256, (0, self._first_row + len(self._places)))
            self._tiles[composed.sha256] = count + 1, row
        pixels = composed.pixels
        self._places.append(-1 if pixels is None else self._distinct.place(pixels, composed.digest))
        self._encode(at_least=self._lane.encoder.batch_size)

    def seal(self) -> None:
        """Hand over the last batch, full or not, after the last row."""
        self._encode(at_least=1)

    def unit(self) -> Unit:
        """The sealed unit; waits for the encoder."""
        places = np.array(self._places, dtype=np.int64)
        empty = np.zeros((0, self._lane.encoder.dim), dtype=np.float32)
        table = np.concatenate([empty, *(batch.result() for batch in self._batches)])
        return Unit(
            zoom=self._lane.zoom,
            first_row=self._first_row,
            has_imagery=places >= 0,
            vectors=table[places[places >= 0]].astype(self._dtype),
            encoded=len(self._distinct.pictures),
            codes_hash=hash_codes(self._codes),
            problems=tuple(sorted(self._problems)),
            repeats=tuple((sha256, count, row) for sha256, (count, row) in self._tiles.items() if count > 1),
        )

    def _encode(self, at_least: int) -> None:
        waiting = self._distinct.pictures[self._lane.encoder.batch_size * len(self._batches) :]
        if len(waiting) >= at_least:
            self._batches.append(self._lane.submit(waiting))


def encode_distinct(encoder: EncodesTiles, zoom: int, pictures: Sequence[Pixels]) -> Vectors:
    """At most one batch of pictures to (n, dim) float32, padded to the encoder's batch with the last picture."""
    padded = [*pictures, *[pictures[-1]] * (encoder.batch_size - len(pictures))]
    return np.asarray(encoder.encode(zoom, np.stack(padded))[: len(pictures)])


def _sealed(pictured: Iterable[PicturedUnit], lane: EncoderLane, dtype: str) -> Iterator[UnitMaker]:
    """Each unit once the encoder has all its pictures and the first batch of the next unit, too.

    So the encoder has work while the caller waits for a unit's last vectors and writes it.
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
    rows: ZoomRows, counts: EmbedCounts, on_rows: Callable[[int, int], None]
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(first row, codes) of every unit that is not whole on disk; the rows of whole ones are added to `counts`."""
    for number in range(rows.unit_count):
        codes = rows.unit_codes(number)
        if rows.embedded(number) is not None:
            counts.rows, counts.kept = counts.rows + len(codes), counts.kept + len(codes)
            on_rows(counts.rows, len(rows.codes))
        else:
            yield number * rows.unit_rows, codes


def _composed(
    pool: Executor, units: Iterable[tuple[int, NDArray[np.uint64]]], zoom: int, composer: Composer, window: int
) -> Iterator[PicturedUnit]:
    """Each unit with its pictures, which are composed ahead across the borders of units."""
    coming: deque[tuple[int, NDArray[np.uint64]]] = deque()

    def tiles() -> Iterator[Tile]:
        for first_row, codes in units:
            coming.append((first_row, codes))
            for code in codes:
                yield tile_of_code(int(code), zoom)

    pictures = ahead(pool, composer.compose, tiles(), window)
    for first in pictures:
        first_row, codes = coming.popleft()
        yield PicturedUnit(first_row, codes, _first_then(first, pictures, len(codes) - 1))


def _first_then(first: T, rest: Iterator[T], n: int) -> Iterator[T]:
    yield first
    for _ in range(n):
        yield next(rest)


def _cores() -> int:
    """Cores that this process may use, or all cores where the system cannot say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
