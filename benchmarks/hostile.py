"""Attacks the service: schemathesis, connections that trickle, costly regions, damaged pictures, then bombs.

    python -m benchmarks.hostile [--images 10000] [--seconds 60] [--trickle-seconds 40] [--clients 4] [--seed 1]
                                [--index DIR] [--keep DIR] [--no-bombs]

A real `tilebeam serve` that requires keys, with its default limits, and the attackers, each kind in a phase of its own.
Beside them another caller locates an ordinary picture and a prober asks `/healthz`, from a process of their own
(`benchmarks/support/observer.py`). What must hold: no 5xx but 503 with a problem document; the service is not
restarted; `/healthz` answers within 1 s; the other caller is served, at the median of each phase within 3 times its own
median of the quiet phase at the beginning; service and child processes together have at most 1.5 GB of anonymous memory
(where Linux hands a memory controller to this process's control group, the service also runs in a group of that size);
a reference picture gets the same answer after each attack, but for the last digit; the log is JSON. Prints the
figures of each phase; exits with 1 and the reasons if one of these does not hold. Times of a phase are void, and not
judged, where other processes wait for the processors (`benchmarks/support/validity.py`).

The attackers of this process run at a lower priority than the service, as they would on another machine. `--seconds`
bounds schemathesis's random phase; its other phases take some ten seconds more. `--keep` writes pictures that got a 5xx
into a folder.
"""

import argparse
import itertools
import json
import math
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import nice
from pathlib import Path
from typing import Any

import httpx

from benchmarks.support import machine
from benchmarks.support.api_fuzzing import schemathesis
from benchmarks.support.bombs import bombs
from benchmarks.support.memory import Peak, limited
from benchmarks.support.mutations import Hostile, mutations, originals, tiny
from benchmarks.support.observer import Observer
from benchmarks.support.promises import MEMORY_BYTES, Phase, broken_promises, row, table
from benchmarks.support.server import Server, built_index, started
from benchmarks.support.trickles import ATTACKS
from benchmarks.support.validity import Watch
from service.access.keys import add_key

__all__ = ["Tally", "attack", "reference", "same"]

_BATCH = 40
_ROUTES = ("form", "raw", "batch")
_ALLOWED = (200, 400, 413, 415, 503)
"""What a bomb may be answered."""
_PROBLEM = "urn:tilebeam:problem:"
_QUIET_S = 10.0
_TRIES = 5
"""How often a picture is sent again that was answered with 503."""
_MOST_REST_S = 20.0
"""How long the service may go on working after an attack, before the next one begins."""


@dataclass
class Tally:
    """Counts of statuses per route, and the pictures that got a 5xx other than a proper 503, or no answer."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: list[tuple[str, Hostile]] = field(default_factory=list)

    def count(self, way: str, status: int, pictures: Sequence[Hostile], said: str) -> None:
        """Count an answer; `pictures` are those that it may concern."""
        self.statuses[way, status] += 1
        if status == 0 or (status >= 500 and not (status == 503 and _PROBLEM in said)):
            self.broken += [(f"{way} {status}: {said[:300]}", picture) for picture in pictures]

    @property
    def pictures(self) -> int:
        """The number of pictures that were answered."""
        return sum(count for (way, status), count in self.statuses.items() if way != "batch" and status != 503)

    def outcomes(self) -> Counter[str]:
        """The counts with one word for route and status."""
        return Counter({f"{way} {status}": count for (way, status), count in self.statuses.items()})


def attack(
    url: str,
    pictures: Iterator[Hostile],
    clients: int,
    callers: Sequence[dict[str, str]],
    tally: Tally | None = None,
) -> Tally:
    """Send pictures from several clients at once, as forms, as raw bodies, and in batches of up to 40.

    `callers`: headers with the keys that the clients use in turn.
    """
    tally, turn = Tally() if tally is None else tally, threading.Lock()

    def take(count: int) -> list[Hostile]:
        with turn:
            return list(itertools.islice(pictures, count))

    def client(number: int) -> None:
        headers = callers[number % len(callers)]
        with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
            for step in itertools.count(number):
                way = _ROUTES[step % len(_ROUTES)]
                chosen = take(_BATCH if way == "batch" else _BATCH // 4)
                if not chosen:
                    return
                _send(http, way, chosen, tally)

    # Daemons, so that a run that is ended does not go on sending.
    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
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
        content: dict[str, Any] = {"files": {"image": picture.data}}
        if way == "raw":
            content = {"content": picture.data, "headers": {"Content-Type": "image/png"}}
        _post(http, "/locate", way, [picture], tally, content)


def _send_batch(http: httpx.Client, pictures: list[Hostile], tally: Tally) -> None:
    files = [("images", (picture.name, picture.data)) for picture in pictures]
    answer = _post(http, "/locate/batch", "batch", pictures, tally, {"files": files})
    if answer is None or answer.status_code != 200:
        return
    try:
        lines = [json.loads(line) for line in answer.text.splitlines()]
    except ValueError as error:
        tally.count("batch", 0, pictures, repr(error))
        return
    if [line.get("index") for line in lines] != list(range(len(pictures))):
        tally.count("batch", 0, pictures, f"{len(lines)} lines for {len(pictures)} pictures")
    for picture, line in zip(pictures, lines, strict=False):
        tally.count("line", line.get("error", {"status": 200})["status"], [picture], json.dumps(line))


def _post(
    http: httpx.Client, path: str, way: str, pictures: list[Hostile], tally: Tally, content: dict[str, Any]
) -> httpx.Response | None:
    """Send a request and count its answer; after a 503 again, when the service says. None: no answer."""
    for _ in range(_TRIES):
        try:
            answer = http.post(path, params={"k": 16}, **content)
        except httpx.HTTPError as error:
            tally.count(way, 0, pictures, repr(error))
            return None
        tally.count(way, answer.status_code, pictures, answer.text)
        if answer.status_code != 503:
            return answer
        time.sleep(min(5, int(answer.headers.get("retry-after", 1))))
    return answer


def reference(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the service's answer to a valid picture while it is idle, without the timings."""
    photo = originals(0)[0].data
    answer = httpx.post(
        f"{url}/locate", files={"image": photo}, params={"alternatives": 3}, headers=headers, timeout=60
    )
    answer.raise_for_status()
    return {name: value for name, value in answer.json().items() if name != "timing_ms"}


