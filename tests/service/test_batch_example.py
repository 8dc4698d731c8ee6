"""examples/batch_from_container.py, run as a program: locates a folder and prints lines of JSON."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def run(url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "examples/batch_from_container.py", url, folder]
    return subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)


def test_example_prints_line_per_picture_and_continues_after_bad_one(url: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for number, name in enumerate(("a.png", "below/c.png", *(f"d{n:02}.png" for n in range(40)))):
        Image.new("RGB", (40, 30), (number * 5, 90, 30)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "readme.txt").write_text("nor this")
    done = run(url, tmp_path)
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == ["a.png", "b.jpg", "below/c.png", *(f"d{n:02}.png" for n in range(40))]
    assert [line["file"] for line in lines if "error" in line] == ["b.jpg"]
    assert all(-90 < line["lat"] < 90 and 0 <= line["confidence"] <= 1 for line in lines if "error" not in line)
    assert done.returncode == 1
    assert done.stderr == "42 located, 1 not\n"


def test_example_reports_missing_service(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = run("http://127.0.0.1:9", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("after 0 pictures: no answer from http://127.0.0.1:9")
