"""A separate compose project on a real engine, for `check_compose`. Needs only Python and Docker."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Project", "WrongError", "must"]

ROOT = Path(__file__).resolve().parent.parent


class WrongError(Exception):
    """A check failed."""


def must(held: bool, what: str) -> None:
    """Raise WrongError with `what` unless `held`."""
    if not held:
        raise WrongError(what)


class Project:
    """One compose project under a name, port and environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.name = f"tilebeam-check-{os.getpid()}"
        self.port = _free_port()
        v2 = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        self.tool = ["docker", "compose"] if v2 else ["docker-compose"]
        must(v2 or shutil.which("docker-compose") is not None, "there is neither `docker compose` nor docker-compose")
        (folder / "env").touch()  # used instead of the user's .env
        self.options = ["--env-file", str(folder / "env"), "-p", self.name, "--project-directory", str(ROOT)]
        self.files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "examples/docker-compose.batch.yml")]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("TILEBEAM_", "COMPOSE_", "PHOTOS"))}
        self.env |= {"TILEBEAM_IMAGE": "tilebeam:check", "TILEBEAM_BATCH_IMAGE": "tilebeam-batch:check"}
        self.env |= {"TILEBEAM_PORT": str(self.port)}

    def compose(self, *words: str, env: dict[str, str] | None = None, timeout_s: float = 600) -> str:
        """Run compose and return its stdout; raise WrongError with its whole output."""
        return _run([*self.tool, *self.options, *self.files, *words], self.env | (env or {}), timeout_s)

    def up(self, env: dict[str, str] | None = None) -> None:
        """`up -d`, and wait until the service is healthy."""
        self.compose("up", "-d", env=env)
        self.healthy()

    def inside(self, code: str) -> str:
        """Run Python in the service's container."""
        return self.compose("exec", "-T", "service", "python", "-c", code)

    def docker(self, *words: str) -> str:
        """Run docker and return its stdout; raise WrongError."""
        return _run(["docker", *words], self.env, 60)

    def container(self, service: str) -> dict[str, Any]:
        """Return the engine's description of a service's container."""
        labels = f"project={self.name}", f"service={service}", "oneoff=False"
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        found = self.docker("ps", "-aq", *filters).split()
        must(len(found) == 1, f"{service} has {len(found)} containers")
        facts: dict[str, Any] = json.loads(self.docker("inspect", found[0]))[0]
        return facts

    def started(self) -> str:
        """Return when the service's container was last started."""
        return str(self.container("service")["State"]["StartedAt"])

    def healthy(self, timeout_s: float = 240) -> None:
        """Wait until the service's container is healthy."""
        until = time.monotonic() + timeout_s
        while (health := self.container("service")["State"]["Health"]["Status"]) != "healthy":
            must(time.monotonic() < until, f"the service is {health} after {timeout_s:g} s")
            time.sleep(1)

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Send a request to the published port; return status and body, also for errors."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, named)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def batch(self, pictures: Iterable[bytes], on_line: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """Return the lines of POST /locate/batch; everything is sent before anything is read."""
        head = b'--edge\r\nContent-Disposition: form-data; name="images"; filename="p.jpg"\r\n\r\n'
        body = b"".join(head + picture + b"\r\n" for picture in pictures) + b"--edge--\r\n"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/locate/batch", body)
        request.add_header("Content-Type", "multipart/form-data; boundary=edge")
        lines = []
        with urllib.request.urlopen(request, timeout=120) as answer:
            for line in answer:
                lines.append(json.loads(line))
                on_line()
        return lines

    def zooms(self) -> list[int]:
        """Return the zooms of the served index."""
        return [level["zoom"] for level in json.loads(self.ask("/index")[1])["zooms"]]

    def index_id(self) -> str:
        """Return the id of the served index."""
        return str(json.loads(self.ask("/index")[1])["id"])

    def index_file(self) -> str:
        """Return the manifest's inode and time, which change when the index is built again."""
        return self.inside("import os; s = os.stat('/index/current/manifest.json'); print(s.st_ino, s.st_mtime_ns)")


def _run(words: list[str], env: dict[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-6000:]
        raise WrongError(f"`{' '.join(words)}` ended with {done.returncode}:\n{said}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
