"""The OpenAPI document: complete, true of the real answers, and equal to the committed file."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from retrieval.locator import Locator
from retrieval.search.query import LocateQuery
from service import reload
from service.access.admission import Admission, Caller, check_admin
from service.client.types import LocateOptions
from service.engine.inference import Inference
from service.errors import PROBLEM_TYPES, ServiceError
from service.http import routes, tiles
from service.http.models import PARAMETERS, Answer, LocateParams, example_of
from service.http.openapi import document, schemas
from service.ops.metrics import Metrics
from service.settings import Settings
from tile_cache.addressing import Tile, quadkey

ROOT = Path(__file__).parents[3]
SCHEMAS = schemas()
ANSWER = example_of(Answer)
CLIENT_ONLY = {"unreadable-file"}
NOT_OF_A_ROUTE = {"not-http"}
Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document([*routes.router.routes, *reload.router.routes, *tiles.router.routes], "0")


@pytest.fixture(scope="module")
def operations(described: dict[str, Any]) -> list[Operation]:
    return [(path, verb, operation) for path, verbs in described["paths"].items() for verb, operation in verbs.items()]


def wrong(schema: dict[str, Any], value: Any) -> list[str]:
    """The errors of a value against a schema."""
    whole = {**schema, "components": {"schemas": SCHEMAS}}
    return [str(error) for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)]


def contents(operation: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Status, media type and content of every response that has content."""
    return [
        (status, media_type, content)
        for status, answer in operation["responses"].items()
        for media_type, content in answer.get("content", {}).items()
    ]


def test_committed_files_are_up_to_date() -> None:
    command = [sys.executable, "scripts/export-openapi", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_export_check_reports_outdated_and_missing_files(tmp_path: Path) -> None:
    outdated = tmp_path / "docs/openapi.json"
    outdated.parent.mkdir()
    outdated.write_text("{}")
    command = [sys.executable, "scripts/export-openapi", "--check", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "openapi.json is outdated" in done.stderr
    assert "types.py is outdated" in done.stderr
    assert outdated.read_text() == "{}"


def test_running_service_serves_the_same_document(http: httpx.Client, described: dict[str, Any]) -> None:
    served = http.get("/openapi.json").json()
    assert {**served, "info": {}} == {**described, "info": {}}


def test_every_reference_has_a_component_and_every_component_is_valid(described: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(SCHEMAS)
    for schema in SCHEMAS.values():
        jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}})


def test_every_example_matches_its_schema(operations: list[Operation]) -> None:
    seen = 0
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            examples = [each["value"] for each in content.get("examples", {}).values()]
            examples += [content["example"]] if "example" in content else []
            for example in examples:
                assert wrong(content["schema"], example) == [], (path, status, media_type)
                seen += 1
    assert seen > 50


def test_every_text_response_has_an_example(operations: list[Operation]) -> None:
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            assert media_type.startswith("image/") or "example" in content or content["examples"], (path, status)


def test_every_problem_type_has_an_example_under_its_status(operations: list[Operation]) -> None:
    slugs = set()
    for path, _, operation in operations:
        for status, media_type, content in contents(operation):
            for slug, example in content.get("examples", {}).items():
                assert media_type == "application/problem+json"
                assert example["value"]["status"] == int(status)
                assert example["value"]["type"].endswith(slug)
                assert example["value"]["instance"].startswith(path.split("{")[0].rstrip("/"))
                slugs.add(slug)
        for status in ("429", "503"):
            assert "Retry-After" in operation["responses"].get(status, {"headers": "Retry-After"})["headers"]
    assert slugs == {kind.slug for kind in PROBLEM_TYPES.values()} - CLIENT_ONLY - NOT_OF_A_ROUTE | {"internal"}


