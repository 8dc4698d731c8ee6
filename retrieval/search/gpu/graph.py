"""A search of one shape captured in a CUDA graph: hundreds of small kernels started as one. CUDA only."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3
"""Runs before the capture, on a stream of their own: libraries allocate their workspaces at first use."""


class Captured:
    """`search` of a fixed shape. One caller at a time: input and output are the graph's own memory."""

    def __init__(self, search: Callable[[Tensor], Tensor], blank: Tensor) -> None:
        self._queries = blank
        here, beside = torch.cuda.current_stream(blank.device), torch.cuda.Stream(blank.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                search(blank)
        here.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # Thread-local, as another thread may be encoding meanwhile.
        with torch.cuda.device(blank.device), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._found = search(blank)

    def __call__(self, queries: Tensor) -> Tensor:
        """Search for (m, d) queries, m at most the captured n; what `search` returns, valid until the next call."""
        self._queries[: len(queries)].copy_(queries)
        self._graph.replay()
        return self._found