def same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal but for the last digit of rounded numbers.

    A picture that is encoded in a group with others differs in the seventh digit, and its rounded numbers at times by
    one unit: the other caller's pictures decide about the group.
    """
    match first, second:
        case dict(), dict():
            return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
        case list(), list():
            return len(first) == len(second) and all(map(same, first, second))
        case float(), float():
            return math.isclose(first, second, rel_tol=2e-4, abs_tol=2e-4)
    return bool(first == second)


def main() -> None:
    """Run all attacks, print the result, and exit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the service must end with this process
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        index, file = options.index or built_index(work / "index", 10_000), work / "keys.json"
        keys = [add_key(file, f"hostile-{number}", 0, admin=not number) for number in range(max(1, options.clients))]
        other = add_key(file, "other", 0, admin=False)
        service = {"keys_file": str(file), "tiles": "bluemarble"}
        with limited(MEMORY_BYTES) as group, started(index, group.prefix, **service) as server:
            troubles = list(measure(server, keys, other, options))
            print(f"memory limit of {MEMORY_BYTES / 1e9:g} GB: {group}")
    print(machine.sentence(machine.describe()))
    for trouble in troubles:
        print(f"TROUBLE: {trouble}")
    print("no faults" if not troubles else f"{len(troubles)} faults")
    sys.exit(bool(troubles))


def measure(server: Server, keys: Sequence[str], other: str, options: argparse.Namespace) -> Iterator[str]:
    """Print figures; yield a line for each fault. `keys`: of the attackers, the first an admin's."""
    headers, tally = {"Authorization": f"Bearer {keys[0]}"}, Tally()
    before = reference(server.url, headers)
    with Observer(server.url, other) as observer, Peak(server.process) as peak:
        nice(10)  # this process and what it starts from here on, which are the attackers
        run = Run(server, observer, peak)
        quiet = run.phase("quiet", lambda: _pause(min(_QUIET_S, options.trickle_seconds)))
        phases = []
        for name, work, right in _attacks(server, keys, options, tally):
            phases.append(run.phase(name, work, right, one_key=name in ATTACKS))
            yield from _changed(server, headers, before, name)
            if not server.is_running:
                break
        phases.append(run.phase("quiet again", lambda: _pause(min(_QUIET_S, options.trickle_seconds))))
        resident = peak.resident
    print(
        f"{tally.pictures:,} pictures from {options.clients} clients, seed {options.seed}\n\n{table(quiet, phases)}\n"
    )
    print(
        f"memory: {peak.together / 1e6:,.0f} MB anonymous of all processes together, {peak.child / 1e6:,.0f} MB of the "
        f"decoding process; VmHWM of the service {resident / 1e6:,.0f} MB"
    )
    for phase in (quiet, *phases):
        if phase.locate_faults:
            print(f"void: times of {phase.name!r}: {'; '.join(phase.locate_faults)}")
    _keep(tally.broken, options.keep)
    yield from broken_promises(quiet, phases)
    yield from (f"{what} for {picture.name!r}" for what, picture in tally.broken[:20])
    yield from _complaints(server)


_Attack = tuple[str, Callable[[], Counter[str]], frozenset[str] | None]


