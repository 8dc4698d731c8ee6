"""Every benchmark has a smallest form, which `.ci/run` executes."""

from pathlib import Path

from benchmarks import smoke


def test_every_benchmark_has_a_smallest_form() -> None:
    modules = {path.stem for path in Path(smoke.__file__).parent.glob("*.py")} - {"smoke", "__init__"}
    assert modules == set(smoke.SMALLEST)  # what benchmarks share lies in benchmarks/support


def test_programs_and_what_they_share_lie_apart() -> None:
    folder = Path(smoke.__file__).parent
    runs = {path: '__name__ == "__main__"' in path.read_text() for path in folder.rglob("*.py")}
    assert [path for path, is_program in runs.items() if is_program and path.parent != folder] == []
    assert [path for path, is_program in runs.items() if not is_program and path.parent == folder] == [
        folder / "__init__.py"
    ]


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
