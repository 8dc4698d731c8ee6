"""Shards as FAISS inverted lists, one file each. The only module that imports FAISS.

List p of a shard holds the vectors of the children of its p-th parent, in row order; ids and list numbers are local to
the shard. The coarse quantizer stays empty, because the level above decides which lists to read. This module knows
nothing of zooms, Morton codes or scores.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss import rev_swig_ptr, swig_ptr
from numpy.typing import NDArray

from retrieval.errors import IndexDamagedError, IndexFormatError, damage_as
from retrieval.files import open_regular, write_atomically
from retrieval.index.faiss_file import Shape, read_layout, stored_rows

CODECS: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
"""The type of a stored component, by codec."""

_ADD_ROWS = 1 << 16
_EVERYTHING = -3.0e38
"""A radius below every inner product, with which a range search returns whole lists."""

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def write_lists(path: Path, vectors: Vectors, rows: Rows, parents: Rows, lists: int, codec: str) -> None:
    """Write one shard's FAISS file, the same bytes for the same input.

    `vectors`: (n, d) float32; `rows`, `parents`: (n,) int64 ascending, local to the shard, parents below `lists`.
    Raises IndexFormatError for an unknown codec.
    """
    index = _empty_index(vectors.shape[1], lists, codec)
    for start in range(0, len(vectors), _ADD_ROWS):
        stop = min(start + _ADD_ROWS, len(vectors))
        # Rounded here, because FAISS rounds to half precision differently on different CPUs (ties to even with F16C,
        # upwards without). So the same vectors give the same bytes on every machine.
        x = np.ascontiguousarray(vectors[start:stop]).astype(CODECS[codec]).astype(np.float32)
        ids, assigned = (np.ascontiguousarray(v[start:stop], dtype=np.int64) for v in (rows, parents))
        index.add_core(stop - start, swig_ptr(x), swig_ptr(ids), swig_ptr(assigned))
    write_atomically(path, lambda temporary: _write(temporary, index))


def stored_blocks(vectors: NDArray[np.floating[Any]], codec: str) -> Iterator[NDArray[Any]]:
    """Vectors, (m, d), as a shard stores them, in blocks of rows."""
    for start in range(0, len(vectors), _ADD_ROWS):
        yield np.ascontiguousarray(vectors[start : start + _ADD_ROWS], dtype=CODECS[codec])


def content_hash(codes: NDArray[np.uint64], has_vector: NDArray[np.bool_], blocks: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of a shard's content, independent of FAISS and of the file's layout.

    Hashed are the codes, (n,), little-endian; the flags, (n,), packed eight to a byte; and the stored vectors in row
    order, in any blocks (`stored_blocks`, or `ShardLists.stored` list by list).
    """
    digest = hashlib.sha256(np.ascontiguousarray(codes, dtype="<u8").tobytes())
    digest.update(np.packbits(has_vector).tobytes())
    for block in blocks:
        digest.update(block.tobytes())
    return digest.hexdigest()