def _attacks(server: Server, keys: Sequence[str], options: argparse.Namespace, tally: Tally) -> Iterator[_Attack]:
    """Name, work and right outcomes of each phase; None: the outcomes are judged elsewhere."""
    url, seconds = server.url, options.trickle_seconds
    for name, (run, right) in ATTACKS.items():
        yield name, lambda run=run: run(url, keys[0], seconds), right  # type: ignore[misc]
    if options.seconds:
        limits = ("--max-time", str(options.seconds), "-n", "10000")
        yield "schemathesis", lambda: _schemathesis(url, keys[0], options.seed, *limits), frozenset({"exit code 0"})
    callers = [{"Authorization": f"Bearer {key}"} for key in keys]
    yield "pictures of 1x1", lambda: attack(url, _lasting(max(2.0, seconds / 4)), 1, callers).outcomes(), None
    pictures, shares = mutations(options.seed, options.images), 4 if options.images >= 400 else 1
    count = -(-options.images // shares)
    for number in range(shares):
        send = lambda: _share(url, itertools.islice(pictures, count), callers, options.clients, tally)  # noqa: E731
        yield f"damaged pictures, {number + 1} of {shares}", send, None
    if options.bombs:
        yield "bombs", lambda: _bombs(url, callers[0]), frozenset(map(str, _ALLOWED))


@dataclass(frozen=True)
class Run:
    """A service under attack, and who watches it."""

    server: Server
    observer: Observer
    peak: Peak

    def phase(
        self,
        name: str,
        work: Callable[[], Counter[str]],
        right: frozenset[str] | None = None,
        one_key: bool = False,
    ) -> Phase:
        """Do the work, then wait until the service has no more of it."""
        with Watch() as watch:
            begin = time.monotonic()
            outcomes = work()
            seen = self.observer.between(begin, time.monotonic())
            self._rest()
        busy = watch.faults(seen.took_ms("locate")[:3] or [1.0] * 3, base=1e9)  # the load alone, and no spread
        phase = Phase(name, seen, self.peak.together, outcomes, right, one_key, busy)
        print(f"{time.monotonic() - begin:.0f} s: {row(phase)}", file=sys.stderr, flush=True)
        return phase

    def _rest(self) -> None:
        """Return once the service and its children take less than half a processor, which the other caller needs."""
        end = time.monotonic() + _MOST_REST_S
        while time.monotonic() < end and self.server.is_running:
            before = self.server.processor_s
            time.sleep(0.6)
            if self.server.processor_s - before < 0.3:
                return


def _lasting(seconds: float) -> Iterator[Hostile]:
    """Pictures of one pixel, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield tiny()


def _share(
    url: str, pictures: Iterator[Hostile], callers: Sequence[dict[str, str]], clients: int, tally: Tally
) -> Counter[str]:
    """Send some pictures; add to `tally`, and return their own outcomes."""
    before = tally.outcomes()
    return attack(url, pictures, clients, callers, tally).outcomes() - before


def _pause(seconds: float) -> Counter[str]:
    time.sleep(seconds)
    return Counter()


def _schemathesis(url: str, key: str, seed: int, *more: str) -> Counter[str]:
    code, said = schemathesis(url, key, seed, *more)
    print(said)
    return Counter({f"exit code {code}": 1})


def _bombs(url: str, headers: dict[str, str]) -> Counter[str]:
    """Send each bomb; count the statuses, those of other answers with the bomb's name, and print the slowest."""
    slowest, outcomes = (0.0, ""), Counter[str]()
    for bomb in bombs():
        begin = time.perf_counter()
        try:
            answer = httpx.post(f"{url}/locate", files={"image": bomb.data}, headers=headers, timeout=120)
        except httpx.HTTPError as error:
            outcomes[f"{error!r} for {bomb.name}"] += 1
            continue
        slowest = max(slowest, (time.perf_counter() - begin, bomb.name))
        is_right = answer.status_code in _ALLOWED and (answer.status_code == 200 or _PROBLEM in answer.text)
        outcomes[str(answer.status_code) if is_right else f"{answer.text[:300]} for {bomb.name}"] += 1
    print(f"bombs: the slowest took {slowest[0]:.1f} s ({slowest[1]})")
    return outcomes


def _changed(server: Server, headers: dict[str, str], before: dict[str, Any], cause: str) -> Iterator[str]:
    """Yield what changed: the process, its readiness, or the answer to the reference picture."""
    if not server.is_running:
        yield f"after {cause} the process has ended:\n{''.join(list(server.log)[-20:])}"
        return
    ready = httpx.get(f"{server.url}/readyz", timeout=60)
    if ready.status_code != 200:
        yield f"after {cause} /readyz says {ready.status_code}"
    now = reference(server.url, headers)
    if changes := {name: (before.get(name), value) for name, value in now.items() if not same(before.get(name), value)}:
        yield f"after {cause} the reference picture gets another answer: {str(changes)[:500]}"


def _complaints(server: Server) -> Iterator[str]:
    """Yield the errors in the log, and that it has lines that are not JSON, such as messages of C libraries."""
    other = [line for line in list(server.log) if not line.startswith("{")]
    if other:
        yield f"log, its last {len(server.log):,} lines: {len(other)} are not JSON, such as {other[-1:]}"
    for line in list(server.log):
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("level") in ("error", "critical") and not entry["logger"].startswith("PIL."):
            yield f"in the log: {line if len(line) < 1000 else f'{line[:200]} ... {line[-700:]}'}"


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
    parser.add_argument("--trickle-seconds", type=float, default=40, help="of each kind of connections and of regions")
    parser.add_argument("--clients", type=int, default=4, help="of the damaged pictures, each with a key of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--index", type=Path, help="serve this index instead of building one")
    parser.add_argument("--keep", type=Path, help="write pictures that got a 5xx into this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
