"""FAISS inverted lists whose lists are parents, one file a shard. The only module that imports FAISS.

List p of a shard holds the vectors of the children of its p-th parent, in row order; ids and list numbers are local
to the shard. The coarse quantizer stays empty: nobody asks which list is near, the level above says which to read.
It knows nothing of zooms, Morton codes or scores.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss import rev_swig_ptr, swig_ptr
from numpy.typing import NDArray

from retrieval.errors import IndexDamagedError, IndexFormatError
from retrieval.files import write_atomically

CODECS: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
"""Codec name to the type of a stored component."""

_ADD_ROWS = 1 << 16
_EVERYTHING = -3.0e38
"""A radius below every inner product: a range search then returns whole lists."""

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
        # Rounded here and not by FAISS, whose halves differ by build (ties to even with F16C, upwards without): so the
        # same vectors are the same bytes wherever they are indexed.
        x = np.ascontiguousarray(vectors[start:stop]).astype(CODECS[codec]).astype(np.float32)
        ids, assigned = (np.ascontiguousarray(v[start:stop], dtype=np.int64) for v in (rows, parents))
        index.add_core(stop - start, swig_ptr(x), swig_ptr(ids), swig_ptr(assigned))
    write_atomically(path, lambda temporary: _write(temporary, index))


def content_hash(codes: NDArray[np.uint64], has_vector: NDArray[np.bool_], vectors: Vectors, codec: str) -> str:
    """SHA-256 of a shard's codes, flags and vectors as stored, independent of FAISS and of the file's layout.

    `codes` and `has_vector`: (n,); `vectors`: (m, d), those of the rows that have one. Hashed in this order,
    little-endian, flags packed eight to a byte.
    """
    digest = hashlib.sha256(np.ascontiguousarray(codes, dtype="<u8").tobytes())
    digest.update(np.packbits(has_vector).tobytes())
    for start in range(0, len(vectors), _ADD_ROWS):
        digest.update(np.ascontiguousarray(vectors[start : start + _ADD_ROWS], dtype=CODECS[codec]).tobytes())
    return digest.hexdigest()


class ShardLists:
    """One open FAISS file. Safe to search from many threads: nothing of it changes after it is opened."""

    def __init__(self, path: Path, index: Any) -> None:
        self.path = path
        self.lists: int = index.nlist
        self.vectors: int = index.ntotal
        self.dim: int = index.d
        self._index = index
        # Distances to centroids, which FAISS wants and a list without centroid never reads; shared, only ever read.
        self._no_distances = np.zeros(max(index.nlist, 1), dtype=np.float32)

    @classmethod
    def open(cls, path: Path, *, mmap: bool = True) -> "ShardLists":
        """Open a shard, memory-mapped (at once, whatever its size) or read into memory.

        Raises IndexDamagedError if FAISS cannot read it or it is another kind of index.
        """
        try:
            # Of FAISS's two ways to map, this one makes no object per list: 1 ms instead of 20 for 31,000 lists.
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP) if mmap else _read_whole(path)
        except RuntimeError as exc:
            raise IndexDamagedError(f"FAISS cannot read {path}: copy the index again or rebuild it ({exc})") from exc
        if not isinstance(index, faiss.IndexIVF) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IndexDamagedError(
                f"{path} holds a {type(index).__name__}, not inner-product inverted lists: rebuild it"
            )
        return cls(path, index)

    def similarities(self, query: Vectors, lists: Rows) -> tuple[Rows, Vectors]:
        """Every vector of the given lists: local rows and inner products with the query, (c,) int64 and (c,) float32.

        `query`: (d,) float32, contiguous; `lists`: (m,) int64, ascending and distinct, so that rows come out ascending.
        """
        found = faiss.RangeSearchResult(1)
        self._index.range_search_preassigned_c(
            1,
            swig_ptr(query),
            _EVERYTHING,
            swig_ptr(lists),
            swig_ptr(self._no_distances),
            found,
            False,
            _probe(len(lists)),
            None,
        )
        n = int(rev_swig_ptr(found.lims, 2)[1])
        return rev_swig_ptr(found.labels, n).copy(), rev_swig_ptr(found.distances, n).copy()

    def list_sizes(self) -> Rows:
        """Vectors in each list, (lists,) int64."""
        sizes = self._index.invlists
        return np.fromiter((sizes.list_size(i) for i in range(self.lists)), dtype=np.int64, count=self.lists)

    def rows_of(self, number: int) -> Rows:
        """The local rows in one list, (m,) int64, in stored order."""
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
    """The lists of a shard of rows only: as many as it has parents, all of them empty, and no file."""

    def __init__(self, path: Path, dim: int, lists: int) -> None:
        self.path, self.lists, self.vectors, self.dim = path, lists, 0, dim

    def similarities(self, query: Vectors, lists: Rows) -> tuple[Rows, Vectors]:
        """None at all."""
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)

    def list_sizes(self) -> Rows:
        """(lists,) zeros."""
        return np.zeros(self.lists, dtype=np.int64)

    def rows_of(self, number: int) -> Rows:
        """None."""
        return np.empty(0, dtype=np.int64)

    def stored(self, number: int) -> NDArray[np.uint8]:
        """No bytes."""
        return np.empty((0, 0), dtype=np.uint8)


def _write(path: Path, index: Any) -> None:
    # Not by name: FAISS's own file writer only prints what fails when it closes, so a full disk would leave a cut file
    # that looks written. Through Python's file the OSError comes out.
    with open(path, "wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]


def _read_whole(path: Path) -> Any:
    """An index whose lists are views into one block of memory, which NumPy asks the kernel to back with huge pages.

    Scanning scattered lists is then 15% faster than in FAISS's own copies, one small allocation a list.
    """
    block = np.fromfile(path, dtype=np.uint8)
    reader = faiss.ZeroCopyIOReader(swig_ptr(block), len(block))  # type: ignore[attr-defined]
    index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
    index.referenced_objects = [block, reader]  # FAISS's own name for what must live as long as the index
    return index


@cache
def _probe(lists: int) -> Any:
    """Parameters to search so many lists; never changed, so that threads share them, as they cannot `index.nprobe`."""
    wanted = faiss.SearchParametersIVF()
    wanted.nprobe = lists
    return wanted


def _empty_index(dim: int, lists: int, codec: str) -> Any:
    quantizer = faiss.IndexFlatIP(dim)
    index: Any
    if codec == "fp16":
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
    elif codec == "fp32":
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        raise IndexFormatError(f"codec {codec!r} is none of {', '.join(CODECS)}")
    # There is nothing to train: halves need no ranges, and the lists are parents, not clusters. An empty quantizer
    # makes FAISS refuse an ordinary search of the file, which would be meaningless.
    index.is_trained = True
    index.by_residual = False
    return index
