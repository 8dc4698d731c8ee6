"""Checks of the containers that need no engine: compose files and the entry script."""

import os
import re
import subprocess
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
    """Return the services of a compose file with anchors resolved and variables as they are."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"]
    return found


@pytest.fixture
def arguments(tmp_path: Path) -> Any:
    """Return `arguments(VARIABLE=...)`: the arguments that docker/tilebeam-index passes to `tilebeam`, or its error."""
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


def test_default_is_the_builtin_earth(arguments: Any) -> None:
    found = arguments("--json")
    assert found[0] == "index"
    assert {"--source=bluemarble", "--zooms=4,6,8", "--photo-encoder=builtin", "--world", "--overwrite"} < set(found)
    assert "--json" in found
    assert not any(word.startswith(("--overlay", "--bbox", "--geojson", "--land", "--map-encoders")) for word in found)


def test_each_value_stays_one_argument(arguments: Any, tmp_path: Path) -> None:
    odd = "https://tiles.example.org/{z}/{x}/{y}.jpg?a=1&b=$(touch pwned) 'x' *; touch pwned"
    found = arguments(TILEBEAM_SOURCE=odd, TILEBEAM_OVERLAY="-- two words", TILEBEAM_GEOJSON="/files/my region.geojson")
    assert f"--source={odd}" in found
    assert "--overlay=-- two words" in found
    assert "--geojson=/files/my region.geojson" in found
    assert "--world" not in found
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["-10,35.5,30,60", "-10 35.5 30 60", " -10, 35.5, 30, 60"])
def test_bbox_becomes_four_arguments(arguments: Any, text: str) -> None:
    found = arguments(TILEBEAM_BBOX=text)
    at = found.index("--bbox")
    assert found[at + 1 : at + 5] == ["-10", "35.5", "30", "60"]
    assert "--world" not in found


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "1,2,3,--cache", "* * * *", "1;2;3;4"])
def test_invalid_bbox_is_refused(arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match="2: tilebeam-index: TILEBEAM_BBOX="):
        arguments(TILEBEAM_BBOX=text)


def test_two_areas_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="both set"):
        arguments(TILEBEAM_BBOX="1,2,3,4", TILEBEAM_GEOJSON="/files/a.geojson")


def test_every_option_of_the_script_exists(arguments: Any) -> None:
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


def test_every_service_setting_is_passed_on() -> None:
    variables = services()["service"]["environment"]
    assert {PREFIX + name.upper() for name in Settings.model_fields} <= set(variables)


def test_another_index_recreates_both_containers() -> None:
    """`up` does not recreate an unchanged service, which would keep serving the old index."""
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


def test_service_mounts_the_indexers_volumes_read_only() -> None:
    mounts = [volume.rsplit(":", 2) for volume in services()["service"]["volumes"]]
    writable = {mount[-1] for mount in mounts if mount[-1] != "ro"}
    assert writable == {"/data", "/spool"}
    assert services()["service"]["environment"]["TILEBEAM_SPOOL_DIR"] in writable


def test_stop_grace_period_covers_the_drain() -> None:
    grace = re.fullmatch(r"\$\{TILEBEAM_STOP_GRACE:-(\d+)s\}", services()["service"]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) > Settings().shutdown_timeout_s


def test_gpu_file_adds_the_gpu_and_keeps_the_confinement() -> None:
    base, gpu = services(), services("docker-compose.gpu.yml")
    assert set(gpu) == {"indexer", "service"}
    for name, service in gpu.items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert service["build"]["args"]["FAISS"] == "gpu"
        assert set(service) <= {"image", "build", "mem_limit", "deploy", "environment", "command"}
        assert service["image"] != base[name]["image"]
    assert gpu["service"]["command"] == base["service"]["command"].replace(":-auto", ":-cuda")
