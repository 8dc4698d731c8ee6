"""Measures the service's throughput and latency: one request at a time, many at a time, and batches.

    python -m benchmarks.service [--encoder builtin|vit] [--quick] [--images 256] [--rounds 5] [--seconds 10]

In one run, over a seeded index of seven zooms: the encoder alone on full batches; a bare loop of decode + preprocess +
encode, decoding ahead in as many threads as the service; `/locate` at concurrency 1, 8 and 32; `/locate/batch` against
the bare loop; the service's memory. `tilebeam serve` runs in a process of its own with its default settings and as
many threads as this one (OMP_NUM_THREADS; 1 is more reliable on a shared machine). Bare work and service alternate, so
that a slower machine slows both; ratios and differences are medians of neighbours. Processor time stands beside them,
which other processes on the machine disturb less.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch

from benchmarks.locate import SIZES, _photo, encoders, serving
from benchmarks.support import machine, pyramid
from benchmarks.support.validity import Watch, figure, report
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import decode_photo
from service.settings import Settings

CONCURRENCY = (1, 8, 32)
PHOTOS = 16
_JPEG = {"Content-Type": "image/jpeg"}
_BOUNDARY = b"----tilebeam7MA4YWxkTrZu0gW"
_REST_S = 0.03
"""Pause before a batch is timed: OpenMP's threads spin for a while after work and would occupy the cores."""


def main() -> None:
    """Measure, print Markdown, write JSON."""
    asked = _options()
    encoder = PhotoEncoder.load("builtin", device="cpu") if asked.encoder == "builtin" else next(encoders())
    photos = [_photo(SIZES[asked.size], seed) for seed in range(PHOTOS)]
    with tempfile.TemporaryDirectory() as name:
        encoder.save(Path(name) / "encoders")
        pyramid.build(Path(name), asked.leaves, encoder.dim, photo=encoder.describe())
        with serving(Path(name)) as client, Watch() as watch:
            figures = measure(client, encoder, photos, asked)
    figures |= {"encoder": encoder.name, "photo": asked.size, "torch_threads": torch.get_num_threads()}
    faults = {
        "the time that `/locate` adds": watch.faults(figures["over_ms"], figures["alone_p50_ms"]),
        "the ratio of batches": watch.faults(figures["batch_ratios"]),
    }
    figures["void"] = report(faults)
    print(table(figures, *faults.values()))
    described = machine.describe()
    print(f"\n{asked.leaves:,} leaves.\n{machine.sentence(described)}")
    asked.json.write_text(json.dumps(figures | {"machine": described}, indent=1) + "\n")


def measure(client: httpx.Client, encoder: PhotoEncoder, photos: list[bytes], asked: Any) -> dict[str, Any]:
    """Return all figures, in the order of the table."""
    server = _server()
    for _ in range(3):  # warm up both sides
        _post(client, photos[0])
        bare_rate(encoder, photos[:8], 8)
    memory = [server.memory_info().rss]
    _say("one after another")
    figures: dict[str, Any] = {"encode_images_s": encode_rate(encoder, asked.seconds / 4)}
    figures |= overhead(client, encoder, photos, asked.photos)
    _say("many at a time")
    figures["locate"] = {count: crowd(client, photos, count, asked.seconds) for count in CONCURRENCY}
    memory.append(server.memory_info().rss)
    _say("batches")
    figures |= batch_ratio(client, encoder, photos, asked)
    memory.append(server.memory_info().rss)
    figures["memory_mib"] = [round(rss / 2**20) for rss in memory]
    return figures


def encode_rate(encoder: PhotoEncoder, seconds: float) -> float:
    """Return the images a second of the encoder alone, on full batches."""
    size = encoder.preprocess.size
    batch = np.random.default_rng(0).standard_normal((encoder.batch_size, 3, size, size), dtype=np.float32)
    encoder.encode(batch)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not count:
        encoder.encode(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def overhead(client: httpx.Client, encoder: PhotoEncoder, photos: list[bytes], count: int) -> dict[str, Any]:
    """Return the milliseconds of one picture alone and over HTTP, and their difference, as medians."""
    alone, over = [], []
    encoder.tune_for_single()  # as the service does
    for number in range(count):
        photo = photos[number % len(photos)]
        over.append(_timed_ms(lambda photo=photo: _post(client, photo)))
        alone.append(_timed_ms(lambda photo=photo: encoder.encode(_prepared(encoder, photo)[None])))
    return {
        "alone_p50_ms": float(np.median(alone)),
        "http_p50_ms": float(np.median(over)),
        "over_p50_ms": float(np.median(np.subtract(over, alone))),
        "over_ms": np.subtract(over, alone).tolist(),
    }


def crowd(client: httpx.Client, photos: list[bytes], count: int, seconds: float) -> dict[str, float]:
    """Run `count` clients, each sending its next request when answered; return ms percentiles, images/s, refusals."""
    took: list[float] = []
    refused: list[int] = []
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=120, trust_env=False) as own:
            while time.perf_counter() < end:
                started = time.perf_counter()
                status = own.post("/locate", content=photos[number % len(photos)], headers=_JPEG).status_code
                if status == 200:
                    took.append((time.perf_counter() - started) * 1e3)
                else:
                    refused.append(status)
                    time.sleep(0.1)

    started = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(took) / (time.perf_counter() - started)
    percentiles = {f"p{p}_ms": float(np.percentile(took, p)) for p in (50, 95, 99)}
    return percentiles | {"images_s": rate, "refused": len(refused)}


