"""What a registration costs in processor time: near candidates and on all land, warm and cold, beside the first method.

The peer is `registration_exhaustive`, the method as it was first, on the same pictures and warm canvases in the same
run. `Watch` says whether the ratios mean something.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.support.registration_exhaustive import EXHAUSTIVE, EXHAUSTIVE_WORLD, registered
from benchmarks.support.registration_sets import KINDS, Case, cases, reference_of
from benchmarks.support.validity import Watch, figure, report
from indexer.evaluation.tables import markdown_table
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.jobs import jobs_anywhere, jobs_near
from retrieval.registration.reference import BuiltinEarth
from retrieval.registration.registration import Hints, Search
from retrieval.registration.result import Registration
from retrieval.registration.search import distance_km

__all__ = ["costs"]

NEAR, WORLD = "near candidates", "all land"
PEERS = {NEAR: (NEAR, "first method"), WORLD: (WORLD, "first method")}
CACHE_BYTES = 4_000_000_000
"""Both methods' canvases stay warm; what the present one needs of it is measured apart."""
OFF_TURN = 15.0
"""Degrees between a picture's heading and the one that its candidates have, where the turn is known."""


@dataclass(frozen=True)
class Visit:
    """One registration: its processor time, and how far its answer is from the truth."""

    cpu_s: float
    km: float


def costs(style: str, kind: str, count: int, seed: int, places: int) -> str:
    """A table of processor times over pictures of a style and kind, as markdown."""
    earth, hints = reference_of(style), Hints(edges_km=KINDS[kind].searched_km)
    earth.load()
    cache = CanvasCache(earth, CACHE_BYTES)
    visits: dict[tuple[str, str], list[Visit]] = {}
    with Watch() as watch:
        for case in cases(style, kind, count, seed, places):
            for key, call in _forms(case, cache, earth, hints).items():
                visits.setdefault(key, []).append(_visit(call, case))
            print(f"{style} {kind}: {len(visits[NEAR, 'first method'])} of {count}", file=sys.stderr, flush=True)
    head = ["searched", "how", "n", "CPU ms, median", "90%", "of the first method", "< 25 km"]
    rows, void = list[list[str]](), dict[str, list[str]]()
    for (where, how), group in visits.items():
        ratios = [a.cpu_s / b.cpu_s for a, b in zip(group, visits[PEERS[where]], strict=True)]
        faults = watch.faults(ratios)
        void[f"{where}, {how}"] = faults
        spent = np.array([visit.cpu_s for visit in group]) * 1000
        within = np.mean([visit.km < 25 for visit in group])
        middle, high = f"{np.median(spent):,.0f}", f"{np.quantile(spent, 0.9):,.0f}"
        ratio = figure(f"{np.median(ratios):.2f}", faults)
        rows.append([where, how, str(len(group)), middle, high, ratio, f"{within:.2f}"])
    report(void)
    small = CanvasCache(earth)
    Search(case.pixels, small, hints).anywhere(earth.has_ground)
    memory = f"All land takes {small.nbytes / 1e6:.0f} MB of canvases after one picture, {cache_of(small)}."
    return f"{markdown_table(head, rows)}\n\n{memory}"


def cache_of(cache: CanvasCache) -> str:
    """What a cache holds, in words."""
    return f"{len(cache):,} entries, of {cache.max_bytes / 1e6:.0f} MB that it may have"


def _forms(
    case: Case, warm: CanvasCache, earth: BuiltinEarth, hints: Hints
) -> dict[tuple[str, str], Callable[[], Registration]]:
    """What is measured, in an order in which the first visit of a kind warms the canvases of the next."""
    known = [replace(candidate, heading=case.heading + OFF_TURN) for candidate in case.candidates]

    def near(cache: CanvasCache, turn_is_known: bool = False) -> Registration:
        return Search(case.pixels, cache, hints).near(known if turn_is_known else case.candidates).result()

    def world(cache: CanvasCache) -> Registration:
        return Search(case.pixels, cache, hints).anywhere(earth.has_ground).result()

    near_jobs = jobs_near(case.candidates, hints, EXHAUSTIVE, 1.0)
    world_jobs = jobs_anywhere(earth.has_ground, hints, EXHAUSTIVE_WORLD, 1.0)
    for jobs, effort in ((near_jobs, EXHAUSTIVE), (world_jobs, EXHAUSTIVE_WORLD)):
        for cell, _ in jobs:
            warm.canvas(cell, effort.px)
    for call in (lambda: near(warm), lambda: near(warm, turn_is_known=True), lambda: world(warm)):
        call()
    return {
        (NEAR, "first method"): lambda: registered(case.pixels, near_jobs, warm),
        (NEAR, "turn known, warm"): lambda: near(warm, turn_is_known=True),
        (NEAR, "turn known, cold"): lambda: near(CanvasCache(earth), turn_is_known=True),
        (NEAR, "all turns, warm"): lambda: near(warm),
        (NEAR, "all turns, cold"): lambda: near(CanvasCache(earth)),
        (WORLD, "first method"): lambda: registered(case.pixels, world_jobs, warm, EXHAUSTIVE_WORLD),
        (WORLD, "all turns, warm"): lambda: world(warm),
        (WORLD, "all turns, cold"): lambda: world(CanvasCache(earth)),
    }


def _visit(call: Callable[[], Registration], case: Case) -> Visit:
    gc.collect()
    started = time.process_time()
    result = call()
    spent = time.process_time() - started
    return Visit(spent, float("inf") if result.frame is None else distance_km(result.frame, case))
