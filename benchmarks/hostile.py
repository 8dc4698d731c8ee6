"""Attacks the service: schemathesis against the OpenAPI description, thousands of damaged pictures, then bombs.

    python -m benchmarks.hostile [--images 10000] [--seconds 60] [--clients 4] [--seed 1] [--index DIR] [--keep DIR]
                                [--no-bombs]

A real `tilebeam serve` that requires keys. No input may end it, break it or change its next answers: no 5xx, no
restart, /readyz green, and a reference picture gets the same answer before, after a picture of 1x1 and at the end.
Prints the counts of answers and the service's memory; exits with 1 and the reasons if one of these does not hold.
`--keep` writes pictures that got a 5xx into a folder. `--seconds` bounds schemathesis's random phase; its other phases
take some ten seconds more.
"""

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Any

import httpx

from benchmarks.support.bombs import bombs
from benchmarks.support.mutations import Hostile, mutations, originals, tiny
from benchmarks.support.server import ROOT, Server, built_index, started
from service.access.keys import add_key

__all__ = ["Tally", "attack", "reference", "schemathesis"]

_BATCH = 40
_ROUTES = ("form", "raw", "batch")
_ALLOWED = (200, 400, 413, 415, 503)
"""What a bomb may be answered."""


@dataclass
class Tally:
    """Counts of statuses per route, and the pictures that got a 5xx or no answer."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: list[tuple[str, Hostile]] = field(default_factory=list)

    def count(self, way: str, status: int, pictures: Sequence[Hostile], said: str) -> None:
        """Count an answer; `pictures` are those that it may concern."""
        self.statuses[way, status] += 1
        if status >= 500 or status == 0:
            self.broken += [(f"{way} {status}: {said[:300]}", picture) for picture in pictures]

    @property
    def pictures(self) -> int:
        """The number of pictures that were answered."""
        return sum(count for (way, _), count in self.statuses.items() if way != "batch")


def attack(
    url: str, pictures: Iterator[Hostile], clients: int, headers: dict[str, str], tally: Tally | None = None
) -> Tally:
    """Send pictures from several clients at once, as forms, as raw bodies, and in batches of up to 40."""
    tally, turn = Tally() if tally is None else tally, threading.Lock()

    def take(count: int) -> list[Hostile]:
        with turn:
            return list(itertools.islice(pictures, count))

    def client(number: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
            for step in itertools.count(number):
                way = _ROUTES[step % len(_ROUTES)]
                chosen = take(_BATCH if way == "batch" else _BATCH // 4)
                if not chosen:
                    return
                _send(http, way, chosen, tally)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _send(http: httpx.Client, way: str, pictures: list[Hostile], tally: Tally) -> None:
    if way == "batch":
        _send_batch(http, pictures, tally)
        return
    for picture in pictures:
        given: dict[str, Any] = {"files": {"image": picture.data}}
        if way == "raw":
            given = {"content": picture.data, "headers": {"Content-Type": "image/png"}}
        try:
            answer = http.post("/locate", params={"k": 16}, **given)
        except httpx.HTTPError as error:
            tally.count(way, 0, [picture], repr(error))
        else:
            tally.count(way, answer.status_code, [picture], answer.text)


def _send_batch(http: httpx.Client, pictures: list[Hostile], tally: Tally) -> None:
    files = [("images", (picture.name, picture.data)) for picture in pictures]
    try:
        answer = http.post("/locate/batch", params={"k": 16}, files=files)
        lines = [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else []
    except (httpx.HTTPError, ValueError) as error:
        tally.count("batch", 0, pictures, repr(error))
        return
    tally.count("batch", answer.status_code, pictures, answer.text)
    if [line.get("index") for line in lines] != list(range(len(pictures))):
        tally.count("batch", 0, pictures, f"{len(lines)} lines for {len(pictures)} pictures")
    for picture, line in zip(pictures, lines, strict=False):
        tally.count("line", line.get("error", {"status": 200})["status"], [picture], json.dumps(line))


def reference(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the service's answer to a valid picture while it is idle, without the timings."""
    photo = originals(0)[0].data
    answer = httpx.post(
        f"{url}/locate", files={"image": photo}, params={"alternatives": 3}, headers=headers, timeout=60
    )
    answer.raise_for_status()
    return {name: value for name, value in answer.json().items() if name != "timing_ms"}


def schemathesis(url: str, key: str | None, seed: int, *more: str) -> tuple[int, str]:
    """Run schemathesis on the service's own description; return its exit code and output. `more`: its options."""
    # A schema cannot describe a valid picture or box: bytes that match the schema may still get a 400.
    orderly = _tried(url, key, seed, "examples,coverage", "positive_data_acceptance")
    # It also counts those of its mutated forms as invalid that a mutation made valid again.
    random = _tried(url, key, seed, "fuzzing", "positive_data_acceptance,negative_data_rejection", *more)
    return max(orderly[0], random[0]), orderly[1] + random[1]


