"""JSON files hold names that are not UTF-8 as text that can be read back."""

import os
from pathlib import Path

import pytest

from retrieval import files
from retrieval.errors import CacheFolderError
from retrieval.files import read_json, write_json


def test_a_name_that_is_not_utf8_is_written_as_an_escape(tmp_path: Path) -> None:
    name = os.fsdecode(b"t\xe9iles \xc3\xa9")
    write_json(tmp_path / "manifest.json", {"source": name, name: [name]})
    shown = "t\\xe9iles é"
    assert read_json(tmp_path / "manifest.json") == {"source": shown, shown: [shown]}


def test_without_a_home_the_cache_folder_is_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    with pytest.raises(CacheFolderError, match="set HOME or XDG_CACHE_HOME"):
        files.cache_folder()
