"""A figure that was measured on a busy machine, too seldom, or with too much scatter is void."""

from pathlib import Path

import pytest

from benchmarks.support import validity
from benchmarks.support.validity import Watch, figure, report, spread

STEADY = [0.60, 0.62, 0.61, 0.63]


def watched(*pressure: float | None) -> Watch:
    samples = iter(pressure)
    with Watch(lambda: next(samples)) as watch:
        pass
    return watch


@pytest.mark.parametrize("pressure", [(0.0, 0.0), (0.1, 0.2), (None, None)])
def test_a_steady_series_on_a_quiet_machine_is_valid(pressure: tuple[float | None, ...]) -> None:
    assert watched(*pressure).faults(STEADY) == []


@pytest.mark.parametrize("pressure", [(0.7, 0.0), (0.0, 0.7), (None, 0.7)])
def test_load_of_others_before_or_after_makes_it_void(pressure: tuple[float | None, ...]) -> None:
    assert "in 70% of the time" in watched(*pressure).faults(STEADY)[0]


@pytest.mark.parametrize(
    ("series", "words"), [([2.06], "too few"), ([0.6, 0.6], "too few"), ([0.2, 0.6, 2.06], "scatter")]
)
def test_few_or_scattered_repetitions_make_it_void(series: list[float], words: str) -> None:
    assert words in watched(0.0, 0.0).faults(series)[0]


def test_differences_are_compared_with_what_they_are_added_to() -> None:
    differences = [-250.0, 12.0, 7.0, 300.0]
    assert watched(0.0, 0.0).faults(differences, base=20.0) != []
    assert watched(0.0, 0.0).faults([1.0, 7.0, 4.0], base=20.0) == []
    assert spread([1.0, 1.0, 1.0]) == 0
    assert spread([0.0, 0.0, 1.0, -1.0]) == float("inf")


def test_void_figures_are_not_printed_and_the_reason_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert (figure("206%", ["busy"]), figure("62%", [])) == ("void", "62%")
    assert report({"ratio": ["busy", "too few"], "other": []})
    assert capsys.readouterr().err.startswith("void: ratio: busy; too few. Repeat")
    assert not report({"other": []})


def test_pressure_is_read_as_linux_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu"
    path.write_text("some avg10=70.57 avg60=54.70 avg300=53.60 total=886531113\nfull avg10=0.00 total=0\n")
    monkeypatch.setattr(validity, "PRESSURE", path)
    assert validity._stalled_us() == 886531113
    assert validity._pressure_of_others() == 0
    monkeypatch.setattr(validity, "PRESSURE", tmp_path / "none")
    assert validity._pressure_of_others() is None
