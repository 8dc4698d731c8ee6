"""Several processes that train as one: shares of work, and sums over processes. A single process has no overhead.

Started by torchrun (RANK, WORLD_SIZE, LOCAL_RANK in the environment): gloo between CPUs, NCCL between GPUs. Waiting for
the first process to embed photos or fill a cache may take hours, so the timeout is a day.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from indexer.errors import TrainingError

__all__ = ["Group"]

_TIMEOUT = timedelta(days=1)
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process, number `rank` of `size`. Process 0 writes files and reports progress."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Iterator["Group"]:
        """The group in which torchrun started this process, or a group of one; left at the end of the block."""
        if int(environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        if "RANK" not in environ:
            raise TrainingError("WORLD_SIZE is set but RANK is not: start with torchrun, or unset WORLD_SIZE")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_TIMEOUT)
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's share of `n` items, in the order of ranks; the shares' sizes differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, own: Tensor, n: int) -> Tensor:
        """All `n` rows, (n, d), from each process's `share(n)` of them."""
        if self.size == 1:
            return own
        rows = own.new_zeros((n, *own.shape[1:]))
        rows[self.share(n)] = own
        return self.add(rows)  # sums with zeros are exact, and the shares may differ in length

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.add(torch.zeros(1))  # on the CPU: waiting there keeps no GPU busy

    def first_then_all(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the others, which find the files that it wrote."""
        if self.first:
            result = work()
            self.barrier()
            return result
        self.barrier()
        return work()
