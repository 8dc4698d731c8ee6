"""Inner products of stored vectors with float32 queries on a device, as exact as FAISS's: sums in float32.

On CUDA half-precision vectors are multiplied as they lie: a query is the sum of two halves, so that nothing of it is
lost and the tensor cores still sum in float32. Elsewhere they are widened first.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

_ALL_ROWS = 1 << 14
_LOW = 2048.0
"""The second half is kept this much larger: below 6e-5 halves lose precision."""


class Queries(NamedTuple):
    """Queries, (n, d) float32, and as halves, (2, n, d) float16: the rounded ones and 2048 times what they lack."""

    whole: Tensor
    halves: Tensor | None  # None: stored vectors are widened


def queries_of(queries: Tensor, dtype: torch.dtype) -> Queries:
    """Ready for comparing with vectors of `dtype` on the queries' device."""
    return Queries(queries, halved(queries) if dtype == torch.float16 and multiplies_halves(queries.device) else None)


def halved(queries: Tensor) -> Tensor:
    """(n, d) float32 to (2, n, d) float16: see `Queries`."""
    high = queries.half()
    return torch.stack([high, ((queries - high.float()) * _LOW).half()])


def products(vectors: Tensor, queries: Queries) -> Tensor:
    """Each query with vectors of its own: (n, c, d) and n queries to (n, c) float32."""
    if queries.halves is None:
        return torch.bmm(vectors.float(), queries.whole[:, :, None])[:, :, 0]
    both = torch.bmm(vectors, queries.halves.permute(1, 2, 0).contiguous(), out_dtype=torch.float32)
    return both[:, :, 0] + both[:, :, 1] / _LOW


def products_with_all(vectors: Tensor, queries: Queries) -> Tensor:
    """All queries with the same vectors: (v, d) and n queries to (n, v) float32."""
    if queries.halves is None:
        starts = range(0, len(vectors), _ALL_ROWS)
        return torch.cat([queries.whole @ vectors[a : a + _ALL_ROWS].float().T for a in starts], 1)
    both = torch.mm(queries.halves.flatten(0, 1), vectors.T, out_dtype=torch.float32)
    high, low = both.chunk(2)
    return high + low / _LOW


@cache
def multiplies_halves(device: torch.device) -> bool:
    """Whether this torch multiplies halves into float32 (`out_dtype`) there; tried once, as versions differ."""
    if device.type != "cuda":
        return False
    try:
        rows = torch.full((1, 8, 16), 0.1, dtype=torch.float16, device=device)
        made = torch.bmm(rows, rows[:, :2].mT.contiguous(), out_dtype=torch.float32)
        flat = torch.mm(rows[0], rows[0].T, out_dtype=torch.float32)
        return made.dtype == flat.dtype == torch.float32
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