class ShardLists:
    """One open FAISS file. Safe to search from many threads, because it never changes."""

    def __init__(self, path: Path, index: Any) -> None:
        self.path = path
        self.lists: int = index.nlist
        self.vectors: int = index.ntotal
        self.dim: int = index.d
        self._index = index
        # FAISS requires distances to centroids but does not use them here; shared by threads, never written.
        self._no_distances = np.zeros(max(index.nlist, 1), dtype=np.float32)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        mmap: bool = True,
        inside: Path | None = None,
        shape: Shape | None = None,
        sizes: Rows | None = None,
        rows: Rows | None = None,
    ) -> "ShardLists":
        """Open a shard, memory-mapped (fast for any size) or read into memory.

        `inside`: see `open_regular`. What the file must hold, as far as given: its `shape`, the `sizes` of its lists,
        (lists,), and, where it is read into memory, the local `rows` in stored order, (vectors,). Raises
        IndexDamagedError for any other file, before FAISS allocates memory for it.
        """
        with damage_as(IndexDamagedError, path, "copy the index again or rebuild it"):
            with open_regular(path, inside=inside) as stream:
                file_bytes = os.fstat(stream.fileno()).st_size
                layout = read_layout(stream, file_bytes, shape)
                stream.seek(0)
                block = None if mmap else np.fromfile(stream, dtype=np.uint8)
            if block is not None and len(block) != file_bytes:
                raise ValueError("it changed while it was read")
            if sizes is not None and not np.array_equal(layout.sizes, sizes):
                raise ValueError("its lists have other sizes than their parents have children")
            if rows is not None and block is not None and not np.array_equal(stored_rows(block, layout), rows):
                raise ValueError("its lists do not hold the children of their parents")
            # Of FAISS's two ways to map a file, this one makes no object per list: 1 ms instead of 20 for 31,000 lists.
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP) if block is None else _in_memory(block)
            if not isinstance(index, faiss.IndexIVF) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ValueError(f"it holds a {type(index).__name__}, not inner-product inverted lists")
            return cls(path, index)

    def similarities(self, query: Vectors, lists: Rows) -> tuple[Rows, Vectors]:
        """Local rows, (c,) int64, and inner products with the query, (c,) float32, of every vector in these lists.

        `query`: (d,) float32, contiguous; `lists`: (m,) int64, ascending and distinct, which makes the rows ascend.
        """
        result = faiss.RangeSearchResult(1)
        self._index.range_search_preassigned_c(
            1,
            swig_ptr(query),
            _EVERYTHING,
            swig_ptr(lists),
            swig_ptr(self._no_distances),
            result,
            False,
            _probe(len(lists)),
            None,
        )
        n = int(rev_swig_ptr(result.lims, 2)[1])
        return rev_swig_ptr(result.labels, n).copy(), rev_swig_ptr(result.distances, n).copy()

    def list_sizes(self) -> Rows:
        """The number of vectors in each list, (lists,) int64."""
        sizes = self._index.invlists
        return np.fromiter((sizes.list_size(i) for i in range(self.lists)), dtype=np.int64, count=self.lists)

    def rows_of(self, number: int) -> Rows:
        """The local rows of one list, (m,) int64, in stored order."""
        inverted = self._index.invlists
        size = inverted.list_size(number)
        return rev_swig_ptr(inverted.get_ids(number), size).copy() if size else np.empty(0, dtype=np.int64)

    def stored(self, number: int) -> NDArray[np.uint8]:
        """The stored bytes of one list's vectors, (m, bytes a vector) uint8, in stored order."""
        inverted = self._index.invlists
        size, width = inverted.list_size(number), inverted.code_size
        if not size:
            return np.empty((0, width), dtype=np.uint8)
        return rev_swig_ptr(inverted.get_codes(number), size * width).copy().reshape(size, width)


class NoLists(ShardLists):
    """The lists of a shard without vectors: one empty list per parent, and no file."""

    def __init__(self, path: Path, dim: int, lists: int) -> None:
        self.path, self.lists, self.vectors, self.dim = path, lists, 0, dim

    def similarities(self, query: Vectors, lists: Rows) -> tuple[Rows, Vectors]:
        """No rows."""
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)

    def list_sizes(self) -> Rows:
        """Zeros, (lists,)."""
        return np.zeros(self.lists, dtype=np.int64)

    def rows_of(self, number: int) -> Rows:
        """No rows."""
        return np.empty(0, dtype=np.int64)

    def stored(self, number: int) -> NDArray[np.uint8]:
        """No bytes."""
        return np.empty((0, 0), dtype=np.uint8)


def _write(path: Path, index: Any) -> None:
    # FAISS's own file writer only prints errors on close, so a full disk would leave a truncated file that looks
    # complete. Writing through a Python file raises OSError.
    with open(path, "wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]


def _in_memory(block: NDArray[np.uint8]) -> Any:
    """An index over a file's bytes in one block of memory, which NumPy asks the kernel to back with huge pages.

    Scanning scattered lists is 15% faster than in FAISS's own copies, which allocate each list separately.
    """
    reader = faiss.ZeroCopyIOReader(swig_ptr(block), len(block))  # type: ignore[attr-defined]
    index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
    index.referenced_objects = [block, reader]  # FAISS's attribute for objects that must live as long as the index
    return index


@cache
def _probe(lists: int) -> Any:
    """Parameters to search this many lists; never changed, so threads can share them, unlike `index.nprobe`."""
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = lists
    return parameters


def _empty_index(dim: int, lists: int, codec: str) -> Any:
    quantizer = faiss.IndexFlatIP(dim)
    index: Any
    if codec == "fp16":
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    elif codec == "fp32":
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        raise IndexFormatError(f"unknown codec {codec!r}: use {' or '.join(CODECS)}")
    # Nothing needs training: half precision has no ranges, and the lists are parents, not clusters. The empty quantizer
    # makes FAISS refuse an ordinary search of the file, which would be meaningless.
    index.is_trained = True
    index.by_residual = False
    return index
