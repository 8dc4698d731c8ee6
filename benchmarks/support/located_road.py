"""The whole road of one picture file: retrieval as it lies and turned, registration stage by stage, and their figures.

Every stage is run, whatever the one before found, so that what was measured serves any acceptance: see
`benchmarks.support.located_tables.judged`.
"""

import base64
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.located_records import figures_of
from benchmarks.support.located_sets import SETS, Drawn, Emptied, earth_of
from retrieval.attempt import TURNS, shrunk, turned_square
from retrieval.encoders.preprocess import Preprocess
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo, read_photo
from retrieval.pipeline import prepared, views_for
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.registration import Candidate, Effort, Registration, Search
from retrieval.registration.search import distance_km
from retrieval.search.query import LocateQuery

__all__ = ["Road"]

ALTERNATIVES, PER_TURN = 20, 3
REACH_KM = 200.0
"""The place counts as among the candidates within this distance or half a footprint of one."""
_SQUARE = View(512, Preprocess(512, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
_LEAST_CONFIDENCE = 1e-6


@dataclass(frozen=True)
class Road:
    """An open index, and how much a registration may do. `everywhere`: all land is the last stage."""

    locator: Locator
    effort: Effort | None = None
    everywhere: bool = False

    def record(self, picture: Drawn, cache: CanvasCache) -> dict[str, Any]:
        """Everything that tables and fits need of one picture, as a JSON object."""
        watch, plan = Stopwatch(), self.locator.plan(LocateQuery(alternatives=ALTERNATIVES))
        photo = read_photo(picture.data, PhotoLimits(), (*views_for(self.locator, plan), _SQUARE))
        watch.start()
        pixels = prepared(self.locator, plan, photo, time.perf_counter()).pixels
        embedding = self.locator.encoder.encode(pixels[None])
        [answer] = [each.to_json() for each in self.locator.answers(embedding, plan)]
        near = [_candidate(place, 0.0) for place in (answer, *answer["alternatives"])]
        times = {"cpu_ms": watch.ms()}
        headings, answers = self._turned(photo.images[-1])
        turned = [
            _candidate(place, heading)
            for heading, each in zip(headings, answers, strict=True)
            for place in (each, *each["alternatives"])
        ]
        times["turned_cpu_ms"] = watch.ms()
        truth = {key: getattr(picture, key) for key in ("lng", "lat", "edge_km", "heading", "tilt")}
        return {
            "set": picture.set,
            "style": picture.style,
            "seed": picture.seed,
            "number": picture.number,
            "has_place": picture.has_place,
            "truth": truth,
            "embedding": base64.b64encode(embedding[0].tobytes()).decode(),
            "retrieval": figures_of(answer, truth if picture.has_place else None) | times,
            "turns": [_confidences(each) for each in (answer, *answers)],
            "recall": {"upright": _is_among(near, picture), "turned": _is_among([*near, *turned], picture)},
            "stages": self._stages(picture, photo, cache, near, turned),
        }

    def _turned(self, square: Image.Image) -> tuple[list[float], list[dict[str, Any]]]:
        """The other turns' headings, and the answers for the picture in each, embedded in one batch."""
        plan, encoder = self.locator.plan(LocateQuery(alternatives=PER_TURN - 1)), self.locator.encoder
        small = shrunk(np.asarray(square), encoder.min_edge or square.width)
        pixels = np.stack([encoder.prepare(turned_square(small, heading)) for heading in TURNS])
        return list(TURNS), [each.to_json() for each in self.locator.answers(encoder.encode(pixels), plan)]

    def _stages(
        self, picture: Drawn, photo: Photo, cache: CanvasCache, near: list[Candidate], turned: list[Candidate]
    ) -> list[dict[str, Any]]:
        if SETS[picture.set].removed:
            cache = Emptied(cache, picture.lng, picture.lat, 0.75 * picture.edge_km)
        watch, stages = Stopwatch(), list[dict[str, Any]]()
        watch.start()
        search = Search(np.asarray(photo.images[-1]), cache, effort=self.effort)

        def add(name: str) -> None:
            result = search.result()
            stages.append({"name": name, "cpu_ms": watch.ms(), "jobs": search.job_count, "fit": _fit(result, picture)})

        search.near(near)
        add("upright")
        search.near(turned)
        add("turned")
        if self.everywhere:
            search.anywhere(earth_of(picture.set, picture.style).has_ground)
            add("everywhere")
        return stages


class Stopwatch:
    """Processor time of this process."""

    def start(self) -> None:
        """Begin to count."""
        self._started = time.process_time()

    def ms(self) -> float:
        """Milliseconds since the last call or the start."""
        now = time.process_time()
        spent, self._started = (now - self._started) * 1000, now
        return round(spent, 2)


def _candidate(place: dict[str, Any], heading: float | None = None) -> Candidate:
    belief = math.log(max(place["confidence"], _LEAST_CONFIDENCE))
    return Candidate(place["lon"], place["lat"], belief, REACH_KM, heading)


def _confidences(answer: dict[str, Any]) -> list[float]:
    """Elsewhere, and the confidence at each zoom."""
    return [answer["elsewhere"], *(level["confidence"] for level in answer["levels"])]


def _fit(result: Registration, picture: Drawn) -> dict[str, Any] | None:
    """The best fit: what the acceptance looks at, and how far it is from the truth."""
    if result.frame is None or result.features is None:
        return None
    frame = result.frame
    return {
        **asdict(result.features),
        "lng": frame.lng,
        "lat": frame.lat,
        "edge_km": frame.edge_km,
        "heading": frame.heading,
        "method": result.method,
        "residual_km": result.residual_km,
        "km": distance_km(frame, picture),
    }


def _is_among(candidates: list[Candidate], picture: Drawn) -> bool:
    reach = max(REACH_KM, picture.edge_km / 2)
    return any(distance_km(candidate, picture) < reach for candidate in candidates)
