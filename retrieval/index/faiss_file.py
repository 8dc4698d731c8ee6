"""The layout of a shard's FAISS file, checked before FAISS reads it.

FAISS allocates what a file's counts say. Here every count is compared with the file's size first, so that a damaged
file costs an error and no memory. The module reads bytes; it imports no FAISS and knows nothing of zooms.
"""

import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "Shape", "read_layout", "stored_rows"]

_HEAD = struct.Struct("<4siqqq?i")  # kind, dimension, vectors, two unused, trained, metric
_COUNTS = struct.Struct("<QQ")  # lists, lists to probe
_QUANTIZER_CODES = struct.Struct("<Q")  # codes of the coarse quantizer, which is empty
_DIRECT_MAP = struct.Struct("<BQ")  # kind and entries, none
_SCALARS = struct.Struct("<iifQQQ")  # type, range statistic and its argument, dimension, code size, trained numbers
_CODES = struct.Struct("<Q?")  # code size, by residual
_LISTS = struct.Struct("<4sQQ4sQ")  # kind, lists, code size, how sizes are stored, how many numbers follow
_HALF_PRECISION = 4  # FAISS's ScalarQuantizer.QT_fp16
_ID_BYTES = 8
_ROWS_AT_ONCE = 1 << 16
_MOST_LISTS = 1 << 24  # of one shard; a build puts 262,144 into one


class Shape(NamedTuple):
    """What a shard's file must hold. `code_bytes`: of one stored vector."""

    dim: int
    lists: int
    vectors: int
    code_bytes: int


class Layout(NamedTuple):
    """`sizes`: (lists,) int64 vectors in each list; `offset`: where the first list begins, its codes before its ids."""

    shape: Shape
    sizes: NDArray[np.int64]
    offset: int


def read_layout(stream: BinaryIO, file_bytes: int, expected: Shape | None = None) -> Layout:
    """Read and check a file up to its first list. Raises ValueError if a count does not fit the file or `expected`."""
    shape = _read_shape(stream)
    if expected is not None and shape != expected:
        raise ValueError(f"it has {tuple(shape)} (dimension, lists, vectors, bytes a vector), not {tuple(expected)}")
    kind, lists, code_bytes, storage, count = _unpack(stream, _LISTS)
    if kind != b"ilar" or (lists, code_bytes) != (shape.lists, shape.code_bytes):
        raise ValueError(f"its {lists} lists of {code_bytes} bytes a vector contradict its head")
    if count * 8 > file_bytes - stream.tell():
        raise ValueError(f"{count} sizes of lists do not fit into {file_bytes} bytes")
    numbers = np.frombuffer(stream.read(count * 8), dtype="<u8")
    sizes, offset = _sizes(storage, numbers, shape), stream.tell()
    if int(sizes.sum()) != shape.vectors or offset + shape.vectors * (code_bytes + _ID_BYTES) != file_bytes:
        raise ValueError(f"{shape.vectors} vectors in lists of {int(sizes.sum())} do not make {file_bytes} bytes")
    return Layout(shape, sizes, offset)


def stored_rows(block: NDArray[np.uint8], layout: Layout) -> NDArray[np.int64]:
    """The ids of a whole file in memory, list by list, (vectors,) int64."""
    sizes, code_bytes = layout.sizes, layout.shape.code_bytes
    ends = np.cumsum(sizes)
    first = layout.offset + (ends - sizes) * (code_bytes + _ID_BYTES) + sizes * code_bytes
    at = np.repeat(first - (ends - sizes) * _ID_BYTES, sizes) + np.arange(layout.shape.vectors) * _ID_BYTES
    rows = np.empty(len(at), dtype="<i8")
    for start in range(0, len(at), _ROWS_AT_ONCE):
        places = at[start : start + _ROWS_AT_ONCE, None] + np.arange(_ID_BYTES)
        rows[start : start + _ROWS_AT_ONCE] = block[places].view("<i8")[:, 0]
    return rows.astype(np.int64, copy=False)


def _read_shape(stream: BinaryIO) -> Shape:
    kind, dim, vectors, _, _, trained, metric = _unpack(stream, _HEAD)
    if kind not in (b"IwSq", b"IwFl") or metric != 0 or not trained:
        raise ValueError("it holds no inverted lists with inner products")
    lists, _ = _unpack(stream, _COUNTS)
    quantizer, quantizer_dim, centroids, _, _, _, quantizer_metric = _unpack(stream, _HEAD)
    (codes,) = _unpack(stream, _QUANTIZER_CODES)
    if (quantizer, quantizer_dim, centroids, quantizer_metric, codes) != (b"IxFI", dim, 0, 0, 0):
        raise ValueError("its coarse quantizer is not empty")
    if _unpack(stream, _DIRECT_MAP) != (0, 0):
        raise ValueError("it has a direct map")
    code_bytes = 4 * dim
    if kind == b"IwSq":
        code_bytes = 2 * dim
        type_, _, _, own_dim, own_bytes, trained_numbers = _unpack(stream, _SCALARS)
        codec = (type_, own_dim, own_bytes, trained_numbers, *_unpack(stream, _CODES))
        if codec != (_HALF_PRECISION, dim, code_bytes, 0, code_bytes, False):
            raise ValueError("its vectors are not stored in half precision")
    if dim < 1 or vectors < 0:
        raise ValueError(f"it has dimension {dim} and {vectors} vectors")
    return Shape(dim, lists, vectors, code_bytes)


def _sizes(storage: bytes, numbers: NDArray[np.uint64], shape: Shape) -> NDArray[np.int64]:
    """The size of every list; `sprs` stores pairs of number and size of the lists that are not empty."""
    if storage == b"full" and len(numbers) == shape.lists:
        sizes = numbers
    elif storage == b"sprs" and len(numbers) % 2 == 0 and shape.lists <= _MOST_LISTS:
        which, some = numbers[::2], numbers[1::2]
        if len(which) and (int(which.max()) >= shape.lists or (which[1:] <= which[:-1]).any()):
            raise ValueError("its lists are out of order")
        sizes = np.zeros(shape.lists, dtype=np.uint64)
        sizes[which] = some
    else:
        raise ValueError(f"{len(numbers)} sizes ({storage!r}) are not those of {shape.lists} lists")
    if len(sizes) and int(sizes.max()) > shape.vectors:
        raise ValueError(f"a list has {int(sizes.max())} vectors, the file {shape.vectors}")
    return sizes.astype(np.int64)


def _unpack(stream: BinaryIO, layout: struct.Struct) -> tuple[Any, ...]:
    data = stream.read(layout.size)
    if len(data) < layout.size:
        raise ValueError("it is cut off in its head")
    return layout.unpack(data)
