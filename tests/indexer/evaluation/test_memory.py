"""The peak is what the system says that the process held, since it was last asked to forget."""

import numpy as np
import pytest

from indexer.evaluation import memory


def test_the_peak_rises_with_what_is_held_and_can_be_forgotten() -> None:
    if not memory.forget_peak():
        pytest.skip("this system keeps one peak for the whole process")
    before = memory.peak_mb()
    held = np.ones(8_000_000)
    with_it = memory.peak_mb()
    assert with_it >= before + 50
    del held
    assert memory.peak_mb() > with_it - 5  # the kernel counts pages per core, and sums them up late
    memory.forget_peak()
    assert memory.peak_mb() < with_it - 40
