"""Every benchmark has a smallest form, which `.ci/run` executes."""

from pathlib import Path

from benchmarks import smoke


def test_every_benchmark_has_a_smallest_form() -> None:
    modules = {path.stem for path in Path(smoke.__file__).parent.glob("*.py")} - {"smoke"}
    assert modules - smoke.NO_BENCHMARKS == set(smoke.SMALLEST)


def test_a_failing_benchmark_is_reported_with_its_output(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(smoke.SMALLEST, "descent", smoke.Smallest("--no-such-option"))
    assert not smoke.run("descent", tmp_path)
    printed = capsys.readouterr()
    assert printed.out.startswith("failed   descent: exit code 2")
    assert "unrecognized arguments: --no-such-option" in printed.err


def test_a_missing_package_skips_a_benchmark_with_the_reason(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(smoke.SMALLEST, "density", smoke.Smallest("", needs="no_such_package"))
    assert smoke.run("density", tmp_path)
    assert capsys.readouterr().out == "skipped  density: no_such_package is not installed\n"
