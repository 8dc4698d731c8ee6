"""Clients generated from the OpenAPI document: what makes generators produce types that need no cast.

The generators are no dependency of this project: their tests run where `openapi-python-client` (in an environment of
its own) or `openapi-typescript` and `tsc` are on the path. What broke generated clients is tested without them.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import reload
from service.access.keys import add_key
from service.http import routes, tiles
from service.http.openapi import document

DOCUMENT = document([*routes.router.routes, *reload.router.routes, *tiles.router.routes], "0")
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}


def parts(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and all schemas in it, each with its path."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    for name, child in schema.get("properties", {}).items():
        yield from parts(child, f"{where}.{name}")
    for keyword in ("items", "additionalProperties"):
        yield from parts(schema.get(keyword), f"{where}.{keyword}")
    for keyword in ("anyOf", "oneOf", "allOf"):
        for number, child in enumerate(schema.get(keyword, ())):
            yield from parts(child, f"{where}.{keyword}{number}")


def every_schema() -> list[tuple[str, dict[str, Any]]]:
    """All schemas of components, parameters, bodies and responses."""
    whole = [pair for name, schema in SCHEMAS.items() for pair in parts(schema, name)]
    for name, operation in OPERATIONS.items():
        for parameter in operation.get("parameters", ()):
            whole += parts(parameter["schema"], f"{name}({parameter['name']})")
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            whole += parts(content["schema"], f"{name} body {media_type}")
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                whole += parts(content["schema"], f"{name} {status} {media_type}")
    return whole


def test_every_schema_has_a_type() -> None:
    untyped = [
        where for where, schema in every_schema() if not {"type", "$ref", "anyOf", "oneOf", "allOf"} & set(schema)
    ]
    assert untyped == []


def test_no_object_and_no_array_leaves_its_contents_open() -> None:
    """Generators make `dict[str, Any]` or `unknown[]` of these."""
    bare = [where for where, s in every_schema() if s.get("type") == "object" and not contents_of(s)]
    bare += [where for where, s in every_schema() if s.get("type") == "array" and not s.get("items")]
    assert bare == []


def contents_of(schema: dict[str, Any]) -> bool:
    return bool(schema.get("properties") or isinstance(schema.get("additionalProperties"), dict))


def test_alternatives_are_types_and_not_conditions() -> None:
    """A `oneOf` of lists of required names became `Line1` and `Line2`, or `unknown`."""
    wrong = [
        where
        for where, schema in every_schema()
        for keyword in ("anyOf", "oneOf")
        for choice in schema.get(keyword, ())
        if not {"type", "$ref"} & set(choice)
    ]
    assert wrong == []


def test_inline_types_do_not_take_the_names_of_components() -> None:
    """Generators name an inline enum or object after its property: `status` of `Status` became `Status1`."""
    names = Counter(re.sub(r"[^a-z0-9]", "", name.lower()) for name in SCHEMAS)
    assert [name for name, count in names.items() if count > 1] == []
    clashes = [
        where
        for where, schema in every_schema()
        if "." in where and ("enum" in schema or schema.get("properties")) and where.rsplit(".", 1)[1].lower() in names
    ]
    assert clashes == []


def test_answer_of_each_operation_is_one_type() -> None:
    """Two media types in one answer become a union, which every caller has to cast."""
    for name, operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            schemas = {json.dumps(content["schema"]) for content in response.get("content", {}).values()}
            assert len(schemas) <= 1, (name, status)


def test_every_component_is_reached_or_is_the_line_of_a_batch() -> None:
    text = json.dumps({**DOCUMENT, "components": {**DOCUMENT["components"], "schemas": SCHEMAS}})
    assert [name for name in SCHEMAS if f'"#/components/schemas/{name}"' not in text] == []
    items = OPERATIONS["locate_batch"]["responses"]["200"]["content"]["application/x-ndjson"]["x-item-schema"]
    assert items == {"$ref": "#/components/schemas/Line"}
    assert {"index", "name", "result", "error"} == set(SCHEMAS["Line"]["properties"])


PYTHON_CALLER = """
import json, sys
from typing_extensions import assert_type
from tilebeam_api import AuthenticatedClient
from tilebeam_api.api.about import describe_index
from tilebeam_api.api.locate import locate, locate_batch, locate_geojson
from tilebeam_api.models import Answer, FeatureCollection, Index, Line, LocateBatchBody, LocateFilesBody, Problem
from tilebeam_api.models import LocateGeojsonFilesBody, RadiusProperties
from tilebeam_api.types import File, Unset

