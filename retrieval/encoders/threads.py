"""How many threads one picture alone is encoded with: waking the others may cost more than they do.

Measured where it is used, because it depends on the model, the machine and OpenMP: a picture of the built-in encoder
takes 5 ms on one thread and 7 on two that have slept, one of ViT-B/32 130 and 106.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_ROUNDS = 4
_REST_S = 0.01
"""Between two pictures: threads that have just worked are still awake, and would look better than they are."""
_LONG_S = 0.03
"""What takes longer than this on all threads is work enough for them."""


_SOONEST: dict[str, int] = {}


def soonest(fingerprint: str, encode_one: Callable[[], object]) -> int:
    """`threads_for_one` of an encoder, measured once in a process for each fingerprint."""
    if fingerprint not in _SOONEST:
        encode_one()  # the first is slower for other reasons
        _SOONEST[fingerprint] = threads_for_one(encode_one)
    return _SOONEST[fingerprint]


def all_threads() -> int:
    """How many threads PyTorch takes in this thread unless it is told otherwise."""
    return torch.get_num_threads()


def threads_for_one(encode_one: Callable[[], object]) -> int:
    """How many threads `encode_one` is soonest done with: one, or all that PyTorch has. Takes up to 0.5 s.

    It holds for the thread that asks: each has OpenMP threads of its own, and they wait the less patiently the more
    there are in all.
    """
    most = all_threads()
    if most == 1:
        return 1
    with_all, with_one = [], []
    for _ in range(_ROUNDS):
        with_all.append(_timed_s(encode_one, most))
        if min(with_all) > _LONG_S:
            return most
        with_one.append(_timed_s(encode_one, 1))
    return 1 if sorted(with_one)[_ROUNDS // 2] < sorted(with_all)[_ROUNDS // 2] else most


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let PyTorch work with so many threads on what this thread does in the block; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed_s(work: Callable[[], object], count: int) -> float:
    with threads(count):
        time.sleep(_REST_S)
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
