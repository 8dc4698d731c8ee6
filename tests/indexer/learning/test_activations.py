"""The cache of activations: what it returns and stores, and what remains after kills, full disks and damage."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning import row_store
from indexer.learning.activations import ActivationCache, CacheLimits

ROOT = Path(__file__).parents[3]
ROWS, SHAPE = 40, (3, 8)
ROW_BYTES = 3 * 8 * 4
LIMITS = CacheLimits(bytes=1 << 20)


def truth(rows: NDArray[np.int64], shape: tuple[int, int] = SHAPE) -> Tensor:
    """Activations that follow from the row's number alone."""
    t, width = shape
    seeds = torch.from_numpy(np.asarray(rows))[:, None, None]
    return torch.sin(seeds * 1.7 + torch.arange(t * width).reshape(1, t, width) * 0.31).float()


class Counting:
    """Computes rows with `truth`, and records the requested row numbers."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        self.requests.append(rows.tolist())
        return truth(rows)


def refuse(rows: NDArray[np.int64]) -> Tensor:
    raise AssertionError(f"rows {rows} should have been stored")


def ignore(done: int, total: int) -> None:
    pass


def opened(directory: Path, key: str = "trunk", limits: CacheLimits = LIMITS) -> ActivationCache:
    return ActivationCache.open(directory, key, ROWS, SHAPE, limits)


def room_for(rows: int) -> CacheLimits:
    return CacheLimits(bytes=4096 + rows * (ROW_BYTES + 4))


def size_on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_rows_keep_the_requested_order_and_are_computed_once(tmp_path: Path) -> None:
    compute, rows = Counting(), np.array([7, 3, 39, 3, 0])
    with opened(tmp_path) as cache:
        assert torch.equal(cache.get(rows, compute), truth(rows))
        assert compute.requests == [[0, 3, 7, 39]], "duplicates once"
        mixed = np.array([5, 39, 5, 0, 4])
        assert torch.equal(cache.get(mixed, compute), truth(mixed))
        assert compute.requests[1:] == [[4, 5]], "only what is missing"
        assert torch.equal(cache.get(mixed, refuse), truth(mixed))
        assert cache.get(np.empty(0, dtype=np.int64), refuse).shape == (0, *SHAPE)
        assert (cache.filled, cache.fits, cache.note) == (6, ROWS, "")


def test_another_run_reads_stored_rows(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.get(np.arange(10, 20), truth)
    with opened(tmp_path) as again:
        assert again.filled == 10
        assert torch.equal(again.get(np.arange(10, 20), refuse), truth(np.arange(10, 20)))


def test_fill_stores_what_fits_and_resumes(tmp_path: Path) -> None:
    compute, progress = Counting(), []
    with opened(tmp_path) as cache:
        cache.get(np.arange(8, 13), truth)
        cache.fill(compute, batch=8, on_progress=lambda done, total: progress.append((done, total)))
        assert progress == [(8, 40), (16, 40), (24, 40), (32, 40), (40, 40)]
        assert compute.requests[1] == list(range(8, 16)), "a run is computed whole: the same bits after a kill"
        assert cache.filled == ROWS
    with opened(tmp_path) as again:
        again.fill(refuse, batch=8, on_progress=ignore)
        assert torch.equal(again.get(np.arange(ROWS), refuse), truth(np.arange(ROWS)))


def test_rows_that_do_not_fit_are_computed_each_time(tmp_path: Path) -> None:
    compute, limits = Counting(), room_for(12)
    with opened(tmp_path, limits=limits) as cache:
        assert cache.fits == 12
        assert "12 of 40" in cache.note
        cache.fill(truth, batch=5, on_progress=ignore)
        rows = np.array([11, 12, 39, 0])
        for _ in range(2):
            assert torch.equal(cache.get(rows, compute), truth(rows))
        assert compute.requests == [[12, 39]] * 2
    assert size_on_disk(tmp_path) <= limits.bytes


@pytest.mark.parametrize("limit", [0, 4096, 4096 + ROW_BYTES])
def test_limit_below_one_row_writes_nothing(tmp_path: Path, limit: int) -> None:
    with opened(tmp_path / "cache", limits=CacheLimits(bytes=limit)) as cache:
        assert (cache.fits, cache.filled) == (0, 0)
        assert "holds no activations" in cache.note
        cache.fill(refuse, batch=4, on_progress=ignore)
        assert torch.equal(cache.get(np.array([2, 1]), truth), truth(np.array([2, 1])))
    assert not (tmp_path / "cache").exists()


def test_cache_uses_disk_only_as_it_fills(tmp_path: Path) -> None:
    shape = (50, 768)
    with ActivationCache.open(tmp_path, "k", 100_000, shape, CacheLimits(bytes=1 << 30)) as cache:
        cache.get(np.array([0, cache.fits - 1]), lambda rows: truth(rows, shape))
        allocated = sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
        assert size_on_disk(tmp_path) <= 1 << 30
        assert allocated < 1 << 20


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_rows_take_half_the_disk_and_have_the_same_bits_read_or_computed(tmp_path: Path, dtype: str) -> None:
    rows = np.arange(ROWS)
    expected = truth(rows).to(getattr(torch, dtype)).float()
    with opened(tmp_path, limits=CacheLimits(bytes=4096 + 30 * (ROW_BYTES // 2 + 4), dtype=dtype)) as cache:
        assert cache.fits == 30
        for _ in range(2):
            assert torch.equal(cache.get(rows, truth), expected)


def test_overflow_of_float16_is_an_error(tmp_path: Path) -> None:
    with (
        opened(tmp_path, limits=CacheLimits(dtype="float16")) as cache,
        pytest.raises(TrainingError, match="bfloat16"),
    ):
        cache.get(np.array([1]), lambda rows: truth(rows) * 1e6)


@pytest.mark.parametrize(
    "other",
    [
        lambda d: opened(d, key="another trunk"),
        lambda d: opened(d, limits=CacheLimits(1 << 20, "float16")),
        lambda d: ActivationCache.open(d, "trunk", ROWS + 1, SHAPE, LIMITS),
        lambda d: ActivationCache.open(d, "trunk", ROWS, (8, 3), LIMITS),
        lambda d: opened(d, limits=room_for(20)),
    ],
    ids=["key", "dtype", "rows", "shape", "smaller limit"],
)
def test_cache_of_another_identity_is_replaced(tmp_path: Path, other: Callable[[Path], ActivationCache]) -> None:
    with opened(tmp_path) as cache:
        cache.fill(truth, batch=8, on_progress=ignore)
    with other(tmp_path) as cache:
        assert cache.writes
        assert cache.filled == 0


def test_larger_limit_keeps_stored_rows(tmp_path: Path) -> None:
    with opened(tmp_path, limits=room_for(12)) as cache:
        cache.fill(truth, batch=8, on_progress=ignore)
    with opened(tmp_path, limits=room_for(30)) as cache:
        assert (cache.filled, cache.fits) == (12, 30)
        assert torch.equal(cache.get(np.arange(12), refuse), truth(np.arange(12)))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("activations.state", lambda data: data[:-4]),
        ("activations.state", lambda data: b""),
        ("activations.state", lambda data: b"\xff" * len(data)),
        ("activations.state", lambda data: b"[" * len(data)),
        ("activations.state", lambda data: json.dumps({"fits": 3}).encode()),
        ("activations.bin", lambda data: data[:-1]),
        ("activations.bin", lambda data: b""),
    ],
)
def test_damaged_cache_is_replaced(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    with opened(tmp_path) as cache:
        cache.fill(truth, batch=8, on_progress=ignore)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with opened(tmp_path) as cache:
        assert cache.filled == 0
        assert torch.equal(cache.get(np.arange(ROWS), truth), truth(np.arange(ROWS)))
    (tmp_path / name).unlink()
    with opened(tmp_path) as cache:
        assert cache.filled == 0


def test_flipped_bit_loses_only_its_row(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        cache.fill(truth, batch=8, on_progress=ignore)
    with (tmp_path / "activations.bin").open("r+b") as file:
        file.seek(5 * ROW_BYTES + 11)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    compute, rows = Counting(), np.array([4, 5, 6, 5])
    with opened(tmp_path) as cache:
        assert torch.equal(cache.get(rows, compute), truth(rows))
        assert compute.requests == [[5]]
    with opened(tmp_path) as cache:
        assert torch.equal(cache.get(rows, refuse), truth(rows))


def test_one_process_writes_and_the_others_read(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        first.fill(truth, batch=8, on_progress=ignore)
        with opened(tmp_path) as second:  # flock is by open file: a second one here is as one in another process
            assert not second.writes
            assert "only reads" in second.note
            assert torch.equal(second.get(np.arange(ROWS), refuse), truth(np.arange(ROWS)))
        with opened(tmp_path, key="of another run") as stranger:
            assert (stranger.fits, stranger.writes) == (0, False)
            assert "another run" in stranger.note
            assert torch.equal(stranger.get(np.arange(4), truth), truth(np.arange(4)))
        assert first.filled == ROWS
    with opened(tmp_path) as later:
        assert later.writes


def test_reader_sees_rows_committed_while_it_is_open(tmp_path: Path) -> None:
    with opened(tmp_path) as writer, opened(tmp_path) as reader:
        compute = Counting()
        for _ in range(2):  # a reader keeps nothing
            reader.get(np.array([1, 2]), compute)
        reader.fill(refuse, batch=8, on_progress=ignore)
        assert compute.requests == [[1, 2]] * 2
        writer.fill(truth, batch=8, on_progress=ignore)
        assert torch.equal(reader.get(np.arange(ROWS), refuse), truth(np.arange(ROWS)))


def test_open_reader_is_not_affected_when_the_cache_is_replaced(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    writer.fill(truth, batch=8, on_progress=ignore)
    with opened(tmp_path) as reader:
        writer.close()
        with opened(tmp_path, key="next zoom") as after:
            after.fill(lambda rows: truth(rows) + 1, batch=8, on_progress=ignore)
            assert torch.equal(reader.get(np.arange(ROWS), refuse), truth(np.arange(ROWS)))


def fail_after(rows: int, code: int) -> Callable[[int, memoryview, int], int]:
    """A disk with room for this many more rows and half a row; allocated bytes, as checksums, can be overwritten."""
    real, left, data = os.pwrite, [rows], set[int]()

    def pwrite(handle: int, piece: memoryview, at: int) -> int:
        data.update({handle} if not data else ())  # bytes go first, then sums
        if handle not in data:
            return real(handle, piece, at)
        left[0] -= 1
        if left[0] == -1:
            return real(handle, piece[: len(piece) // 2], at)
        if left[0] < -1:
            raise OSError(code, os.strerror(code))
        return real(handle, piece, at)

    return pwrite


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("room", [0, 1, 10, 35])
def test_full_disk_is_noted_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, room: int
) -> None:
    monkeypatch.setattr(row_store, "COMMIT_BYTES", 8 * ROW_BYTES)
    with opened(tmp_path) as cache:
        monkeypatch.setattr(os, "pwrite", fail_after(room, code))
        cache.fill(truth, batch=8, on_progress=ignore)
        assert os.strerror(code) in cache.note
        assert not cache.writes
        for _ in range(2):
            assert torch.equal(cache.get(np.arange(ROWS), truth), truth(np.arange(ROWS)))
    monkeypatch.undo()
    with opened(tmp_path) as again:
        assert again.filled == room, "rows stored before the disk filled up stay"
        assert torch.equal(again.get(np.arange(ROWS), truth), truth(np.arange(ROWS)))
        assert again.filled == ROWS


def test_rows_of_a_failed_flush_count_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as cache:
        cache.get(np.arange(4), truth)
        cache.commit()
        cache.get(np.arange(8), truth)

        def fsync(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        cache.commit()
        assert (cache.filled, cache.writes) == (4, False)
        assert "No space left" in cache.note


def test_unusable_directory_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with opened(tmp_path / "file") as cache:
        assert cache.fits == 0
        assert str(tmp_path / "file") in cache.note
        assert torch.equal(cache.get(np.arange(3), truth), truth(np.arange(3)))


@pytest.mark.parametrize("rows", [[-1], [ROWS], [[1, 2]]])
def test_row_numbers_out_of_range_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with opened(tmp_path) as cache, pytest.raises(TrainingError, match="cache of 40"):
        cache.get(np.array(rows), truth)


def test_wrong_shapes_and_settings_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as cache, pytest.raises(TrainingError, match="shape"):
        cache.get(np.array([1, 2]), lambda rows: truth(rows)[:1])
    with pytest.raises(TrainingError, match="float32, float16, bfloat16"):
        CacheLimits(dtype="float8")
    with pytest.raises(TrainingError, match="-1 bytes"):
        CacheLimits(bytes=-1)


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums are written after every five rows."""
    monkeypatch.setattr(row_store, "COMMIT_BYTES", 5 * ROW_BYTES)


