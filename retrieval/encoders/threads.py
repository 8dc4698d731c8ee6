"""How many CPU threads encode pictures; everything that the program decides about them.

PyTorch and FAISS spread each call over OpenMP threads, and every thread that calls them gets OpenMP threads of its own,
which spin for a while after each call. Three decisions follow. (1) Encoding runs in one engine thread, and an index is
opened in a thread that ends, so that no other OpenMP threads compete with the engine's. (2) For a single picture,
waking the other threads may cost more than they save: 5 ms on one thread against 7 ms on two for the built-in encoder,
but 130 ms against 106 ms for ViT-B/32. It depends on model and machine, so it is measured once, in the engine thread
(`threads_for_single`). (3) While a group is encoded, other threads decode the next pictures; the cores are divided in
proportion to the work (`threads_beside_decoding`), which makes batches with the built-in encoder 1.5 times as fast.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["available_threads", "limited_threads", "measure_single", "threads_beside_decoding", "threads_for_single"]

_ROUNDS = 4
_PAUSE_S = 0.01
"""Pause before each measured call, after which the threads sleep, as they do between requests."""
_LONG_S = 0.03
"""A call that takes longer than this on all threads keeps all of them."""
_measured: dict[str, int] = {}


def available_threads() -> int:
    """Number of threads that PyTorch uses by default in this thread."""
    return torch.get_num_threads()


def threads_for_single(fingerprint: str, encode_one: Callable[[], object]) -> int:
    """The faster thread count for one picture; measured once per process and encoder fingerprint."""
    if fingerprint not in _measured:
        encode_one()  # the first call is slower for other reasons
        _measured[fingerprint] = measure_single(encode_one)
    return _measured[fingerprint]


def measure_single(encode_one: Callable[[], object]) -> int:
    """Whether `encode_one` is faster with one thread or with all of PyTorch's; returns that count. Takes up to 0.5 s.

    The result holds for the calling thread.
    """
    count = available_threads()
    if count == 1:
        return 1
    with_all, with_one = [], []
    for _ in range(_ROUNDS):
        with_all.append(_timed_s(encode_one, count))
        if min(with_all) > _LONG_S:
            return count
        with_one.append(_timed_s(encode_one, 1))
    return 1 if sorted(with_one)[_ROUNDS // 2] < sorted(with_all)[_ROUNDS // 2] else count


def threads_beside_decoding(encode_s: float, decode_s: float, decode_threads: int) -> int:
    """Number of threads to encode a group with while `decode_threads` threads decode the next pictures.

    `encode_s`, `decode_s`: seconds of one core per picture.
    """
    cores = available_threads()
    decoding_cores = min(decode_threads, cores * decode_s / (decode_s + encode_s))
    return max(1, round(cores - decoding_cores))


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use `count` threads inside the block; None changes nothing."""
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
    with limited_threads(count):
        time.sleep(_PAUSE_S)
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
