"""The peak is what the system says that the process held, since it was last asked to forget."""

import mmap

import pytest

from indexer.evaluation.run import forget_peak, peak_mb


def test_peak_memory_rises_and_can_be_reset() -> None:
    if not forget_peak():
        pytest.skip("this system keeps one peak for the whole process")
    before = peak_mb()
    held = mmap.mmap(-1, 64_000_000)  # pages of its own: what a heap gives out may be resident already
    held.write(b"1" * len(held))
    with_it = peak_mb()
    assert with_it >= before + 50
    held.close()
    assert peak_mb() > with_it - 5  # the kernel counts pages per core, and sums them up late
    forget_peak()
    assert peak_mb() < with_it - 40