def batch_ratio(client: httpx.Client, encoder: PhotoEncoder, photos: list[bytes], asked: Any) -> dict[str, Any]:
    """Return images a second of the bare loop and of `/locate/batch`, in turns, and the median ratio of neighbours."""
    sent = [photos[number % len(photos)] for number in range(asked.images)]
    head = b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    body = b"".join(head + photo + b"\r\n" for photo in sent) + b"--" + _BOUNDARY + b"--\r\n"
    bare, served, bare_s, client_s, served_s, server = [], [], 0.0, 0.0, 0.0, _server()
    for _ in range(asked.rounds):
        bare_s -= time.process_time()
        bare.append(bare_rate(encoder, sent, encoder.batch_size))
        bare_s += time.process_time()
        time.sleep(_REST_S)
        served_s -= sum(server.cpu_times()[:2])
        client_s -= time.process_time()
        served.append(len(sent) / _timed_ms(lambda: _post_batch(client, body, len(sent))) * 1e3)
        served_s += sum(server.cpu_times()[:2])
        client_s += time.process_time()
    ratios, images = np.divide(served, bare), asked.rounds * len(sent)
    return {
        "bare_cpu_ms": bare_s / images * 1e3,
        "batch_cpu_ms": served_s / images * 1e3,
        "client_cpu_ms": client_s / images * 1e3,
        "bare_images_s": float(np.median(bare)),
        "batch_images_s": float(np.median(served)),
        "batch_ratio": float(np.median(ratios)),
        "batch_ratio_best": float(ratios.max()),
        "batch_ratios": ratios.tolist(),
    }


def bare_rate(encoder: PhotoEncoder, photos: list[bytes], batch_size: int) -> float:
    """Return images a second of decoding in a pool, one batch ahead, and encoding in this thread."""
    started, pending = time.perf_counter(), iter(photos)
    with ThreadPoolExecutor(Settings().decode_threads) as pool:

        def submitted() -> "list[Future[Any]]":
            return [pool.submit(_prepared, encoder, photo) for photo in islice(pending, batch_size)]

        ahead = submitted()
        while ahead:
            ahead, batch = submitted(), ahead
            encoder.encode(np.stack([one.result() for one in batch]))
    return len(photos) / (time.perf_counter() - started)


def table(figures: dict[str, Any], over_faults: list[str], ratio_faults: list[str]) -> str:
    """Format as Markdown, without the figures that have faults."""
    rows = [
        ("encoder alone, full batches", f"{figures['encode_images_s']:.1f} images/s"),
        ("one picture: decode + preprocess + encode, p50", f"{figures['alone_p50_ms']:.1f} ms"),
        ("one picture: `/locate`, p50", f"{figures['http_p50_ms']:.1f} ms"),
        ("time that `/locate` adds, p50", figure(f"{figures['over_p50_ms']:.1f} ms", over_faults)),
    ]
    for count, row in figures["locate"].items():
        words = " / ".join(f"{row[f'p{p}_ms']:.0f}" for p in (50, 95, 99))
        rows.append(
            (
                f"`/locate`, {count} at a time: p50 / p95 / p99",
                f"{words} ms, {row['images_s']:.1f} images/s, {row['refused']} refused",
            )
        )
    rows += [
        ("bare loop", f"{figures['bare_images_s']:.1f} images/s"),
        ("`/locate/batch`", f"{figures['batch_images_s']:.1f} images/s"),
        (
            "`/locate/batch` to bare loop, median (best)",
            figure(f"{figures['batch_ratio']:.0%} ({figures['batch_ratio_best']:.0%})", ratio_faults),
        ),
        (
            "processor time of a picture: bare loop / batch / the client that sends it",
            f"{figures['bare_cpu_ms']:.1f} / {figures['batch_cpu_ms']:.1f} / {figures['client_cpu_ms']:.1f} ms",
        ),
        (
            "memory of the service: ready / after `/locate` / after batches",
            f"{' / '.join(map(str, figures['memory_mib']))} MiB",
        ),
    ]
    head = f"| {figures['encoder']}, photos of {figures['photo']}, {figures['torch_threads']} threads | |\n|---|---:|\n"
    return head + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _prepared(encoder: PhotoEncoder, photo: bytes) -> Any:
    return encoder.prepare(decode_photo(photo, PhotoLimits(), encoder.min_edge))


def _post(client: httpx.Client, photo: bytes) -> None:
    client.post("/locate", content=photo, headers=_JPEG).raise_for_status()


def _post_batch(client: httpx.Client, body: bytes, count: int) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY.decode()}"}
    with client.stream("POST", "/locate/batch", content=body, headers=headers) as response:
        lines: Iterator[str] = response.iter_lines()
        assert sum('"result"' in line for line in lines) == count


def _timed_ms(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _server() -> psutil.Process:
    """Return the process that `serving` started."""
    return next(child for child in psutil.Process().children() if "serve" in child.cmdline())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("builtin", "vit"), default="builtin", help="vit: ViT-B/32, random")
    parser.add_argument("--size", choices=tuple(SIZES), default="1 MP")
    parser.add_argument("--photos", type=int, default=100, help="one after another")
    parser.add_argument("--images", type=int, default=256, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="batches")
    parser.add_argument("--seconds", type=float, default=10, help="at each concurrency")
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--json", type=Path, default=Path("service.json"))
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it runs")
    asked = parser.parse_args()
    if asked.quick:
        asked.photos, asked.images, asked.rounds, asked.seconds, asked.leaves = 10, 64, 2, 2.0, 10_000
    return asked


if __name__ == "__main__":
    main()
