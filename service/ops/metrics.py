"""What the service counts, for Prometheus. One registry an app, so that two apps in a process do not mix."""

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Metrics", "MetricsMiddleware"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms; durations in seconds, as Prometheus wants them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("tilebeam_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "tilebeam_request_seconds",
            "Whole requests, from their first byte to the answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "tilebeam_stage_seconds",
            "Stages of locating one picture; a stage shared by a batch is divided by its pictures.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("tilebeam_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.queue = Gauge(
            "tilebeam_queue_images",
            "Pictures between upload and answer, by whether they came alone or in a batch.",
            ["lane"],
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "tilebeam_batch_images",
            "Pictures encoded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.overloads = Counter(
            "tilebeam_overloads", "Refusals for want of room, by the bound.", ["bound"], registry=self.registry
        )
        self.departures = Counter(
            "tilebeam_departures", "Clients that left before they were answered.", registry=self.registry
        )
        self.index = Gauge(
            "tilebeam_index_info", "1 for the index that is loaded.", ["id", "calibration_id"], registry=self.registry
        )
        self.confidence = Histogram(
            "tilebeam_confidence",
            "Confidence of the answer's tile at a zoom.",
            ["zoom"],
            buckets=[n / 10 for n in range(1, 11)],
            registry=self.registry,
        )
        self.images = Counter("tilebeam_images", "Pictures located.", registry=self.registry)
        self.rejections = Counter("tilebeam_rejections", "Errors answered.", ["problem"], registry=self.registry)

    def watch(self, single: Callable[[], float], batch: Callable[[], float]) -> None:
        """Take the queue's depth from these two whenever somebody asks."""
        self.queue.labels("single").set_function(single)
        self.queue.labels("batch").set_function(batch)

    def loaded(self, index_id: str, calibration_id: str) -> None:
        """Name the index that answers from now on."""
        self.index.clear()
        self.index.labels(index_id, calibration_id).set(1)

    def grouped(self, waited_s: list[float]) -> None:
        """Count one group that goes into the encoder, by how long each of its pictures waited."""
        self.batch_images.observe(len(waited_s))
        for seconds in waited_s:
            self.stage_seconds.labels("wait").observe(seconds)

    def located(self, answer: dict[str, Any]) -> None:
        """Count one picture that was located."""
        self.images.inc()
        for stage, value in answer["timing_ms"].items():
            self.stage_seconds.labels(stage).observe(value / 1000)
        for level in answer["levels"]:
            self.confidence.labels(str(level["zoom"])).observe(level["confidence"])

    def overloaded(self, bound: str) -> None:
        """Count one refusal for want of room: of `requests`, `batches` or `images`."""
        self.overloads.labels(bound).inc()

    def rejected(self, slug: str) -> None:
        """Count one error by the last word of its problem type."""
        self.rejections.labels(slug).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts every request by the route's template (never by its path: labels must stay few) and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it, whatever becomes of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, watch)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)
