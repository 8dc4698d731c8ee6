"""The OpenAPI description: true of the real answers, whole, and the same in the committed file."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import jsonschema_rs
import pytest

from service import reload
from service.client import types as contract
from service.http import openapi_examples, routes, tiles
from service.http.openapi import document
from service.http.openapi_schemas import COMPONENTS
from service.problems import TABLE
from tile_cache.addressing import Tile, quadkey

ROOT = Path(__file__).parents[3]
CLIENT_ONLY = {"unreadable-file"}
Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document([*routes.router.routes, *reload.router.routes, *tiles.router.routes], "0")


@pytest.fixture(scope="module")
def operations(described: dict[str, Any]) -> list[Operation]:
    return [(path, verb, found) for path, verbs in described["paths"].items() for verb, found in verbs.items()]


def wrong(schema: dict[str, Any], value: Any) -> list[str]:
    """What a schema finds wrong with a value."""
    whole = {**schema, "components": {"schemas": COMPONENTS}}
    return [str(error) for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)]


def contents(operation: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Status, media type and content of every answer that has one."""
    return [
        (status, media_type, content)
        for status, answer in operation["responses"].items()
        for media_type, content in answer.get("content", {}).items()
    ]


def test_the_committed_file_is_what_the_service_says() -> None:
    command = [sys.executable, "scripts/export-openapi", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_file_that_differs_is_told(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    for file in ("old.json", "missing.json"):
        command = [sys.executable, "scripts/export-openapi", "--check", str(tmp_path / file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, file in done.stderr) == (1, True)
    assert (tmp_path / "old.json").read_text() == "{}"


def test_a_running_service_says_the_same(http: httpx.Client, described: dict[str, Any]) -> None:
    told = http.get("/openapi.json").json()
    assert {**told, "info": {}} == {**described, "info": {}}


def test_every_reference_has_its_component(described: dict[str, Any]) -> None:
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert named == set(COMPONENTS)
    for schema in COMPONENTS.values():
        jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": COMPONENTS}})


def test_every_example_is_as_its_schema_says(operations: list[Operation]) -> None:
    seen = 0
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            examples = [each["value"] for each in content.get("examples", {}).values()]
            examples += [content["example"]] if "example" in content else []
            for example in examples:
                assert wrong(content["schema"], example) == [], (path, status, media_type)
                seen += 1
    assert seen > 50


def test_every_answer_in_words_has_an_example(operations: list[Operation]) -> None:
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            assert media_type.startswith("image/") or "example" in content or content["examples"], (path, status)


def test_every_problem_is_described_by_its_status(operations: list[Operation]) -> None:
    told = set()
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            for slug, example in content.get("examples", {}).items():
                assert media_type == "application/problem+json"
                assert example["value"]["status"] == int(status)
                assert example["value"]["type"].endswith(slug)
                assert example["value"]["instance"].startswith(path.split("{")[0].rstrip("/"))
                told.add(slug)
        for status in ("429", "503"):
            assert "Retry-After" in operation["responses"].get(status, {"headers": "Retry-After"})["headers"]
    assert told == {kind.slug for kind in TABLE.values()} - CLIENT_ONLY | {"internal"}


@pytest.mark.parametrize("name", ["Answer", "Level", "Tile", "Alternative", "Line", "Problem"])
def test_components_are_the_clients_types(name: str) -> None:
    typed = getattr(contract, name)
    assert set(COMPONENTS[name]["properties"]) == set(get_type_hints(typed))
    assert set(COMPONENTS[name]["required"]) == typed.__required_keys__


def test_the_example_is_one_that_could_be_answered() -> None:
    answer = openapi_examples.ANSWER
    for level in answer["levels"]:
        west, south, east, north = level["bounds"]
        assert west <= answer["lon"] <= east
        assert south <= answer["lat"] <= north
        assert level["quadkey"] == quadkey(Tile(level["tile"]["x"], level["tile"]["y"], level["tile"]["z"]))
    assert answer["confidence"] == answer["levels"][-1]["confidence"]


def test_real_answers_are_as_described(
    http: httpx.Client, operations: list[Operation], make_picture: Any, check_problem: Any
) -> None:
    said = {path: operation["responses"] for path, _, operation in operations}
    question = {"k": 4, "alternatives": 2, "trace": "true"}
    for accept in ("application/json", "application/geo+json"):
        answer = http.post("/locate", files={"image": make_picture()}, params=question, headers={"Accept": accept})
        assert wrong(said["/locate"]["200"]["content"][accept]["schema"], answer.json()) == []
    batch = http.post("/locate/batch", files=[("images", ("a", make_picture())), ("images", ("b", b"none"))])
    content = said["/locate/batch"]["200"]["content"][batch.headers["content-type"]]
    assert [wrong(content["x-item-schema"], json.loads(line)) for line in batch.text.splitlines()] == [[], []]
    for path in ("/index", "/healthz", "/readyz"):
        assert wrong(said[path]["200"]["content"]["application/json"]["schema"], http.get(path).json()) == []
    refused = http.post("/locate", files={"image": b"none"})
    assert wrong(said["/locate"]["400"]["content"]["application/problem+json"]["schema"], refused.json()) == []


def test_the_description_would_notice_a_wrong_answer() -> None:
    schema = {"$ref": "#/components/schemas/Answer"}
    assert wrong(schema, {**openapi_examples.ANSWER, "confidence": 1.2})
    assert wrong(schema, {**openapi_examples.ANSWER, "levels": []})
    assert wrong({"$ref": "#/components/schemas/Line"}, {"index": 0, "name": ""})


def test_keys_are_described_as_they_are_taken(operations: list[Operation]) -> None:
    said = {path: operation["security"] for path, _, operation in operations}
    assert said["/healthz"] == said["/readyz"] == []
    assert said["/locate"] == [{"bearer": []}, {"apiKey": []}, {}]
    assert said["/index/reload"] == [{"bearer": []}, {"apiKey": []}]
