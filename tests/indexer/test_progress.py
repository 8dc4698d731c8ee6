"""Progress is plain data: any module can report it without loading a heavy library."""

import subprocess
import sys

from indexer.progress import Progress, counter

HEAVY = ("faiss", "torch", "numpy", "shapely", "typer", "rich")


def test_importing_progress_loads_no_heavy_library() -> None:
    code = f"import sys, indexer.progress; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_importing_build_request_loads_neither_faiss_nor_torch() -> None:
    code = "import sys, indexer.build.request; print([m for m in ('faiss', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_counter_reports_each_call_as_one_step() -> None:
    steps: list[Progress] = []
    report = counter(steps.append, "embed", "Embedding photos")
    report(1, 5)
    report(2, 5)
    assert steps == [Progress("embed", "Embedding photos", 1, 5), Progress("embed", "Embedding photos", 2, 5)]
