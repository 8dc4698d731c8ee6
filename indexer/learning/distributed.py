"""Several processes as one: who does what share, and sums over all. A process alone pays nothing for it.

Started by torchrun (RANK, WORLD_SIZE, LOCAL_RANK in the environment): gloo between CPUs, NCCL between GPUs. Waiting for
the first process to embed photos or fill a cache may take hours, so nothing here times out before a day.
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

_PATIENCE = timedelta(days=1)
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process among `size`; the one of rank 0 writes files and talks."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Iterator["Group"]:
        """The group that torchrun started this process in, or one of itself; left again at the end."""
        if int(environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        if "RANK" not in environ:
            raise TrainingError("WORLD_SIZE is set but RANK is not: start with torchrun, or take WORLD_SIZE away")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of `n` things in a row; the parts are in the order of ranks and differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gather(self, part: Tensor, n: int) -> Tensor:
        """All `n` rows, (n, d), from each process's `share(n)` of them."""
        if self.size == 1:
            return part
        whole = part.new_zeros((n, *part.shape[1:]))
        whole[self.share(n)] = part
        return self.add(whole)  # sums with zeros are exact, and parts may differ in length

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.add(torch.zeros(1))  # on the CPU, where waiting for hours costs no GPU time

    def first_then_all(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the others, which find its files."""
        if self.first:
            done = work()
            self.barrier()
            return done
        self.barrier()
        return work()
