"""Time of one photo end to end over HTTP, compared with decoding, preprocessing and encoding alone.

    python -m benchmarks.locate [--quick] [--photos 60] [--leaves 100000] [--k 64] [--json FILE]

`tilebeam serve` runs in a process of its own over a seeded index of seven zooms, 4 to 16, once for each encoder: one of
ViT-B/32's shape with seeded random weights (speed does not depend on them), and the built-in one if it is present. A
client on loopback posts a photo and reads the answer; in between, this process decodes, preprocesses and encodes the
same photo with the same code and as many threads. The two alternate, so that a slower machine slows both. The service's
overhead is the median of the differences of neighbours. Prints a Markdown table, writes JSON.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.support import machine, pyramid
from benchmarks.support.validity import Watch, figure, report
from retrieval.encoders.open_clip import PhotoEncoder, build_tower, builtin_directory
from retrieval.encoders.preprocess import Preprocess
from retrieval.pictures.photo import decode_photo

ROOT = Path(__file__).parents[1]
SIZES = {"1 MP": (1200, 900), "12 MP": (4000, 3000)}
VIT_B_32 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Row(NamedTuple):
    """One line of the table, in milliseconds: medians over the photos. `over` and its 95% are of differences.

    `faults`: why the differences mean nothing; empty if they do.
    """

    encoder: str
    photo: str
    alone_ms: float
    http_ms: float
    over_ms: float
    over_95_ms: float
    decode_ms: float
    encode_ms: float
    search_ms: float
    faults: list[str]


def main() -> None:
    """Run, print a table, write JSON."""
    options = _options()
    rows = []
    for encoder in encoders():
        with tempfile.TemporaryDirectory() as name:
            rows += measure(Path(name), encoder, options)
    print(table(rows))
    report({f"{row.encoder}, {row.photo}: the time that HTTP adds": row.faults for row in rows})
    facts = {
        "leaves": options.leaves,
        "k": options.k,
        "photos": options.photos,
        "torch_threads": torch.get_num_threads(),
    }
    described = machine.describe()
    print(f"\n{options.leaves:,} leaves, k = {options.k}, {options.photos} photos each.\n{machine.sentence(described)}")
    result = facts | {"machine": described, "rows": [row._asdict() for row in rows]}
    options.json.write_text(json.dumps(result, indent=1) + "\n")


def encoders() -> Iterator[PhotoEncoder]:
    """The encoders to measure."""
    torch.manual_seed(0)
    architecture = {"embed_dim": 512, "vision_cfg": VIT_B_32, "quick_gelu": True}
    yield PhotoEncoder("ViT-B-32, random", build_tower(architecture), Preprocess(224, MEAN, STD), architecture, "cpu")
    if (builtin_directory() / "photo.json").is_file():
        yield PhotoEncoder.load("builtin", device="cpu")
    else:
        print("The built-in encoder is missing: its rows are left out.", file=sys.stderr)


def measure(work: Path, encoder: PhotoEncoder, options: argparse.Namespace) -> list[Row]:
    """Serve a pyramid for this encoder, and time photos of every size."""
    encoder.save(work / "encoders")
    pyramid.build(work, options.leaves, encoder.dim, photo=encoder.describe())
    with serving(work) as client:
        return [_row(client, encoder, name, size, options) for name, size in SIZES.items()]


@contextmanager
def serving(index: Path) -> Iterator[httpx.Client]:
    """A client with an open connection to a `tilebeam serve` process."""
    command = [sys.executable, "tilebeam.py", "serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        address = next((match[0] for line in lines if (match := re.search(r"http://[\d.:]+", line))), None)
        if address is None:
            raise SystemExit(f"the service over {index} ended before it listened")
        # The service logs a line per request. Without a reader the pipe would fill and block the service.
        threading.Thread(target=deque, args=(lines, 0), daemon=True).start()
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def _row(client: httpx.Client, encoder: PhotoEncoder, name: str, size: tuple[int, int], options: Any) -> Row:
    over_http, alone, timings = [], [], []
    with Watch() as watch:
        for number in range(-3, options.photos):  # the first three warm up
            photo = _photo(size, max(number, 0) % 8)
            http_ms, answer = _timed(lambda photo=photo: _post(client, photo, options.k))
            alone_ms, _ = _timed(lambda photo=photo: encoder.encode(encoder.prepare(decode_photo(photo))[None]))
            if number >= 0:
                over_http.append(http_ms)
                alone.append(alone_ms)
                timings.append(answer["timing_ms"])
    over = np.subtract(over_http, alone)
    faults = watch.faults(over.tolist(), float(np.median(alone)))
    stages = [float(np.median([t[stage] for t in timings])) for stage in ("decode", "encode", "search")]
    print(f"{encoder.name}, {name}: {figure(f'{np.median(over):.2f} ms over', faults)}", file=sys.stderr, flush=True)
    medians = (float(np.median(alone)), float(np.median(over_http)), float(np.median(over)))
    return Row(encoder.name, name, *medians, float(np.percentile(over, 95)), *stages, faults)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, in milliseconds."""
    head = "| encoder | photo | alone | over HTTP | more | more, 95% | decode | encode | search |"
    lines = [head, "|---|---|" + "---:|" * 7]
    lines += [f"| {row.encoder} | {row.photo} | {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row) -> Iterator[str]:
    for name, value in row._asdict().items():
        if isinstance(value, float):
            yield figure(f"{value:.2f}", row.faults if name.startswith("over") else ())


def _post(client: httpx.Client, photo: bytes, k: int) -> dict[str, Any]:
    response = client.post("/locate", params={"k": k}, content=photo, headers={"Content-Type": "image/jpeg"})
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    assert answer["levels"], answer
    return answer


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return (time.perf_counter() - started) * 1e3, result


@cache
def _photo(size: tuple[int, int], seed: int) -> bytes:
    """A JPEG with smooth shapes and grain, like a camera's: about two bits per pixel."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-16, 17, pixels.shape, dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=60, help="number of photos of each size")
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--json", type=Path, default=Path("locate.json"))
    parser.add_argument("--quick", action="store_true", help="a smoke test: 10,000 leaves, five photos")
    options = parser.parse_args()
    if options.quick:
        options.leaves, options.photos = 10_000, 5
    return options


if __name__ == "__main__":
    main()
