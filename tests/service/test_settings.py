"""Settings are typed, checked, read from the environment once, and documented; so is every problem."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import service.errors
from retrieval import errors as retrieval_errors
from service.errors import ClientError, ServiceError, SettingsError, UnavailableError
from service.problems import TABLE, headers_of, kind_of, problem_of
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "http-api.md").read_text()


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field: "dataclasses.Field[Any]") -> None:
    default = (
        {"": "(empty)", False: "0"}.get(field.default, field.default) if field.type in (str, bool) else field.default
    )
    row = f"| `TILEBEAM_{field.name.upper()}` | {default} | {field.metadata['unit']} | {field.metadata['sentence']} |"
    assert row in DOCS


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"`TILEBEAM_(\w+)` \|", DOCS))
    assert named == {field.name.upper() for field in dataclasses.fields(Settings)}


def test_the_environment_goes_before_defaults_and_arguments_before_both() -> None:
    env = {
        "TILEBEAM_MAX_IMAGE_BYTES": "5",
        "TILEBEAM_CLIENT_TIMEOUT_S": "0.5",
        "TILEBEAM_SCORING": "paper",
        "HOME": "x",
    }
    settings = Settings.from_env(env)
    assert (settings.max_image_bytes, settings.client_timeout_s, settings.scoring) == (5, 0.5, "paper")
    assert Settings.from_env(env, scoring="posterior").scoring == "posterior"
    assert Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("MAX_IMAGE_BYTES", "20MB", "'20MB' is no whole number"),
        ("MAX_IMAGE_BYTES", "0", "at least 1 (bytes)"),
        ("THREADS", "-1", "at least 0"),
        ("CLIENT_TIMEOUT_S", "nan", "at least"),
        ("CLIENT_TIMEOUT_S", "inf", "at least"),
        ("SCORING", "best", "there are posterior and paper"),
        ("SPOOL_DIR", "/no/such/folder", "no directory"),
        ("ALLOW_ANONYMOUS", "maybe", "'maybe' is no 0 or 1"),
        ("FORMATS", "JPEG,BMP", "'bmp' cannot be decoded here"),
        ("FORMATS", "", "cannot be decoded here"),
        ("LOG_LEVEL", "loud", "there are debug, info, warning, error"),
        ("ANONYMOUS_RATE", "-1", "at least 0"),
        ("REQUEST_TIMEOUT_S", "0", "at least 0.001"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(name: str, value: str, named: str) -> None:
    with pytest.raises(SettingsError, match=f"TILEBEAM_{name}=") as caught:
        Settings.from_env({f"TILEBEAM_{name}": value})
    assert named in str(caught.value)


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        path.name
        for path in (ROOT / "service").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"settings.py", "cli.py"}  # cli.py sets OMP_NUM_THREADS before the engine is loaded


def descendants(cls: type[Exception]) -> set[type[Exception]]:
    return {cls}.union(*(descendants(sub) for sub in cls.__subclasses__()))


def test_every_error_that_a_request_can_meet_has_its_status() -> None:
    answered = descendants(retrieval_errors.PhotoError) | descendants(retrieval_errors.QueryError)
    answered |= descendants(ServiceError) - descendants(ClientError)
    abstract = {
        ServiceError,
        UnavailableError,
        retrieval_errors.PhotoError,
        service.errors.KeyFileError,  # ends `serve`, or is the reason of a ReloadError
        SettingsError,  # ends `serve`, never a request
        service.errors.AddressError,  # likewise
    }
    assert {cls for cls in answered - abstract if kind_of(cls("x")).status == 500} == set()


def test_every_problem_is_documented_with_its_status() -> None:
    for kind in TABLE.values():
        assert f"| {kind.status} | `{kind.slug}` |" in DOCS
    assert len({kind.slug for kind in TABLE.values()}) == len(TABLE)


def test_the_details_of_unexpected_errors_stay_inside() -> None:
    problem = problem_of(RuntimeError("password=hunter2"))
    assert problem["status"] == 500
    assert "hunter2" not in str(problem)
    assert headers_of(RuntimeError()) == {}
    assert headers_of(service.errors.OverloadedError("x", 9)) == {"Retry-After": "9"}
