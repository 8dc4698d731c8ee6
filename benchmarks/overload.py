"""Offers the service twice its capacity: accepted requests must stay fast, the others must get 503 at once.

    python -m benchmarks.overload [--seconds 300] [--factor 2] [--size "1 MP"] [--index DIR] [--quick]

`tilebeam serve` runs in a process of its own with its default settings; this process is the client, on loopback. In
turn: one request after another; a closed loop, whose rate is the capacity; an open loop at `factor` times that, with
requests at fixed times whatever the answers, each timed from when it was due; a batch of 100 and one of 1,000 pictures
by a client that reads only after it has sent everything. Prints percentiles, counts by status, the queue's bound in
milliseconds (the time that a full queue takes at the capacity) and the service's memory. Exits with 1 if accepted
requests took longer than three times the unloaded 99th percentile plus the bound, if an answer was not 200 or 503 with
Retry-After, or if memory grew. With --quick only the answers are judged.
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvloop

from benchmarks.locate import SIZES, _photo
from benchmarks.support import machine
from benchmarks.support.loopback import Answered, Pool, request
from benchmarks.support.server import Server, built_index, started
from service.settings import Settings

PHOTOS = 16
EVERY_S = 10
CLOSED = 16
_GROWN = 1.05
_GROWN_BYTES = 32 << 20
"""Memory counts as flat if it grew by less than 5% or 32 MiB, because allocators keep freed memory."""


@dataclass
class Load:
    """The answers to an open loop, the requests that it could not send, and the service's memory every ten seconds."""

    answered: list[Answered] = field(default_factory=list)
    unsent: int = 0
    late_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def took_ms(self, status: int) -> list[float]:
        """Return the milliseconds of the requests that got this status."""
        return [each.took_s * 1e3 for each in self.answered if each.status == status]


async def closed_loop(pool: Pool, messages: Sequence[bytes], count: int, seconds: float) -> list[Answered]:
    """Run `count` clients, each sending its next request as soon as the last is answered."""
    end, answered = time.perf_counter() + seconds, list[Answered]()

    async def client(number: int) -> None:
        while (now := time.perf_counter()) < end:
            answered.append(await pool.ask(messages[(number + len(answered)) % len(messages)], now))

    await asyncio.gather(*(client(number) for number in range(count)))
    return answered


