"""Prometheus metrics. Each app has its own registry, so that two apps in one process do not mix."""

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms; durations in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("tilebeam_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "tilebeam_request_seconds",
            "Duration of requests, from the first byte to the last byte of the answer.",
            ["route"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "tilebeam_stage_seconds",
            "Stages of locating one picture; work shared by a group is divided by its pictures.",
            ["stage"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("tilebeam_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.queue = Gauge(
            "tilebeam_queue_images",
            "Pictures between upload and answer: single ones, and those of batches.",
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
            "tilebeam_overloads",
            "Requests rejected because no slot was free, by limit.",
            ["bound"],
            registry=self.registry,
        )
        self.departures = Counter(
            "tilebeam_departures", "Clients that disconnected before they were answered.", registry=self.registry
        )
        self.connections = Gauge("tilebeam_connections", "Open connections.", registry=self.registry)
        self.refused_connections = Counter(
            "tilebeam_refused_connections",
            "Connections that were closed before or between requests, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.index = Gauge(
            "tilebeam_index_info", "1 for the loaded index.", ["id", "calibration_id"], registry=self.registry
        )
        self.confidence = Histogram(
            "tilebeam_confidence",
            "Confidence of the answer's tile, by zoom.",
            ["zoom"],
            buckets=[n / 10 for n in range(1, 11)],
            registry=self.registry,
        )
        self.images = Counter("tilebeam_images", "Pictures located.", registry=self.registry)
        self.registering = Gauge(
            "tilebeam_registering_images",
            "Pictures of /locate that are registered or wait for it.",
            registry=self.registry,
        )
        self.registrations = Counter(
            "tilebeam_registrations",
            "Pictures that were to be registered, by result: accepted, rejected, or skipped.",
            ["result"],
            registry=self.registry,
        )
        self.rejections = Counter(
            "tilebeam_rejections", "Problem documents sent, by type.", ["problem"], registry=self.registry
        )

    def read_queue_from(self, single: Callable[[], float], batch: Callable[[], float]) -> None:
        """Read the number of queued pictures from these functions at each scrape."""
        self.queue.labels("single").set_function(single)
        self.queue.labels("batch").set_function(batch)

    def read_registering_from(self, count: Callable[[], float]) -> None:
        """Read the number of pictures that are registered or wait for it from this function at each scrape."""
        self.registering.set_function(count)

    def read_connections_from(self, count: Callable[[], float]) -> None:
        """Read the number of open connections from this function at each scrape."""
        self.connections.set_function(count)

    def count_refused_connection(self, reason: str) -> None:
        """Count a closed connection: `too-many`, `too-large`, `slow`, `not-http`, or `stalled` in its answer."""
        self.refused_connections.labels(reason).inc()

    def set_index(self, index_id: str, calibration_id: str) -> None:
        """Export the ids of the loaded index."""
        self.index.clear()
        self.index.labels(index_id, calibration_id).set(1)

    def count_group(self, waited_s: list[float]) -> None:
        """Count one group that enters the encoder; `waited_s`: how long each of its pictures waited."""
        self.batch_images.observe(len(waited_s))
        for seconds in waited_s:
            self.stage_seconds.labels("wait").observe(seconds)

    def count_answer(self, answer: dict[str, Any]) -> None:
        """Count one located picture."""
        self.images.inc()
        for stage, value in answer["timing_ms"].items():
            self.stage_seconds.labels(stage).observe(value / 1000)
        for level in answer["levels"]:
            self.confidence.labels(str(level["zoom"])).observe(level["confidence"])

    def count_registration(self, result: str) -> None:
        """Count one picture that was to be registered: `accepted`, `rejected` (nothing fits), or `skipped`."""
        self.registrations.labels(result).inc()

    def count_overload(self, limit: str) -> None:
        """Count one rejection because a limit was reached, by the limit's name in docs/http-api.md."""
        self.overloads.labels(limit).inc()

    def count_problem(self, slug: str) -> None:
        """Count one error by the last word of its problem type."""
        self.rejections.labels(slug).inc()

    def exposition(self) -> bytes:
        """The text for Prometheus."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts requests by status and the route's template. The path would make too many labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request and count it, also if it fails."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def send_tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, send_tracked)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)
