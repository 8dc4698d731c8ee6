"""The beam on a GPU: FAISS's GPU lists against gathers and matrix products; then from pictures to answers.

    python -m benchmarks.gpu [--out gpu.json] [--device cuda] [--leaves 1000000] [--batch 1 ... 1024] [--k 16 64 256]

One command for a CUDA machine, with FAISS built for it. `--device cpu --quick` runs all but the GPU's own parts in a
minute, to test this program. It has not run on a CUDA machine yet.

Seven zooms, 512 dimensions, fp16. `search` is the device's work alone, posterior included; `descents` adds the copy to
the host and the unpacking there; `answers` adds points, radii and JSON values. `GB/s` counts each compared vector
once, the minimum that must be read, so it can be compared with the memory's measured speed (`roofline`). FAISS's GPU
lists only compute similarities of the lists to probe; their limit is 2,048 results, so at k = 256
they cannot return all candidates. If a method cannot run, its row says why.
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from PIL import Image

from benchmarks.locate import MEAN, STD, VIT_B_32
from benchmarks.support import machine, pyramid
from retrieval.encoders.device import use_half
from retrieval.encoders.open_clip import PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.locator import LocateQuery, Locator
from retrieval.pictures.photo import decode_photo
from retrieval.search.beam import Descent, descend
from retrieval.search.gpu.beam import DeviceBeam
from retrieval.search.plan import SearchPlan

NUMBERS = Calibration({z: ZoomNumbers(tau=0.05, b=0.0, kappa=0.3, rho=0.8) for z in pyramid.ZOOMS})
MAX_RESULTS = 2048
"""Limit of a FAISS GPU index for results and probes."""
_SECONDS = 5.0


class Row(NamedTuple):
    """One line: a batch's milliseconds (median), queries a second, and bytes compared a second."""

    method: str
    k: int | None
    batch: int | None
    ms: float
    per_s: float
    gb_per_s: float | None = None
    note: str = ""


def main() -> None:
    """Measure, print tables, write JSON."""
    options = _options()
    device = torch.device(options.device)
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        encoder = _encoder(options, work)
        pyramid.build(work / "index", options.leaves, encoder.dim, photo=encoder.describe())
        index = TileIndex.open(work / "index", mmap=False)
        roofline = bandwidth(device)
        rows = list(descents(index, work / "index", device, options))
        rows += end_to_end(index, encoder, device, options)
    finally:
        if options.work is None:
            shutil.rmtree(work)
    print(f"{_device_words(device)}; {machine.sentence(machine.describe())}")
    print(f"{options.leaves:,} leaves, {encoder.dim} dimensions; memory copies {roofline:.0f} GB/s, reads and writes")
    print(f"\n{table(rows, roofline)}")
    facts = {"device": _device_words(device), "machine": machine.describe(), "roofline_gb_per_s": roofline}
    facts["options"] = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    options.out.write_text(json.dumps(facts | {"rows": [row._asdict() for row in rows]}, indent=1) + "\n")


