"""Settings: validation, environment, documentation. Problem types: status and documentation."""

import ast
import re
from pathlib import Path

import pytest

import service.errors
from retrieval import errors as retrieval_errors
from service.errors import (
    PROBLEM_TYPES,
    ClientError,
    ServiceError,
    SettingsError,
    UnavailableError,
    headers_of,
    problem_of,
    problem_type_of,
)
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "http-api.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    field = Settings.model_fields[name]
    default = {"": "(empty)", False: "0"}[field.default] if field.default in ("", False) else field.default
    default = 0 if field.annotation is int and not field.default else default
    assert isinstance(field.json_schema_extra, dict)
    row = f"| `TILEBEAM_{name.upper()}` | {default} | {field.json_schema_extra['unit']} | {field.description} |"
    assert row in DOCS


def test_no_unknown_setting_is_documented() -> None:
    assert set(re.findall(r"`TILEBEAM_(\w+)` \|", DOCS)) == {name.upper() for name in Settings.model_fields}


def test_environment_overrides_defaults_and_arguments_override_both() -> None:
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
    ("name", "value", "expected"),
    [
        ("MAX_IMAGE_BYTES", "20MB", "='20MB' is invalid: Input should be a valid integer"),
        ("MAX_IMAGE_BYTES", "0", "greater than or equal to 1 (bytes)"),
        ("THREADS", "-1", "greater than or equal to 0"),
        ("CLIENT_TIMEOUT_S", "nan", "finite number"),
        ("CLIENT_TIMEOUT_S", "inf", "finite number"),
        ("SCORING", "best", "'posterior' or 'paper'"),
        ("SPOOL_DIR", "/no/such/folder", "not a directory"),
        ("ALLOW_ANONYMOUS", "maybe", "valid boolean"),
        ("FORMATS", "JPEG,PSD", "'psd' cannot be decoded here"),
        ("FORMATS", "", "cannot be decoded here"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("ANONYMOUS_RATE", "-1", "greater than or equal to 0"),
        ("REQUEST_TIMEOUT_S", "0", "greater than or equal to 0.001"),
    ],
)
def test_error_names_the_variable_and_its_value(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"TILEBEAM_{name}=") as caught:
        Settings.from_env({f"TILEBEAM_{name}": value})
    assert expected in str(caught.value)


def test_empty_flag_is_false_and_settings_are_frozen() -> None:
    settings = Settings.from_env({"TILEBEAM_ALLOW_ANONYMOUS": ""})
    assert settings.allow_anonymous is False
    with pytest.raises(ValueError, match="frozen"):
        settings.threads = 2


def test_environment_is_read_in_one_place() -> None:
    readers = {
        path.name
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == {"settings.py", "cli.py"}  # cli.py sets OMP_NUM_THREADS before the engine is loaded


def descendants(cls: type[Exception]) -> set[type[Exception]]:
    return {cls}.union(*(descendants(sub) for sub in cls.__subclasses__()))


def test_every_request_error_has_a_status() -> None:
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
    assert {cls for cls in answered - abstract if problem_type_of(cls("x")).status == 500} == set()


def test_every_problem_type_is_documented_with_its_status() -> None:
    for kind in PROBLEM_TYPES.values():
        assert f"| {kind.status} | `{kind.slug}` |" in DOCS
    assert len({kind.slug for kind in PROBLEM_TYPES.values()}) == len(PROBLEM_TYPES)


def test_details_of_unexpected_errors_are_not_disclosed() -> None:
    problem = problem_of(RuntimeError("password=hunter2"))
    assert problem["status"] == 500
    assert "hunter2" not in str(problem)
    assert headers_of(RuntimeError()) == {}
    assert headers_of(service.errors.OverloadedError("x", 9)) == {"Retry-After": "9"}
