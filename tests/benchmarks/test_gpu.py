"""The GPU benchmark runs on CPU tensors, so that it works when a GPU is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_gpu_benchmark_runs_on_cpu_tensors(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--quick",
        "--out",
        str(tmp_path / "gpu.json"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert {"search", "descents", "answers", "JPEG to answer, groups of 4"} < set(rows)
    assert [row["note"] for row in found["rows"] if "did not run" in row["note"]] == []
    assert all(row["per_s"] > 0 for row in found["rows"])
    assert found["roofline_gb_per_s"] > 0
    assert "| search | 16 | 8 |" in done.stdout