def test_documented_details_are_the_real_messages(
    http: httpx.Client, locator: Locator, make_picture: Any, check_problem: Any
) -> None:
    admission, metrics = Admission(Settings(anonymous_rate=60)), Metrics()
    alice = Caller("alice", 60, admin=False)
    admission.charge(alice, 60)
    inference = Inference(locator, Settings(max_in_flight=1), metrics)
    inference.requests.take("alice")
    raised = {}
    for slug, call in {
        "rate-limited": lambda: admission.enter(alice),
        "forbidden": lambda: check_admin(alice),
        "overloaded": lambda: inference.requests.take("alice"),
    }.items():
        with pytest.raises(ServiceError) as caught:
            call()
        raised[slug] = str(caught.value)
    inference.close()
    sent: dict[str, dict[str, Any]] = {
        "invalid-request": {"files": {"image": make_picture()}, "params": {"k": 0}},
        "unsupported-body": {"content": b"text", "headers": {"Content-Type": "text/plain"}},
    }
    for slug, request in sent.items():
        raised[slug] = http.post("/locate", **request).json()["detail"]
    examples = {kind.slug: kind.example for kind in PROBLEM_TYPES.values()}
    assert {slug: without_numbers(detail) for slug, detail in raised.items()} == {
        slug: without_numbers(examples[slug]) for slug in raised
    }


def without_numbers(detail: str) -> str:
    """A detail with its numbers, and the unit counted, replaced."""
    return re.sub(r"\d+ (images|requests) are", "N things are", re.sub(r"\d+ s\b", "N s", detail))


def test_client_options_are_the_query_parameters() -> None:
    assert set(LocateOptions.__annotations__) == PARAMETERS


def test_query_parameters_are_fields_of_the_query_with_equal_defaults() -> None:
    assert LocateParams().query("posterior") == LocateQuery()
    assert {field.name for field in dataclasses.fields(LocateQuery)} >= PARAMETERS


def test_answer_example_is_consistent() -> None:
    answer = ANSWER
    for level in answer["levels"]:
        west, south, east, north = level["bounds"]
        assert west <= answer["lon"] <= east
        assert south <= answer["lat"] <= north
        assert level["quadkey"] == quadkey(Tile(level["tile"]["x"], level["tile"]["y"], level["tile"]["z"]))
    assert answer["confidence"] == answer["levels"][-1]["confidence"]


def test_real_answers_match_their_schemas(
    http: httpx.Client, operations: list[Operation], make_picture: Any, check_problem: Any
) -> None:
    responses = {path: operation["responses"] for path, _, operation in operations}
    question = {"k": 4, "alternatives": 2, "trace": "true"}
    for path, accept in (
        ("/locate", "application/json"),
        ("/locate/geojson", "application/json"),
        ("/locate", "application/geo+json"),
    ):
        answer = http.post(path, files={"image": make_picture()}, params=question, headers={"Accept": accept})
        described = "/locate" if answer.headers["content-type"] == "application/json" else "/locate/geojson"
        content = responses[described]["200"]["content"][answer.headers["content-type"]]
        assert wrong(content["schema"], answer.json()) == []
        assert (described == "/locate/geojson") == ("geojson" in path or "geo+json" in accept)
    batch = http.post("/locate/batch", files=[("images", ("a", make_picture())), ("images", ("b", b"none"))])
    content = responses["/locate/batch"]["200"]["content"][batch.headers["content-type"]]
    assert [wrong(content["x-item-schema"], json.loads(line)) for line in batch.text.splitlines()] == [[], []]
    for path in ("/index", "/healthz", "/readyz"):
        assert wrong(responses[path]["200"]["content"]["application/json"]["schema"], http.get(path).json()) == []
    refused = http.post("/locate", files={"image": b"none"})
    assert wrong(responses["/locate"]["400"]["content"]["application/problem+json"]["schema"], refused.json()) == []


def test_schemas_reject_wrong_answers() -> None:
    schema = {"$ref": "#/components/schemas/Answer"}
    assert wrong(schema, {**ANSWER, "confidence": 1.2})
    assert wrong(schema, {**ANSWER, "levels": []})
    assert wrong({"$ref": "#/components/schemas/Line"}, {"index": 0, "name": ""})


def test_security_of_each_operation(operations: list[Operation]) -> None:
    security = {path: operation["security"] for path, _, operation in operations}
    assert security["/healthz"] == security["/readyz"] == []
    assert security["/locate"] == [{"bearer": []}, {"apiKey": []}, {}]
    assert security["/index/reload"] == [{"bearer": []}, {"apiKey": []}]
