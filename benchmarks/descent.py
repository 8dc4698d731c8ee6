"""Times the descent against gathering, exhaustive search, and a plain read of the same bytes.

    python -m benchmarks.descent [--quick] [--leaves 10000 ...] [--k 16 64 256] [--json FILE] [--work DIR]

Seven zooms, 512 dimensions, fp16, posterior included. All methods run on one thread (`--threads`) over the same
queries. A query's time is the shortest of three passes. Between two passes of a query the other queries read hundreds
of megabytes, so the deep zooms' bytes come from memory, not from cache. `read` copies exactly the list slices that the
descent compared, from an array in memory to a small buffer. A gather copies whole lists at once, because all have 16
rows here. Prints a Markdown table and writes JSON.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.support import machine, pyramid
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import Candidates, TileIndex
from retrieval.search.beam import Descent, descend
from retrieval.search.plan import SearchPlan

NUMBERS = Calibration({z: ZoomNumbers(tau=0.05, b=0.0) for z in pyramid.ZOOMS})
PASSES = 3
Run = Callable[[NDArray[np.float32]], Any]
Gather = Callable[[Any, NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


class Row(NamedTuple):
    """One line of the table; times in milliseconds per query."""

    leaves: int
    k: int | None
    method: str
    median_ms: float
    p95_ms: float
    note: str = ""


class GatheredLevel:
    """A level whose lists are gathered from one array of (parents, 16 d), and searched by a matrix-vector product."""

    has_vectors = True

    def __init__(self, level: Any, array: Any, gather: Gather) -> None:
        self.zoom, self.codes, self._starts, self.has_vectors = level.zoom, level.codes, level.starts, True
        whole = len(array) == 16 * (len(level.starts) - 1) or len(level.starts) == 2
        self._width = (len(array) // (len(level.starts) - 1)) if whole else 1
        self._blocks, self._gather = array.reshape(len(array) // self._width, -1), gather

    def search(self, query: NDArray[np.float32], parents: NDArray[np.int64]) -> Candidates:
        """Like `Level.search`."""
        first = self._starts[parents]
        counts = self._starts[parents + 1] - first
        slots = np.arange(len(parents)).repeat(counts)
        rows = np.arange(len(slots)) + (first - np.cumsum(counts) + counts)[slots]
        blocks = rows if self._width == 1 else parents
        return Candidates(rows, self._gather(self._blocks, blocks, query), slots)


class Gathered(NamedTuple):
    """The part of an index that `descend` needs."""

    levels: list[GatheredLevel]


def _numpy(blocks: Any, which: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    found = blocks.take(which, axis=0, mode="clip").reshape(-1, len(query))
    return found.astype(np.float32, copy=False) @ query


def _torch(blocks: Any, which: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    found = blocks.index_select(0, torch.from_numpy(which)).view(-1, len(query))
    return torch.mv(found, torch.from_numpy(query).to(found.dtype)).float().numpy()


def _torch_widened(blocks: Any, which: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    found = blocks.index_select(0, torch.from_numpy(which)).view(-1, len(query))
    return torch.mv(found.float(), torch.from_numpy(query)).numpy()


GATHERS: dict[str, tuple[Callable[[NDArray[np.float16]], Any], Gather]] = {
    "gather, NumPy fp32": (lambda a: a.astype(np.float32), _numpy),
    "gather, NumPy fp16": (lambda a: a, _numpy),
    "gather, torch fp32": (lambda a: torch.from_numpy(a.astype(np.float32)), _torch),
    "gather, torch fp16": (torch.from_numpy, _torch),
    "gather, torch fp16 widened": (torch.from_numpy, _torch_widened),
}


def main() -> None:
    """Parse the options, measure, print the table, write the JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    found = machine.describe()
    rows: list[Row] = []
    for leaves in options.leaves:
        work = Path(options.work or tempfile.mkdtemp(prefix="descent-")) / f"leaves-{leaves}-{options.dim}"
        try:
            pyramid.build(work, leaves, options.dim)
            rows += measure(work, leaves, options)
        finally:
            if not options.work:
                shutil.rmtree(work.parent)
    print(
        f"{machine.sentence(found)}; {options.threads} thread(s), {options.queries} queries, {options.dim} dimensions\n"
    )
    print(table(rows))
    result = {"machine": found, "options": vars(options), "rows": [row._asdict() for row in rows]}
    Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def measure(work: Path, leaves: int, options: argparse.Namespace) -> Iterator[Row]:
    """Measure all methods on one index."""
    queries, _ = pyramid.queries(work, options.queries)
    for how, mmap in (("mmap", True), ("RAM", False)):
        index = TileIndex.open(work, mmap=mmap)
        for k in options.k:
            yield _row(leaves, k, f"Tilebeam, {how}", timed(partial(_descend, index, k=k), queries))
    traces = {k: [_descend(index, q, k) for q in queries] for k in options.k}
    halves = [np.load(work / f"v{z:02d}.npy") for z in pyramid.ZOOMS]
    for k in options.k:
        yield _row(leaves, k, "read", read_times(halves, traces[k]), _megabytes(traces[k], options.dim))
    yield from measure_gathers(leaves, index, halves, queries, options.k)
    yield _row(leaves, None, "Tilebeam's cold start", [cold_start(work, queries[0]) for _ in range(5)], "files evicted")
    yield from measure_exhaustive(leaves, halves[-1], queries, traces, options)


