"""Inner products of stored vectors with float32 queries on a device, with sums in float32, as exact as FAISS's.

On CUDA, float16 vectors are multiplied as they are stored. A query is split into the sum of two float16 numbers, so
nothing of it is lost, and the tensor cores sum in float32. On other devices the vectors are converted to float32.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS_AT_ONCE = 1 << 14
_LOW_SCALE = 2048.0
"""The second half of a query is stored times this: float16 loses precision below 6e-5."""


class Queries(NamedTuple):
    """Queries, (n, d) float32, and their halves, (2, n, d) float16: rounded, and 2048 times the rounding error."""

    whole: Tensor
    halves: Tensor | None  # None: stored vectors are converted to float32


def queries_of(queries: Tensor, dtype: torch.dtype) -> Queries:
    """Prepare (n, d) float32 queries for vectors of `dtype` on the queries' device."""
    return Queries(queries, halved(queries) if dtype == torch.float16 and multiplies_halves(queries.device) else None)


def halved(queries: Tensor) -> Tensor:
    """(n, d) float32 to (2, n, d) float16: see `Queries`."""
    high = queries.half()
    return torch.stack([high, ((queries - high.float()) * _LOW_SCALE).half()])


def products(vectors: Tensor, queries: Queries) -> Tensor:
    """Products of each query with its own vectors: (n, c, d) and n queries to (n, c) float32."""
    if queries.halves is None:
        return torch.bmm(vectors.float(), queries.whole[:, :, None])[:, :, 0]
    both = torch.bmm(vectors, queries.halves.permute(1, 2, 0).contiguous(), out_dtype=torch.float32)
    return both[:, :, 0] + both[:, :, 1] / _LOW_SCALE


def products_with_all(vectors: Tensor, queries: Queries) -> Tensor:
    """Products of all queries with the same vectors: (v, d) and n queries to (n, v) float32."""
    if queries.halves is None:
        starts = range(0, len(vectors), _ROWS_AT_ONCE)
        return torch.cat([queries.whole @ vectors[a : a + _ROWS_AT_ONCE].float().T for a in starts], 1)
    both = torch.mm(queries.halves.flatten(0, 1), vectors.T, out_dtype=torch.float32)
    high, low = both.chunk(2)
    return high + low / _LOW_SCALE


@cache
def multiplies_halves(device: torch.device) -> bool:
    """Whether torch can multiply float16 into float32 (`out_dtype`) on a device. Tried once, as versions differ."""
    if device.type != "cuda":
        return False
    try:
        rows = torch.full((1, 8, 16), 0.1, dtype=torch.float16, device=device)
        batched = torch.bmm(rows, rows[:, :2].mT.contiguous(), out_dtype=torch.float32)
        flat = torch.mm(rows[0], rows[0].T, out_dtype=torch.float32)
        return batched.dtype == flat.dtype == torch.float32
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
