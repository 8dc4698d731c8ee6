"""Opening a prior by its kind: unknown kinds, kinds that need files, packages that are missing."""

from pathlib import Path

import pytest

from retrieval.errors import PriorError
from retrieval.priors.base import write_kind
from retrieval.priors.registry import KINDS, Kind, kind_of, open_kind, open_prior


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PriorError, match="'oracle' is neither a prior of the index nor a kind of prior: use geocells"):
        open_kind("oracle", None)


def test_kind_that_needs_files_is_refused_without_a_directory() -> None:
    with pytest.raises(PriorError, match="calibrate --prior geocells=DIR"):
        open_kind("geocells", None)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def opened(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'brain'", name="brain")

    monkeypatch.setitem(KINDS, "brainy", Kind(opened, needs_files=False))  # type: ignore[arg-type]
    write_kind(tmp_path, "brainy")
    assert kind_of(tmp_path) == "brainy"
    with pytest.raises(PriorError, match="a brainy prior needs brain, which is not installed: pip install brain"):
        open_prior(tmp_path)


def test_missing_package_of_an_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setitem(KINDS, "geoclip", KINDS["geoclip"]._replace(open=opened))  # type: ignore[arg-type]
    with pytest.raises(
        PriorError, match=r"needs transformers, which is not installed: pip install 'tilebeam\[geoclip\]'"
    ):
        open_kind("geoclip", None)