def _tried(url: str, key: str | None, seed: int, phases: str, without: str, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
    command += [] if key is None else ["--header", f"Authorization: Bearer {key}"]
    command += ["--exclude-checks", without, "--phases", phases]
    command += ["--seed", str(seed), "--continue-on-failure", "--generation-database", "none", *more]
    hooks = {"SCHEMATHESIS_HOOKS": "benchmarks.support.hostile_hooks", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as name:  # schemathesis writes files into its working directory
        done = subprocess.run(command, cwd=name, env={**environ, **hooks}, capture_output=True, text=True)
    return done.returncode, re.sub(r"curl .*", "curl ...", done.stdout + done.stderr)


def main() -> None:
    """Run both attacks, print the result, and exit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the service must end with this process
    asked = _options()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        index = asked.index or built_index(work / "index", 10_000)
        key = add_key(work / "keys.json", "hostile", 0, admin=True)
        limits = {"max_batches": str(asked.clients), "caller_share": "1"}  # more batches at once would rightly get 503
        with started(index, keys_file=str(work / "keys.json"), tiles="bluemarble", **limits) as server:
            troubles = list(measure(server, key, asked))
    for trouble in troubles:
        print(f"TROUBLE: {trouble}")
    print("no faults" if not troubles else f"{len(troubles)} faults")
    sys.exit(bool(troubles))


def measure(server: Server, key: str, asked: argparse.Namespace) -> Iterator[str]:
    """Print figures; yield a line for each fault."""
    headers = {"Authorization": f"Bearer {key}"}
    before, memory = reference(server.url, headers), [server.rss]
    if asked.seconds:
        code, said = schemathesis(server.url, key, asked.seed, "--max-time", str(asked.seconds), "-n", "10000")
        print(said)
        if code:
            yield f"schemathesis ended with {code}"
        yield from _changed(server, headers, before, "schemathesis")
    memory.append(server.rss)
    attack(server.url, iter([tiny()] * 3), 1, headers)
    yield from _changed(server, headers, before, "a picture of 1x1")
    tally, pictures = Tally(), mutations(asked.seed, asked.images)
    for _ in range(4):
        share = itertools.islice(pictures, -(-asked.images // 4))
        attack(server.url, share, asked.clients, headers, tally)
        memory.append(server.rss)
    print(f"{tally.pictures:,} pictures from {asked.clients} clients, seed {asked.seed}:")
    for (way, status), count in sorted(tally.statuses.items()):
        print(f"  {way:<5} {status:>3} {count:>7,}")
    print(
        f"memory: {' / '.join(f'{rss / 2**20:.0f}' for rss in memory)} MiB: ready / after schemathesis / each quarter"
    )
    if asked.bombs:
        yield from _bombs(server, headers)
    _keep(tally.broken, asked.keep)
    yield from _complaints(server)
    for what, picture in tally.broken[:20]:
        yield f"{what} for {picture.name!r}"
    yield from _changed(server, headers, before, "all pictures")


def _bombs(server: Server, headers: dict[str, str]) -> Iterator[str]:
    """Send each bomb; yield those whose answer is none that docs/http-api.md allows, and print the slowest."""
    slowest, highest = (0.0, ""), 0
    for bomb in bombs():
        begin = time.perf_counter()
        answer = httpx.post(f"{server.url}/locate", files={"image": bomb.data}, headers=headers, timeout=120)
        slowest = max(slowest, (time.perf_counter() - begin, bomb.name))
        highest = max(highest, server.rss)
        if answer.status_code not in _ALLOWED:
            yield f"{answer.status_code} for {bomb.name!r}: {answer.text[:300]}"
    print(f"bombs: the slowest took {slowest[0]:.1f} s ({slowest[1]}); memory of the service {highest / 2**20:.0f} MiB")


def _changed(server: Server, headers: dict[str, str], before: dict[str, Any], cause: str) -> Iterator[str]:
    """Yield what changed: the process, its readiness, or the answer to the reference picture."""
    if not server.is_running:
        yield f"after {cause} the process has ended:\n{''.join(list(server.log)[-20:])}"
        return
    ready = httpx.get(f"{server.url}/readyz", timeout=60)
    if ready.status_code != 200:
        yield f"after {cause} /readyz says {ready.status_code}"
    if reference(server.url, headers) != before:
        yield f"after {cause} the reference picture gets another answer"


def _complaints(server: Server) -> Iterator[str]:
    """Yield the errors in the log, and that it has lines that are not JSON, such as messages of C libraries."""
    other = [line for line in list(server.log) if not line.startswith("{")]
    if other:
        yield f"log, its last {len(server.log):,} lines: {len(other)} are not JSON, such as {other[-1:]}"
    for line in list(server.log):
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("level") in ("error", "critical") and not entry["logger"].startswith("PIL."):
            yield f"in the log: {line[:1000]}"


def _keep(broken: Sequence[tuple[str, Hostile]], folder: Path | None) -> None:
    if folder is not None and broken:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (_, picture) in enumerate(broken):
            (folder / f"{number:03} {picture.name}").write_bytes(picture.data)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="of schemathesis's random phase; 0 skips schemathesis")
    parser.add_argument(
        "--bombs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send pictures of gigabytes and minutes, one after the other, which takes a minute or two",
    )
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--index", type=Path, help="serve this index instead of building one")
    parser.add_argument("--keep", type=Path, help="write pictures that got a 5xx into this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