def measure_gathers(
    leaves: int, index: TileIndex, halves: list[NDArray[np.float16]], queries: NDArray[np.float32], ks: list[int]
) -> Iterator[Row]:
    """Measure the same descent with similarities by gather and product, one copy of the vectors at a time."""
    for name, (convert, gather) in GATHERS.items():
        levels = [GatheredLevel(v, convert(a), gather) for v, a in zip(index.levels, halves, strict=True)]
        gathered = Gathered(levels)
        for k in ks:
            yield _row(leaves, k, name, timed(partial(_descend, gathered, k=k), queries))


def measure_exhaustive(
    leaves: int,
    leaf: NDArray[np.float16],
    queries: NDArray[np.float32],
    traces: dict[int, list[Descent]],
    options: argparse.Namespace,
) -> Iterator[Row]:
    """Search all leaves with FAISS: flat fp32 and fp16, HNSW on `--hnsw-rows` leaves; recall against flat."""
    dim, few = options.dim, queries[: options.exhaustive_queries]
    flat = faiss.IndexFlatIP(dim)
    _fill(flat, leaf)
    _, truth = flat.search(few, 10)
    yield _row(leaves, None, "FAISS flat fp32, leaves only", timed(partial(_nearest, flat), few, 2))
    del flat
    halves = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    _fill(halves, leaf)
    yield _row(leaves, None, "FAISS flat fp16, leaves only", timed(partial(_nearest, halves), few, 2))
    del halves
    for k, found in traces.items():
        yield _recall_row(leaves, k, "Tilebeam's recall", [_best_leaves(d) for d in found[: len(few)]], truth)
    yield from _measure_hnsw(leaves, leaf, few, options)