data = open(sys.argv[2], "rb").read()
with AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[3]) as client:
    picture = lambda: File(payload=__import__("io").BytesIO(data), file_name="a.jpg", mime_type="image/jpeg")
    answer = locate.sync(client=client, body=LocateFilesBody(image=picture()), trace=True)
    assert isinstance(answer, Answer), answer
    assert_type(answer.lat, float)
    assert_type(answer.levels[0].tile.z, int)
    radius = answer.radius_km.field_90
    shapes = locate_geojson.sync(client=client, body=LocateGeojsonFilesBody(image=picture()))
    assert isinstance(shapes, FeatureCollection)
    circles = [f.properties.radius_km for f in shapes.features if isinstance(f.properties, RadiusProperties)]
    assert_type(circles, list[float])
    text = locate_batch.sync(client=client, body=LocateBatchBody(images=[picture(), picture()]))
    assert isinstance(text, str), text
    lines = [Line.from_dict(json.loads(line)) for line in text.splitlines()]
    assert all(isinstance(line.result, Answer) for line in lines)
    index = describe_index.sync(client=client)
    assert isinstance(index, Index)
    assert_type(index.coverage.properties.zooms, list[int])
    assert_type(index.encoders.photo.name, str)
    refused = locate.sync(client=client, body=LocateFilesBody(image=picture()), k=0)
    assert isinstance(refused, Problem)
    print(json.dumps([answer.lat, radius, len(circles), len(lines), index.coverage.properties.zooms, refused.status]))
"""
OVERRIDES = "content_type_overrides:\n  application/x-ndjson: text/plain\n" + "".join(
    f"  image/{kind}: application/octet-stream\n" for kind in ("jpeg", "png", "webp")
)


@pytest.mark.skipif(not shutil.which("openapi-python-client"), reason="openapi-python-client is not on the path")
def test_generated_python_client_is_typed_and_works(
    serving: Any, locator: Any, make_picture: Any, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "config.yml").write_text(OVERRIDES)
    (tmp_path / "caller.py").write_text(PYTHON_CALLER)
    (tmp_path / "a.jpg").write_bytes(make_picture())
    arguments = ["generate", "--path", "openapi.json", "--meta", "none", "--output-path", "tilebeam_api"]
    arguments += ["--config", "config.yml"]
    generator = Path(str(shutil.which("openapi-python-client")))
    done = subprocess.run([generator, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Cannot parse" not in done.stdout + done.stderr
    # `Any` of an answer would make these checks void, so the caller asserts the types.
    python = generator.with_name("python")
    check = [sys.executable, "-m", "mypy", "--follow-imports", "silent", "--python-executable", python, "caller.py"]
    checked = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0, checked.stdout
    key = add_key(tmp_path / "keys.json", "alice", 0, admin=False)
    with serving(locator, keys_file=str(tmp_path / "keys.json")) as url:
        command = [python, "caller.py", url, "a.jpg", key]
        called = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert called.returncode == 0, called.stderr
    lat, radius, circles, lines, zooms, refused = json.loads(called.stdout)
    assert -90 <= lat <= 90
    assert radius is None or radius > 0
    assert (circles in (0, 2), lines, zooms, refused) == (True, 2, [4, 6, 8], 422)


TYPESCRIPT_CALLER = """
import type { components, paths } from "./tilebeam";
type Post<C> = { post: { responses: { 200: { content: C } } } };
type Answers<P extends keyof paths> = paths[P] extends Post<infer C> ? C : never;
type Exactly<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
const one: Exactly<keyof Answers<"/locate">, "application/json"> = true;
const two: Exactly<keyof Answers<"/locate/geojson">, "application/geo+json"> = true;
export function read(answer: Answers<"/locate">["application/json"], index: components["schemas"]["Index"]): number {
    const radius: number | null = answer.radius_km["90"];
    const zooms: number[] = index.coverage.properties.zooms;
    const name: string = index.encoders.photo.name;
    return answer.levels[0]!.tile.z + answer.lat + (radius ?? 0) + zooms.length + name.length + Number(one && two);
}
export function circles(shapes: Answers<"/locate/geojson">["application/geo+json"]): number[] {
    return shapes.features.flatMap(({ properties }) => (properties.kind === "radius" ? [properties.radius_km] : []));
}
export function places(text: string): string[] {
    const lines: components["schemas"]["Line"][] = text.trim().split("\\n").map((line) => JSON.parse(line));
    return lines.map((line) => line.result?.levels[0]?.quadkey ?? line.error?.detail ?? "");
}
"""


@pytest.mark.skipif(
    not (shutil.which("openapi-typescript") and shutil.which("tsc")), reason="openapi-typescript and tsc are not there"
)
def test_generated_typescript_types_need_no_cast(tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "caller.ts").write_text(TYPESCRIPT_CALLER)
    generate = ["openapi-typescript", "openapi.json", "-o", "tilebeam.d.ts"]
    for command in (generate, ["tsc", "--strict", "--noEmit", "--target", "es2022", "caller.ts"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    components = (tmp_path / "tilebeam.d.ts").read_text().split("export interface components")[1]
    assert "unknown" not in components.split("export interface operations")[0].split("export type $defs")[0]
