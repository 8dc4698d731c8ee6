"""Tests docker-compose.yml on a real engine, from building the image to removing everything; run by `check-compose`."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compose_project import ROOT, Project, WrongError, must

SAMPLES = ROOT / "indexer/builtin/samples"
TRUE_PLACES = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
NEAR_KM, LEAST_NEAR = 300, 6
SMALL = {"TILEBEAM_BBOX": "-10,36,4,44", "TILEBEAM_ZOOMS": "4,6"}
OTHER = {"TILEBEAM_BBOX": "10 36 20 44", "TILEBEAM_ZOOMS": "4,6"}

WRITABLE = ["/data", "/spool", "/tmp"]
FOLDERS = [*WRITABLE, "/", "/home/tilebeam", "/opt/tilebeam/bin", "/index", "/index/current", "/tiles", "/weights"]
CONFINED = f"""
import json, os
from pathlib import Path

def answer(folder):
    try:
        (Path(folder) / "check-compose").write_text("x")
        (Path(folder) / "check-compose").unlink()
    except OSError as error:
        return error.strerror
    return "written"

lines = Path("/proc/1/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps({{"uid": os.getuid(), "status": status, "folders": {{f: answer(f) for f in {FOLDERS}}}}}))
"""
KILL = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid != "1" and b"serve" in open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0"):
        os.kill(int(pid), signal.SIGKILL)
"""


def check_up(project: Project) -> str:
    """Build from the sources and wait for a healthy service."""
    project.compose("up", "--build", "-d", timeout_s=3600)
    state = project.container("indexer")["State"]
    must((state["Status"], state["ExitCode"]) == ("exited", 0), f"the indexer is {state['Status']} {state['ExitCode']}")
    project.healthy()
    size = int(project.docker("image", "inspect", "-f", "{{.Size}}", "tilebeam:check"))
    return f"`up --build`: the indexer ended with 0, the service is healthy; the image has {size / 1e9:.2f} GB"


def check_confinement(project: Project) -> str:
    """Check the containers' confinement, by the engine's data and by trying from inside."""
    for service in ("indexer", "service"):
        facts = project.container(service)
        host = facts["HostConfig"]
        must(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{service}: {host}")
        must(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{service} has no limit of memory or processes")
        must(facts["Config"]["User"].split(":")[0] not in ("", "0", "root"), f"{service} runs as root")
    ports = [binding["HostIp"] for bound in host["PortBindings"].values() for binding in bound]
    must(ports == ["127.0.0.1"], f"it is published on {ports}")
    seen = json.loads(project.inside(CONFINED))
    status = {name: seen["status"][name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")}
    must([int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0], f"capabilities: {status}")
    must(status["NoNewPrivs"] == "1" and seen["uid"] == 10001, f"{status}, uid {seen['uid']}")
    written = [folder for folder, answer in seen["folders"].items() if answer == "written"]
    must(written == WRITABLE, f"writing: {seen['folders']}")
    return f"uid {seen['uid']}, no capability, limits; it writes to {', '.join(written)} alone; on 127.0.0.1 alone"


def check_locate(project: Project) -> str:
    """Locate the samples over HTTP, and send bytes that are not a picture."""
    near = 0
    for sample in TRUE_PLACES:
        status, body = project.ask("/locate", (SAMPLES / sample["file"]).read_bytes(), Content_Type="image/jpeg")
        must(status == 200, f"{sample['file']} was answered {status}: {body!r}")
        answer = json.loads(body)
        must([v["zoom"] for v in answer["levels"]] == [4, 6, 8] and answer["calibrated"], f"answer: {answer}")
        near += _km(sample, answer) < NEAR_KM
    must(near >= LEAST_NEAR, f"only {near} samples within {NEAR_KM} km")
    status, body = project.ask("/locate", b"no picture", Content_Type="image/jpeg")
    must(status == 400, f"no picture was answered {status}: {body!r}")
    must(project.ask("/")[0] == 200, "the page is not there")
    return f"`/locate`: {near} of {len(TRUE_PLACES)} samples within {NEAR_KM} km, a 400 for other bytes; the page"


def check_example(project: Project) -> str:
    """Send a batch from another container, by the example."""
    project.compose("build", "batch", timeout_s=1800)  # otherwise `run` builds it and writes that to stdout
    lines = [json.loads(x) for x in project.compose("run", "--rm", "-T", "--no-deps", "batch").splitlines()]
    places = {sample["file"]: sample for sample in TRUE_PLACES}
    must({line["file"] for line in lines} == set(places) and len(lines) == len(places), f"lines: {lines}")
    near = sum(_km(places[line["file"]], line) < NEAR_KM for line in lines)
    must(near >= LEAST_NEAR, f"only {near} samples within {NEAR_KM} km: {lines}")
    return f"a batch from another container: {len(lines)} lines, {near} within {NEAR_KM} km"


def check_spool(project: Project) -> str:
    """Send a batch that is larger than /tmp."""
    padded = (SAMPLES / TRUE_PLACES[0]["file"]).read_bytes() + bytes(15_000_000)
    lines = project.batch([padded] * 10)
    must(len(lines) == 10 and all("result" in line for line in lines), f"lines: {str(lines)[:500]}")
    return "a batch of 150 MB, where /tmp has 64: 10 of 10 located"


def check_kill(project: Project) -> str:
    """Kill the service with `kill -9` from inside; the restart policy must restart it."""
    before = project.container("service")
    with contextlib.suppress(WrongError):  # the container takes the command with it
        project.inside(KILL)
    until = time.monotonic() + 60
    while (after := project.container("service"))["State"]["StartedAt"] == before["State"]["StartedAt"]:
        must(time.monotonic() < until, "it did not come back in 60 s")
        time.sleep(0.5)
    must(after["Id"] == before["Id"] and after["RestartCount"] == 1, "it was not the restart policy")
    project.healthy()
    check_locate(project)
    return "`kill -9` of the service's process: it was restarted, is healthy and locates"


def check_second_up(project: Project) -> str:
    """Run `up` again: nothing is built again."""
    file, started = project.index_file(), project.started()
    project.up()
    must(project.index_file() == file, "it built the index again")
    must(project.started() == started, "it started the service again")
    must("is there already" in project.compose("logs", "--no-color", "indexer"), "the indexer did not find its index")
    return "a second `up`: the index was found, not built again; the service went on"


def check_other_index(project: Project) -> str:
    """Change the variables: another index is built and served, and found the next time."""
    before = project.index_id()
    project.up(SMALL)
    must(project.zooms() == [4, 6] and project.index_id() != before, f"zooms {project.zooms()}")
    file, started = project.index_file(), project.started()
    project.up(SMALL)
    must(project.index_file() == file, "an `up` with the same variables built the index again")
    must(project.started() == started, "it started the service again")
    return "other variables: that index is built and served; an `up` with the same ones leaves both alone"


def check_hangup(project: Project) -> str:
    """Replace the index under the running service."""
    before, started = project.index_id(), project.started()
    project.compose("run", "--rm", "-T", "indexer", env=OTHER)
    project.compose("kill", "-s", "HUP", "service", env=SMALL)
    until = time.monotonic() + 60
    while project.index_id() == before:
        must(time.monotonic() < until, "the new index is not served")
        time.sleep(0.5)
    must(project.started() == started, "the service was started again")
    return "`run indexer` and SIGHUP: another index, and the service was not restarted"


def check_keys(project: Project) -> str:
    """Follow docs/deployment.md's recipe for keys, on a read-only root file system."""
    new = ["run", "--rm", "-T", "--no-deps", "service", "key", "new", "--file", "/data/keys.json", "--name", "check"]
    key = project.compose(*new).strip()
    project.up(OTHER | {"TILEBEAM_KEYS_FILE": "/data/keys.json", "TILEBEAM_ALLOW_ANONYMOUS": "0"})
    without, _ = project.ask("/index")
    given, _ = project.ask("/index", Authorization=f"Bearer {key}")
    must((without, given) == (401, 200), f"without a key {without}, with it {given}")
    return "`run service key new`: with the key file, 401 without the key and 200 with it"


def check_drain(project: Project) -> str:
    """Run `stop` while a batch is answered."""
    project.up(OTHER)
    picture, begun = (SAMPLES / TRUE_PLACES[0]["file"]).read_bytes(), threading.Event()
    lines: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: lines.extend(project.batch([picture] * 200, begun.set)))
    asking.start()
    must(begun.wait(60), "the batch was not begun")
    project.compose("stop", "service", env=OTHER)
    asking.join(60)
    state = project.container("service")["State"]
    must(len(lines) == 200 and all("result" in line for line in lines), f"{len(lines)} of 200 lines arrived")
    must(state["ExitCode"] == 0, f"the service ended with {state['ExitCode']}")
    return "`stop` in the middle of a batch: all 200 lines arrived, then it ended with 0"


CHECKS = (
    check_up, check_confinement, check_locate, check_example, check_spool, check_kill, check_second_up,
    check_other_index, check_hangup, check_keys, check_drain,
)  # fmt: skip


def check_down(project: Project) -> str:
    """Run `down -v`: nothing of the project is left."""
    project.compose("down", "-v", "--remove-orphans", "--timeout", "10")
    label = f"label=com.docker.compose.project={project.name}"
    for words in (["ps", "-aq"], ["volume", "ls", "-q"], ["network", "ls", "-q"]):
        left = project.docker(*words, "--filter", label)
        must(not left, f"docker {words[0]}: {left}")
    return "`down -v`: no container, volume or network of the project is left"


def main() -> int:
    """Run the checks; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the project down, as ctrl-C does
    with tempfile.TemporaryDirectory() as folder:
        project, failed = Project(Path(folder)), False
        print(f"{' '.join(project.tool)}, project {project.name}, port {project.port}", flush=True)
        try:
            for check in CHECKS:
                _timed(check, project)
        except (WrongError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            failed = True
            print(f"WRONG  {error}", flush=True)
            _show_logs(project)
        finally:
            try:
                _timed(check_down, project)
            except (WrongError, subprocess.SubprocessError) as error:
                failed = True
                print(f"WRONG  {error}", flush=True)
    print("something is wrong" if failed else "all is well", flush=True)
    return 1 if failed else 0


def _timed(check: Callable[[Project], str], project: Project) -> None:
    began = time.monotonic()
    said = check(project)
    print(f"ok  {time.monotonic() - began:6.1f} s  {said}", flush=True)


def _show_logs(project: Project) -> None:
    for words in (("ps", "-a"), ("logs", "--no-color", "--tail", "60")):
        try:
            print(project.compose(*words), file=sys.stderr, flush=True)
        except (WrongError, subprocess.SubprocessError) as error:
            print(error, file=sys.stderr, flush=True)


def _km(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Return the great-circle distance of two places in km (haversine)."""
    lat_a, lon_a, lat_b, lon_b = (math.radians(v) for v in (a["lat"], a["lon"], b["lat"], b["lon"]))
    h = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(h))


if __name__ == "__main__":
    sys.exit(main())
