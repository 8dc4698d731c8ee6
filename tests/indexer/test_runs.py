"""Run identity, locks and results folders."""

import errno
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from indexer.errors import DiskError, EvaluationError, RunLockedError, RunMismatchError
from indexer.runs import begin_run, check_results_folder, disk_errors, locked, try_lock, write_results_folder

HOLD = """
import sys, time
from pathlib import Path
from indexer.runs import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def begin(path: Path, resumable: bool = True, **identity: object) -> bool:
    return begin_run(path, identity, resumable=resumable, way_out="give another --out")


def test_a_run_begins_once_and_then_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert not begin(path, zooms=(4, 6))
    assert begin(path, zooms=(4, 6))
    assert json.loads(path.read_text()) == {"zooms": [4, 6]}


def test_another_identity_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    begin(path, zooms=(4, 6), codec="fp16", seed=1)
    with pytest.raises(RunMismatchError, match=r"\(codec was 'fp16' and is now 'fp32'\): give another --out"):
        begin(path, zooms=(4, 6), codec="fp32", seed=1)


def test_another_identity_replaces_one_without_work_to_lose(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    begin(path, seed=1)
    assert not begin(path, resumable=False, seed=2)
    assert begin(path, seed=2)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_an_unreadable_record_is_refused_if_there_is_work_to_lose(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RunMismatchError, match="cannot be read"):
        begin(path, seed=1)
    assert not begin(path, resumable=False, seed=1)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert try_lock(folder / "lock") is None
    with pytest.raises(RunLockedError, match="busy"), locked(folder, "busy"):
        pass
    process.kill()
    process.communicate()
    with locked(folder, "busy"):
        pass


def test_a_locked_folder_may_be_deleted_and_locked_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with locked(folder, "busy"):
        (folder / "lock").unlink()
        folder.rmdir()
        with locked(folder, "busy"):
            pass


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "another folder")])
def test_a_full_or_refusing_disk_is_a_disk_error(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(DiskError, match=words), disk_errors(tmp_path):
        raise OSError(number, "text", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "text")


def test_a_results_folder_is_whole_or_as_before(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fill(folder: Path) -> None:
        (folder / "report.json").write_text("new")

    def fail(folder: Path) -> None:
        (folder / "report.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    check_results_folder(out, "report.json", EvaluationError)
    write_results_folder(out, fill, EvaluationError)
    with pytest.raises(EvaluationError, match="No space left"):
        write_results_folder(out, fail, EvaluationError)
    assert (out / "report.json").read_text() == "new"
    check_results_folder(out, "report.json", EvaluationError)
    write_results_folder(out, fill, EvaluationError)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(EvaluationError, match=r"no report\.json"):
        check_results_folder(tmp_path, "report.json", EvaluationError)
    with pytest.raises(EvaluationError, match="is a file"):
        check_results_folder(tmp_path / "thesis.tex", "report.json", EvaluationError)
    with pytest.raises(EvaluationError, match="make it first"):
        check_results_folder(tmp_path / "no" / "out", "report.json", EvaluationError)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(EvaluationError, match=r"cannot be written \(Read-only file system\): name another folder"):
        check_results_folder(tmp_path / "out", "report.json", EvaluationError)
