"""What can be said of the containers without an engine: compose files, the entry script, the CPU image's FAISS."""

import dataclasses
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_group

import indexer.cli.build
from service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
INDEX_VARIABLES = {"TILEBEAM_SOURCE", "TILEBEAM_OVERLAY", "TILEBEAM_BBOX", "TILEBEAM_GEOJSON", "TILEBEAM_DEEP_GEOJSON"}
INDEX_VARIABLES |= {"TILEBEAM_LAND", "TILEBEAM_ZOOMS", "TILEBEAM_PHOTO_ENCODER", "TILEBEAM_MAP_ENCODERS"}


def services(name: str = "docker-compose.yml") -> dict[str, Any]:
    """The services of a compose file, its anchors resolved, its variables not."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"]
    return found


@pytest.fixture
def arguments(tmp_path: Path) -> Any:
    """`arguments(VARIABLE=...)`: what docker/tilebeam-index calls `tilebeam` with, and what it says if it does not."""
    stub = tmp_path / "tilebeam"
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    stub.chmod(0o755)

    def run(*options: str, **variables: str) -> list[str]:
        path = f"{tmp_path}:{os.environ['PATH']}"
        script = ROOT / "docker/tilebeam-index"
        done = subprocess.run(
            [script, *options], env={"PATH": path} | variables, cwd=tmp_path, capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"{done.returncode}: {done.stderr}")
        return done.stdout.split("\0")[:-1]

    return run


def test_without_variables_it_is_the_built_in_earth(arguments: Any) -> None:
    found = arguments("--json")
    assert found[0] == "index"
    assert {"--source=bluemarble", "--zooms=4,6,8", "--photo-encoder=builtin", "--world", "--overwrite"} < set(found)
    assert "--json" in found
    assert not any(word.startswith(("--overlay", "--bbox", "--geojson", "--land", "--map-encoders")) for word in found)


def test_a_value_is_one_word_whatever_is_in_it(arguments: Any, tmp_path: Path) -> None:
    odd = "https://tiles.example.org/{z}/{x}/{y}.jpg?a=1&b=$(touch pwned) 'x' *; touch pwned"
    found = arguments(TILEBEAM_SOURCE=odd, TILEBEAM_OVERLAY="-- two words", TILEBEAM_GEOJSON="/files/my region.geojson")
    assert f"--source={odd}" in found
    assert "--overlay=-- two words" in found
    assert "--geojson=/files/my region.geojson" in found
    assert "--world" not in found
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["-10,35.5,30,60", "-10 35.5 30 60", " -10, 35.5, 30, 60"])
def test_a_bbox_is_four_numbers(arguments: Any, text: str) -> None:
    found = arguments(TILEBEAM_BBOX=text)
    at = found.index("--bbox")
    assert found[at + 1 : at + 5] == ["-10", "35.5", "30", "60"]
    assert "--world" not in found


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "1,2,3,--cache", "* * * *", "1;2;3;4"])
def test_what_is_no_bbox_is_refused(arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match="2: tilebeam-index: TILEBEAM_BBOX="):
        arguments(TILEBEAM_BBOX=text)


def test_two_areas_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="both set"):
        arguments(TILEBEAM_BBOX="1,2,3,4", TILEBEAM_GEOJSON="/files/a.geojson")


def test_the_command_line_knows_every_option_of_the_script(arguments: Any) -> None:
    app = typer.Typer()
    indexer.cli.build.register(app)
    command = get_group(app).commands["index"]
    known = {name for parameter in command.params for name in parameter.opts}
    given = arguments(
        **dict.fromkeys(INDEX_VARIABLES - {"TILEBEAM_BBOX"}, "x"), TILEBEAM_RATE="1", TILEBEAM_CONCURRENCY="1"
    )
    given += arguments(TILEBEAM_BBOX="1,2,3,4")
    used = {word.split("=")[0] for word in given if word.startswith("--")}
    assert {"--bbox", "--geojson", "--deep-geojson", "--land", "--map-encoders", "--overlay"} < used
    assert used <= known


def test_every_setting_of_the_service_can_be_given() -> None:
    variables = services()["service"]["environment"]
    assert {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)} <= set(variables)


def test_another_index_is_another_container_of_both() -> None:
    """A service that did not change is not made anew by `up`, and would serve the old index on."""
    found = services()
    for name in ("indexer", "service"):
        assert set(found[name]["environment"]) >= INDEX_VARIABLES
    shared = {variable: found["indexer"]["environment"][variable] for variable in INDEX_VARIABLES}
    assert shared.items() <= found["service"]["environment"].items()


@pytest.mark.parametrize("name", ["docker-compose.yml", "examples/docker-compose.batch.yml"])
def test_every_container_is_confined(name: str) -> None:
    for service in services(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_service_writes_to_no_volume_of_the_indexer() -> None:
    mounts = [volume.rsplit(":", 2) for volume in services()["service"]["volumes"]]
    writable = {mount[-1] for mount in mounts if mount[-1] != "ro"}
    assert writable == {"/data", "/spool"}
    assert services()["service"]["environment"]["TILEBEAM_SPOOL_DIR"] in writable


def test_stopping_leaves_time_to_drain() -> None:
    grace = re.fullmatch(r"\$\{TILEBEAM_STOP_GRACE:-(\d+)s\}", services()["service"]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > Settings().shutdown_timeout_s


def test_with_a_gpu_both_services_ask_for_it_and_nothing_is_loosened() -> None:
    base, gpu = services(), services("docker-compose.gpu.yml")
    assert set(gpu) == {"indexer", "service"}
    for name, service in gpu.items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert service["build"]["args"]["FAISS"] == "gpu"
        assert set(service) <= {"image", "build", "mem_limit", "deploy", "environment", "command"}
        assert service["image"] != base[name]["image"]
    assert gpu["service"]["command"] == base["service"]["command"].replace(":-auto", ":-cuda")


def test_the_cpu_image_takes_faiss_without_cuda(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run([ROOT / "docker/take-faiss-cpu", project], check=True)
    before, after = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")) for folder in (ROOT, tmp_path)
    )
    engine = after["project"]["optional-dependencies"]["engine"]
    assert [text for text in engine if "faiss" in text] == ["faiss-cpu>=1.15"]
    before["project"]["optional-dependencies"]["engine"] = engine
    assert before == after, "it changed something else"


def test_a_project_that_the_script_does_not_know_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('engine = [\n    "faiss-gpu-cu13>=1.16",\n]\n')
    done = subprocess.run([ROOT / "docker/take-faiss-cpu", project], capture_output=True, text=True)
    assert done.returncode == 1
    assert "in another way" in done.stderr