def _measure_hnsw(
    leaves: int, leaf: NDArray[np.float16], queries: NDArray[np.float32], options: argparse.Namespace
) -> Iterator[Row]:
    part = leaf[: options.hnsw_rows]
    exact, graph = faiss.IndexFlatIP(options.dim), faiss.IndexHNSWFlat(options.dim, 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 80
    for index in (exact, graph):
        _fill(index, part)
    _, truth = exact.search(queries, 10)
    for ef in (64, 256):
        graph.hnsw.efSearch = ef
        _, found = graph.search(queries, 10)
        recall = _recall(list(found), truth)
        note = f"{len(part):,} of the leaves; {recall}"
        yield _row(leaves, None, f"FAISS HNSW32 ef {ef}", timed(partial(_nearest, graph), queries), note)


def timed(run: Run, queries: NDArray[np.float32], passes: int = PASSES) -> list[float]:
    """Return the milliseconds of each query: the shortest of some passes over all queries, after one warm-up pass."""
    best = [float("inf")] * len(queries)
    for number in range(passes + 1):
        for i, query in enumerate(queries):
            start = time.perf_counter()
            run(query)
            if number:
                best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
    return best


def read_times(halves: list[NDArray[np.float16]], traces: list[Descent]) -> list[float]:
    """Return the milliseconds to copy the bytes that each descent compared, whole lists of 16 rows at a time."""
    best = [float("inf")] * len(traces)
    largest = max(len(step.rows) for trace in traces for step in trace.steps)
    buffer = np.empty(
        (largest + 16) * halves[0].shape[1], dtype=np.float16
    )  # one buffer for all, so that it stays in cache
    for number in range(PASSES + 1):
        for i, trace in enumerate(traces):
            plan = list(_reads(halves, trace, buffer))
            start = time.perf_counter()
            for blocks, which, out in plan:
                np.take(blocks, which, axis=0, out=out, mode="clip")  # this mode copies without a second buffer
            if number:
                best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
    return best


def _reads(
    halves: list[NDArray[np.float16]], trace: Descent, buffer: NDArray[np.float16]
) -> Iterator[tuple[Any, Any, Any]]:
    for step, array in zip(trace.steps, halves, strict=False):
        lists = np.unique(step.rows >> 4)  # every list has 16 rows; the region's last one may be shorter
        lists = lists[(lists + 1) * 16 <= len(array)]
        blocks = array[: len(array) // 16 * 16].reshape(-1, 16 * array.shape[1])
        yield blocks, lists, buffer[: len(lists) * blocks.shape[1]].reshape(len(lists), blocks.shape[1])


def cold_start(work: Path, query: NDArray[np.float32]) -> float:
    """Return the milliseconds to open an index whose files are not in memory, and to search it once at k = 64."""
    for path in work.glob("z*"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    start = time.perf_counter()
    _descend(TileIndex.open(work), query, 64)
    return (time.perf_counter() - start) * 1e3


def table(rows: list[Row]) -> str:
    """Format as Markdown, each method's time as a multiple of Tilebeam's (mmap) at the same size and k (or at 64)."""
    tilebeam_ms = {(r.leaves, r.k): r.median_ms for r in rows if r.method == "Tilebeam, mmap"}
    lines = ["| leaves | k | method | median ms | 95% ms | times Tilebeam | |", "|---:|---:|---|---:|---:|---:|---|"]
    for r in rows:
        base = tilebeam_ms.get((r.leaves, r.k if r.k is not None else 64), float("nan"))
        ratio = f"{r.median_ms / base:.2f}" if r.median_ms == r.median_ms else ""
        times = ("", "") if r.median_ms != r.median_ms else (f"{r.median_ms:.3f}", f"{r.p95_ms:.3f}")
        lines.append(f"| {r.leaves:,} | {r.k or ''} | {r.method} | {times[0]} | {times[1]} | {ratio} | {r.note} |")
    return "\n".join(lines)


def _descend(index: Any, query: NDArray[np.float32], k: int) -> Descent:
    return descend(index, query, SearchPlan(NUMBERS, k=k))


def _nearest(index: Any, query: NDArray[np.float32]) -> Any:
    return index.search(query[None], 10)


def _row(leaves: int, k: int | None, method: str, times: list[float], note: str = "") -> Row:
    row = Row(leaves, k, method, float(np.median(times)), float(np.percentile(times, 95)), note)
    print(f"{leaves} {k} {method}: {row.median_ms:.3f} ms {note}", file=sys.stderr, flush=True)
    return row


def _recall_row(leaves: int, k: int, method: str, found: list[Any], truth: NDArray[np.int64]) -> Row:
    return Row(leaves, k, method, float("nan"), float("nan"), _recall(found, truth))


def _recall(found: list[Any], truth: NDArray[np.int64]) -> str:
    first = np.mean([t[0] in f[:1] for f, t in zip(found, truth, strict=True)])
    ten = np.mean([len(np.intersect1d(f[:10], t)) / len(t) for f, t in zip(found, truth, strict=True)])
    return f"recall@1 {first:.3f}, recall@10 {ten:.3f} of flat search"


def _best_leaves(descent: Descent) -> NDArray[np.int64]:
    step = descent.steps[-1]
    reached = step.level.zoom == pyramid.ZOOMS[-1]
    return step.rows[np.argsort(-step.similarities, kind="stable")[:10]] if reached else step.rows[:0]


def _megabytes(traces: list[Descent], dim: int) -> str:
    compared = np.mean([sum(len(s.rows) for s in t.steps) for t in traces])
    return f"{compared:,.0f} vectors, {compared * dim * 2 / 1e6:.1f} MB a query"


def _fill(index: Any, rows: NDArray[np.float16]) -> None:
    for start in range(0, len(rows), 1 << 16):
        index.add(rows[start : start + (1 << 16)].astype(np.float32))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 4_000_000])
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--exhaustive-queries", type=int, default=20)
    parser.add_argument("--hnsw-rows", type=int, default=100_000, help="HNSW is built on at most this many leaves")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", default="descent.json")
    parser.add_argument("--work", help="keep the indexes here for another run (default: a temporary directory)")
    parser.add_argument("--quick", action="store_true", help="10,000 leaves and few queries, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.leaves, options.queries, options.hnsw_rows, options.exhaustive_queries = [10_000], 32, 2_000, 10
    return options


if __name__ == "__main__":
    main()