def bandwidth(device: torch.device) -> float:
    """GB/s of a large copy on the device, reads and writes counted."""
    one = torch.ones((1 << 30 if device.type == "cuda" else 1 << 26) // 4, device=device)
    other = torch.empty_like(one)
    return 2 * one.nbytes / timed(lambda: other.copy_(one), device, 5) / 1e6


def descents(index: TileIndex, directory: Path, device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """All ways to search, at every k and batch size."""
    beam = DeviceBeam.of(index, NUMBERS, device)
    queries, _ = pyramid.queries(directory, max(options.batch))
    for k in options.k:
        traces = beam.descend_batch(queries[:16], k)
        gathered = np.mean([sum(len(step.rows) for step in t.steps) for t in traces]) * index.dim * 2
        few = queries[: options.lists]
        ms = timed(lambda k=k, few=few: [descend(index, q, SearchPlan(NUMBERS, k=k)) for q in few], device, 3)
        yield _row("FAISS lists on the CPU, one by one", k, 1, ms / len(few), gathered)
        for n in options.batch:
            batch = queries[:n]
            yield from _on_device(beam, batch, k, gathered, options.rounds)
            lists = partial(_faiss, directory, beam, batch, k, options.rounds, gathered)
            yield _tried(_faiss_name(device), k, n, lists)
            _say(f"k = {k}, {n} at once: done")


def _on_device(beam: DeviceBeam, batch: Any, k: int, gathered: float, rounds: int) -> Iterator[Row]:
    n, device = len(batch), beam.index.device
    queries = torch.from_numpy(batch).to(device)
    size = beam.batch_size(k)

    def search() -> None:
        with torch.inference_mode():
            for block in queries.split(size):
                beam.search(block, k, "posterior")

    yield _row("search", k, n, timed(search, device, rounds), gathered)
    yield _row("descents", k, n, timed(lambda: beam.descend_batch(batch, k), device, rounds), gathered)


def _faiss_name(device: torch.device) -> str:
    return "FAISS GPU lists" if device.type == "cuda" else "FAISS CPU lists, queried as the GPU's"


def _faiss(directory: Path, beam: DeviceBeam, batch: Any, k: int, rounds: int, gathered: float) -> Row:
    """Similarities alone, level by level, of the lists that each descent probed."""
    device = beam.index.device
    lists = _faiss_levels(directory, device)
    descents_of_batch = beam.descend_batch(batch, k)
    plan = [(lists[i], *_probes(descents_of_batch, i, k)) for i in range(len(lists))]

    def search() -> None:
        for level, probes, distances, results in plan:
            level.nprobe = probes.shape[1]
            level.search_preassigned(batch, results, probes, distances)

    cut = "" if 16 * k <= MAX_RESULTS else f"cut at {MAX_RESULTS} results"
    return _row(_faiss_name(device), k, len(batch), timed(search, device, rounds), gathered, cut)


_LISTS: dict[tuple[Path, str], list[Any]] = {}


def _faiss_levels(directory: Path, device: torch.device) -> list[Any]:
    """Each zoom's lists as FAISS opens them, on the GPU where that is the device; loaded once."""
    key = (directory, device.type)
    if key not in _LISTS:
        manifest = json.loads((directory / "manifest.json").read_text())
        shards = [zoom["shards"] for zoom in manifest["zooms"]]
        if any(len(files) > 1 for files in shards):
            raise RuntimeError(
                "a zoom has several shards, and FAISS would need a GPU index for each: take fewer leaves"
            )
        indexes = [faiss.read_index(str(directory / files[0]["file"])) for files in shards]
        _LISTS[key] = [_to_gpu(index, device) if device.type == "cuda" else index for index in indexes]
    return _LISTS[key]


def _to_gpu(index: Any, device: torch.device) -> Any:
    # The GPU's index wants a centroid for each list, though nobody asks which is near.
    quantizer = faiss.downcast_index(index.quantizer)
    quantizer.add(np.zeros((index.nlist, index.d), dtype=np.float32))
    options = faiss.GpuClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index, options)


def _probes(descents: list[Descent], i: int, k: int) -> tuple[Any, Any, int]:
    """The lists that each query probes at level i, (n, m) padded with -1, their distances, and results to ask for."""
    lists = [t.steps[i - 1].rows[t.steps[i - 1].beam] if 0 < i <= len(t.steps) else np.zeros(1, int) for t in descents]
    probes = np.full((len(descents), min(max(map(len, lists)), MAX_RESULTS)), -1, dtype=np.int64)
    for row, some in zip(probes, lists, strict=True):
        row[: len(some)] = some
    largest = max((len(t.steps[i].rows) for t in descents if i < len(t.steps)), default=1)
    return probes, np.zeros(probes.shape, dtype=np.float32), min(largest, MAX_RESULTS)


def end_to_end(
    index: TileIndex, encoder: PhotoEncoder, device: torch.device, options: argparse.Namespace
) -> Iterator[Row]:
    """Images a second from JPEG bytes to answers: each stage alone, and all with decoding ahead of the encoder."""
    photos = [_photo(seed) for seed in range(16)]
    n, k = options.images, options.k[len(options.k) // 2]
    bytes_of = [photos[i % 16] for i in range(n)]
    beam = DeviceBeam.of(index, NUMBERS, device)
    locator = Locator(index, NUMBERS, encoder, beam)
    with ThreadPoolExecutor(options.decoders) as pool:

        def decoded() -> list[Any]:
            return list(pool.map(lambda data: encoder.prepare(decode_photo(data)), bytes_of))

        pixels = np.stack(decoded())
        yield _row(f"decode and resize, 1 MP, {options.decoders} threads", None, n, timed(decoded, device, 3))
        for half in (False, True):
            kind = use_half(encoder) if half else None
            if half and kind is None:
                continue
            name = str(kind or torch.float32).removeprefix("torch.")
            yield _row(f"encode ViT-B/32, {name}", None, n, timed(lambda: encoder.encode(pixels), device, 3))
        embeddings, query = encoder.encode(pixels), LocateQuery(k=k)
        yield _row("answers", k, n, timed(lambda: locator.locate(embeddings, query), device, 3))

        def everything() -> None:
            size, previous = options.group, None
            for at in [*range(0, n, size), None]:
                current = None if at is None else [pool.submit(_prepared, encoder, b) for b in bytes_of[at : at + size]]
                if previous is not None:
                    locator.locate(encoder.encode(np.stack([w.result() for w in previous])), query)
                previous = current

        yield _row(f"JPEG to answer, groups of {options.group}", k, n, timed(everything, device, 3))


def _prepared(encoder: PhotoEncoder, data: bytes) -> Any:
    return encoder.prepare(decode_photo(data))


def timed(work: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median milliseconds, the device's work waited for; rounds before for warmth, none begun after some seconds."""
    times: list[float] = []
    begun = time.perf_counter()
    for number in range(-2 if rounds > 3 else -1, rounds):
        if times and time.perf_counter() - begun > _SECONDS:
            break
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 0:
            times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))


def table(rows: list[Row], roofline: float) -> str:
    """Markdown; the last figures are shares of the memory's speed."""
    lines = ["| method | k | at once | ms | a second | GB/s | of memory's | |", "|---|" + "---:|" * 6 + "---|"]
    for r in rows:
        speed = ("", "") if r.gb_per_s is None else (f"{r.gb_per_s:.1f}", f"{r.gb_per_s / roofline:.0%}")
        times = ("", "") if r.ms != r.ms else (f"{r.ms:.3f}", f"{r.per_s:,.0f}")
        cells = (r.method, r.k or "", r.batch or "", *times, *speed, r.note)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _row(method: str, k: int | None, n: int, ms: float, gathered: float | None = None, note: str = "") -> Row:
    return Row(method, k, n, ms, n / ms * 1e3, None if gathered is None else gathered * n / ms / 1e6, note)


def _tried(method: str, k: int, n: int, measure: Callable[[], Row]) -> Row:
    try:
        return measure()
    except (RuntimeError, AssertionError, AttributeError, TypeError) as exc:
        return Row(method, k, n, float("nan"), float("nan"), None, f"did not run: {str(exc).splitlines()[0][:160]}")


def _encoder(options: argparse.Namespace, work: Path) -> PhotoEncoder:
    """ViT-B/32's shape with seeded random weights, or something tiny: speed does not depend on the weights."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16} if options.quick else VIT_B_32
    architecture = {"embed_dim": 64 if options.quick else options.dim, "vision_cfg": vision, "quick_gelu": True}
    preprocess = Preprocess(int(vision["image_size"]), MEAN, STD)
    encoder = PhotoEncoder("random", build_tower(architecture), preprocess, architecture, options.device)
    encoder.save(work / "index" / "encoders")
    return encoder


def _photo(seed: int) -> bytes:
    """A JPEG of a megapixel with smooth shapes and grain."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((1200, 900), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-16, 17, pixels.shape, dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _device_words(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} tensors, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ..., or cpu")
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--lists", type=int, default=64, help="queries for the CPU's lists")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--group", type=int, default=128, help="photos encoded at once, end to end")
    parser.add_argument("--decoders", type=int, default=16, help="threads that decode")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument(
        "--work", type=Path, help="keep the index here for another run (default: a temporary directory)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="10,000 leaves, 64 dimensions, little of all: does it run?"
    )
    options = parser.parse_args()
    if options.quick:
        options.leaves, options.k, options.batch, options.rounds = 10_000, [16], [1, 8], 3
        options.lists, options.images, options.group, options.decoders = 8, 8, 4, 2
    return options


if __name__ == "__main__":
    main()