async def open_loop(server: Server, pool: Pool, messages: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send a request every 1/`rate` seconds, whatever the answers; without a free connection it is not sent."""
    load, asking, started_at = Load(), set[asyncio.Task[None]](), time.perf_counter()

    async def ask(number: int, due: float) -> None:
        load.answered.append(await pool.ask(messages[number % len(messages)], due))

    watching = asyncio.create_task(_watch(server, load))
    for number in range(int(rate * seconds)):
        due = started_at + number / rate
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        load.late_s.append(time.perf_counter() - due)
        if pool.is_full:
            load.unsent += 1
            continue
        task = asyncio.create_task(ask(number, due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    watching.cancel()
    load.rss.append(server.rss)
    return load


async def _watch(server: Server, load: Load) -> None:
    while True:
        load.rss.append(server.rss)
        await asyncio.sleep(EVERY_S)


async def measure(server: Server, photos: Sequence[bytes], asked: argparse.Namespace) -> dict[str, Any]:
    """Run the three loops and return their figures."""
    messages = [request("/locate", photo, "image/jpeg") for photo in photos]
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    pool = Pool(address.hostname, address.port, asked.connections)
    await closed_loop(pool, messages, 4, 2)  # warm up
    alone = await closed_loop(pool, messages, 1, asked.warm)
    began = time.perf_counter()
    crowd = await closed_loop(pool, messages, CLOSED, asked.warm)
    capacity = sum(each.status == 200 for each in crowd) / (time.perf_counter() - began)
    _say(f"capacity {capacity:.1f} images/s; {asked.seconds:g} s at {asked.factor * capacity:.1f}")
    client_s = time.process_time()
    load = await open_loop(server, pool, messages, asked.factor * capacity, asked.seconds)
    client_s = time.process_time() - client_s
    pool.close()
    return {
        "unloaded_ms": percentiles([each.took_s * 1e3 for each in alone]),
        "capacity_images_s": capacity,
        "offered_images_s": asked.factor * capacity,
        "accepted_images_s": len(load.took_ms(200)) / asked.seconds,
        "accepted_ms": percentiles(load.took_ms(200)),
        "refused_ms": percentiles(load.took_ms(503)),
        "statuses": dict(Counter(each.status for each in load.answered)),
        "without_retry_after": sum(each.status == 503 and not each.retry_after_s for each in load.answered),
        "retry_after_s": dict(sorted(Counter(e.retry_after_s for e in load.answered if e.status == 503).items())),
        "unsent": load.unsent,
        "client_cores": client_s / asked.seconds,
        "client_late_p99_ms": percentiles([late * 1e3 for late in load.late_s])["p99"],
        "rss_mib": [round(rss / 2**20) for rss in load.rss],
        **bound(capacity, len(load.took_ms(200)) / asked.seconds),
    }


def bound(capacity: float, accepted: float) -> dict[str, float]:
    """Return how long a full queue takes at the capacity, in ms, and how long the single pictures in it take.

    The queue holds `max_queued_images` from batches and single requests; of these, the benchmark is one caller and gets
    its share.
    """
    settings = Settings()
    singles = int(settings.caller_share * min(settings.max_in_flight, settings.max_queued_images))
    return {
        "queue_images": settings.max_queued_images,
        "bound_ms": settings.max_queued_images / capacity * 1e3,
        "singles": singles,
        "singles_ms": singles / capacity * 1e3,
        "singles_kept_ms": singles / max(accepted, 1e-9) * 1e3,
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99; NaN without values."""
    return {f"p{p}": float(np.percentile(values, p)) if len(values) else float("nan") for p in (50, 99)}


def batch_peak(server: Server, photos: Sequence[bytes], count: int) -> dict[str, Any]:
    """Send a whole batch, then read; return the service's memory before and its peak, in MiB, and images a second."""
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    parts = [head + photos[number % len(photos)] + b"\r\n" for number in range(count)]
    message = request("/locate/batch?k=16", b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x")
    seen, done, before, began = [server.rss], threading.Event(), server.rss, time.perf_counter()

    def watch() -> None:
        while not done.wait(0.02):
            seen.append(server.rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answer = _talk(server.url, message.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    finally:
        done.set()
        watching.join()
    return {
        "results": answer.count(b'"result":'),
        "before_mib": round(before / 2**20),
        "peak_mib": round(max(seen) / 2**20),
        "images_s": count / (time.perf_counter() - began),
    }


def _talk(url: str, message: bytes) -> bytes:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=600) as connection:
        connection.sendall(message)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def troubles(figures: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong, whatever the length of the run, and what takes a long run on a quiet machine to judge."""
    yield from wrong_answers(figures)
    allowed = 3 * figures["unloaded_ms"]["p99"] + figures["bound_ms"]
    if not figures["accepted_ms"]["p99"] <= allowed:
        yield f"accepted requests took {figures['accepted_ms']['p99']:.0f} ms at p99, and {allowed:.0f} ms are allowed"
    if 503 not in figures["statuses"]:
        yield "no request was refused: the capacity was measured too low, so give a larger --factor"
    if figures["unsent"] > 0.01 * sum(figures["statuses"].values()):
        yield f"{figures['unsent']} requests got no connection: give more --connections"
    if (grown := _grown(figures["rss_mib"])) is not None:
        yield f"memory grew from {grown[0]:.0f} to {grown[1]:.0f} MiB under load"
    small, large = figures["batches"]["100"], figures["batches"][str(max(map(int, figures["batches"])))]
    if large["peak_mib"] > small["peak_mib"] * _GROWN + _GROWN_BYTES / 2**20:
        yield f"a large batch took up to {large['peak_mib']} MiB, one of 100 pictures {small['peak_mib']} MiB"


def wrong_answers(figures: dict[str, Any]) -> Iterator[str]:
    """Say which answers were wrong: other statuses than 200 and 503, no Retry-After, missing results of a batch."""
    if wrong := set(figures["statuses"]) - {200, 503}:
        yield f"there were answers of status {sorted(wrong)} (0: no answer)"
    if figures["without_retry_after"]:
        yield f"{figures['without_retry_after']} answers of 503 were without Retry-After"
    for count, batch in figures["batches"].items():
        if batch["results"] != int(count):
            yield f"a batch of {count} pictures had {batch['results']} results"


def _grown(rss: Sequence[int]) -> tuple[float, float] | None:
    """Return the memory early and late in the run if it grew by more than allocators' noise, else None."""
    tenth = max(1, len(rss) // 10)
    early, late = float(np.median(rss[tenth : 3 * tenth] or rss)), float(np.median(rss[-2 * tenth :]))
    return (early, late) if late > early * _GROWN and late - early > _GROWN_BYTES / 2**20 else None


def table(figures: dict[str, Any]) -> str:
    """Format as Markdown."""
    pair = lambda name: f"{figures[name]['p50']:.0f} / {figures[name]['p99']:.0f} ms"  # noqa: E731
    allowed = 3 * figures["unloaded_ms"]["p99"] + figures["bound_ms"]
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(figures["statuses"].items()))
    waits = ", ".join(f"{wait} s: {count:,}" for wait, count in figures["retry_after_s"].items())
    rows = [
        ("unloaded p50 / p99", pair("unloaded_ms")),
        ("capacity, closed loop", f"{figures['capacity_images_s']:.1f} images/s"),
        ("offered / accepted", f"{figures['offered_images_s']:.1f} / {figures['accepted_images_s']:.1f} images/s"),
        ("accepted p50 / p99", pair("accepted_ms")),
        ("allowed: 3 x unloaded p99 + bound", f"{allowed:.0f} ms"),
        ("queue's bound: images / at capacity", f"{figures['queue_images']} / {figures['bound_ms']:.0f} ms"),
        (
            "single pictures in work: limit / at capacity / at the pace under load",
            f"{figures['singles']} / {figures['singles_ms']:.0f} / {figures['singles_kept_ms']:.0f} ms",
        ),
        ("refused p50 / p99", pair("refused_ms")),
        ("statuses", statuses),
        ("Retry-After", waits or "none"),
        ("not sent: no free connection", f"{figures['unsent']:,}"),
        ("client behind its schedule, p99", f"{figures['client_late_p99_ms']:.0f} ms"),
        ("processor time of the client, in cores", f"{figures['client_cores']:.2f} cores"),
        (f"memory every {EVERY_S} s", f"{' '.join(map(str, figures['rss_mib']))} MiB"),
    ]
    for count, batch in figures["batches"].items():
        words = f"{batch['before_mib']} / {batch['peak_mib']} MiB, {batch['images_s']:.1f} images/s"
        rows.append((f"batch of {count}, read at the end: memory before / peak", words))
    return "| | |\n|---|---:|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def main() -> None:
    """Measure, print Markdown, write JSON; exit with 1 if something is wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the service must end with this process
    asked = _options()
    photos = [_photo(SIZES[asked.size], seed) for seed in range(PHOTOS)]
    with tempfile.TemporaryDirectory() as name:
        index = asked.index or built_index(Path(name), asked.leaves)
        # This process is all clients together, so the limits of one caller and one address do not apply.
        connections = str(asked.connections + 64)
        limits = {"max_connections": connections, "max_connections_per_address": connections, "caller_share": "1"}
        with started(index, log_level="warning", **limits) as server:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(measure(server, photos, asked))
            counts = (100, asked.images)
            figures["batches"] = {str(count): batch_peak(server, photos, count) for count in counts}
            found = list((wrong_answers if asked.quick else troubles)(figures))
            if httpx.get(f"{server.url}/readyz", timeout=60).status_code != 200:
                found.append("/readyz no longer answers 200")
    described = machine.describe()
    print(f"{table(figures)}\n\n{asked.seconds:g} s, photos of {asked.size}.\n{machine.sentence(described)}")
    asked.json.write_text(json.dumps(figures | {"machine": described, "troubles": found}, indent=1) + "\n")
    for trouble in found:
        print(f"TROUBLE: {trouble}")
    sys.exit(bool(found))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="duration of the open loop")
    parser.add_argument("--factor", type=float, default=2, help="times the capacity")
    parser.add_argument("--warm", type=float, default=15, help="seconds duration of each closed loop")
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--size", choices=tuple(SIZES), default="1 MP")
    parser.add_argument("--images", type=int, default=1000, help="in the large batch")
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="serve this index instead of building one")
    parser.add_argument("--json", type=Path, default=Path("overload.json"))
    parser.add_argument(
        "--quick", action="store_true", help="ten seconds and a batch of 200; judges answers, not times"
    )
    asked = parser.parse_args()
    if asked.quick:
        asked.seconds, asked.warm, asked.images, asked.leaves = 10, 4, 200, 10_000
    return asked


if __name__ == "__main__":
    main()