@pytest.mark.parametrize("half", [True, False], ids=["mid-write", "before a write"])
@pytest.mark.parametrize("at", [1, 2, 5, 6, 7, 12, 25, 48])
def test_kill_at_any_write_leaves_only_complete_rows(tmp_path: Path, small_commits: None, at: int, half: bool) -> None:
    """A forked child is killed before or in the middle of its n-th write, of data or of checksums."""
    child = os.fork()
    if child == 0:
        real, calls = os.pwrite, [0]

        def pwrite(handle: int, data: memoryview, offset: int) -> int:
            calls[0] += 1
            if calls[0] == at:
                if half:
                    real(handle, data[: len(data) // 2 + 1], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(handle, data, offset)

        os.pwrite = pwrite
        opened(tmp_path).fill(truth, batch=5, on_progress=ignore)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    check_after_kill(tmp_path, SHAPE, ROWS, minimum=(at - 1) // 6 * 5)


def check_after_kill(directory: Path, shape: tuple[int, int], rows: int, minimum: int) -> None:
    """Every stored row is correct, at least `minimum` rows are stored, and the rest can be computed."""
    numbers = np.arange(rows)
    computed: list[int] = []

    def compute(missing: NDArray[np.int64]) -> Tensor:
        computed.extend(missing.tolist())
        return truth(missing, shape)

    with ActivationCache.open(directory, "trunk", rows, shape, CacheLimits()) as cache:
        assert cache.writes, "a dead process holds no lock"
        assert cache.filled >= minimum
        assert torch.equal(cache.get(numbers, compute), truth(numbers, shape))
        assert len(computed) <= rows - minimum
        assert cache.filled == rows


KILLED = """
import sys
from pathlib import Path
import numpy as np, torch
from indexer.learning import row_store
from indexer.learning.activations import ActivationCache, CacheLimits
row_store.COMMIT_BYTES = 20 * 50 * 768 * 4
def truth(rows):
    seeds = torch.from_numpy(rows)[:, None, None]
    return torch.sin(seeds * 1.7 + torch.arange(50 * 768).reshape(1, 50, 768) * 0.31).float()
cache = ActivationCache.open(Path(sys.argv[1]), "trunk", 600, (50, 768), CacheLimits())
cache.fill(truth, batch=8, on_progress=lambda done, total: print(done, flush=True))
"""


def test_sigkill_leaves_only_complete_rows(tmp_path: Path) -> None:
    """Rows of ViT-B/32's size, written by a process that is killed from outside."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 200:
        pass
    time.sleep(0.013)
    process.kill()
    process.communicate(timeout=600)
    check_after_kill(tmp_path, (50, 768), 600, minimum=150)
