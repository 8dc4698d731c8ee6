"""Peak memory, as the system reports it since the last reset."""

import mmap

import pytest

from indexer.evaluation.run import forget_peak, peak_mb


def test_peak_memory_rises_and_can_be_reset() -> None:
    if not forget_peak():
        pytest.skip("this system cannot reset the peak")
    before = peak_mb()
    block = mmap.mmap(-1, 64_000_000)  # new pages: memory from the heap may be resident already
    block.write(b"1" * len(block))
    with_block = peak_mb()
    assert with_block >= before + 50
    block.close()
    assert peak_mb() > with_block - 5  # the kernel counts pages per core and sums up late
    forget_peak()
    assert peak_mb() < with_block - 40
