"""What commands say about values that they cannot use: the value, the way out, and exit code 2 before any work."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from indexer.training.settings import TrainSettings
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.errors import EncoderError
from tilebeam import app

URL = "http://127.0.0.1:9/{z}/{x}/{y}.png"
WORLD = ("--world", "--zooms", "4")
TRAIN = ("train", "--photos", "x", "--source", "bluemarble", "--zooms", "4", "--out", "o")
CALIBRATE = ("calibrate", "--index", "x", "--photos", "y")
EVALUATE = ("evaluate", "--index", "x", "--photos", "y")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("index", "--source", "bluemarble", "--bbox", "5", "4", *WORLD, "--out", "o"), "bbox='5,4' has 2 values"),
        (("index", "--source", "bluemarble", "--bbox", "5", "95", "6", "96", *WORLD[1:], "--out", "o"), "south is 95"),
        (("index", "--source", "bluemarble", "--world", "--zooms", "4,30", "--out", "o"), "zoom 30"),
        (("index", "--source", "bluemarble", *WORLD, "--land", "3", "--out", "o"), "3.0"),
        (("plan", "--source", "bluemarble", *WORLD, "--rate", "-3"), "--rate -3.0"),
        (("plan", "--source", "bluemarble", *WORLD, "--dim", "0"), "--dim 0"),
        (("plan", "--source", "bluemarble", *WORLD, "--dim", "many"), "many"),
        (("fetch", "--source", URL, *WORLD, "--rate", "0"), "rate_per_s=0.0"),
        (("fetch", "--source", URL, *WORLD, "--concurrency", "0"), "concurrency=0"),
        (("fetch", "--source", URL, *WORLD, "--absent", "99"), "status 99"),
        (("fetch", "--source", URL, *WORLD, "--concurrency", "100000"), "at most 1,024"),
        (("index", "--source", "bluemarble", *WORLD, "--out", "o", "--codec", "fp8"), "unknown codec 'fp8'"),
        (("index", "--source", "bluemarble", *WORLD, "--out", "o", "--device", "gpu"), "unknown device 'gpu'"),
        (("plan", "--source", "bluemarble", *WORLD, "--deep-geojson", "deep.json"), "zooms from 10 on"),
        (("calibrate", "--index", "i", "--photos", "p.csv", "--device", "tpu"), "unknown device 'tpu'"),
        (("evaluate", "--index", "i", "--photos", "p.csv", "--device", "tpu"), "unknown device 'tpu'"),
        ((*TRAIN, "--epochs", "0"), "--epochs 0"),
        ((*TRAIN, "--lr", "-1"), "--lr -1"),
        ((*TRAIN, "--lr", "nan"), "--lr nan"),
        ((*TRAIN, "--temperature", "0"), "--temperature 0"),
        ((*TRAIN, "--split-ratio", "0:1:1"), "0:1:1"),
        ((*CALIBRATE, "--layout", "nonsense"), "'nonsense'"),
        ((*TRAIN, "--rate", "0"), "rate_per_s=0.0"),
        ((*TRAIN, "--threads", "0"), "'0'"),
        ((*CALIBRATE, "--elsewhere-share", "3"), "3.0"),
        ((*CALIBRATE, "--k", "0"), "k is 0"),
        ((*CALIBRATE, "--limit", "0"), "'0'"),
        ((*CALIBRATE, "--prior", "No Such"), "No Such"),
        ((*EVALUATE, "--k", "0"), "k is 0"),
        ((*EVALUATE, "--bootstrap", "-1"), "'-1'"),
        (("geocells", "fit", "--photos", "x", "--out", "y", "--xi", "5"), "--xi 5"),
        (("prior", "geoclip", "--out", "p", "--temperature", "-1"), "-1.0"),
    ],
)
def test_a_value_out_of_range_is_named_and_wrong_usage(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert words in result.output, result.output
    assert result.exit_code == 2, result.output
    assert not list(tmp_path.iterdir())


def test_unknown_photo_encoder_lists_the_built_in_one() -> None:
    with pytest.raises(EncoderError, match="Give builtin, MODEL:TAG"):
        PhotoEncoder.load("nope", device="cpu")


def test_train_takes_pictures_that_mean_no_data(tmp_path: Path) -> None:
    result = run(*TRAIN[:-1], str(tmp_path / "o"), "--absent-image", "no-such-file.png")
    assert result.exit_code == 2
    assert "'no-such-file.png' is neither a file" in result.output
    assert TrainSettings().epochs == 5
