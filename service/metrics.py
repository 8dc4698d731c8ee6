"""What the service counts, for Prometheus. One registry an app, so that two apps in a process do not mix."""

import time

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
        self.images = Counter("tilebeam_images", "Pictures located.", registry=self.registry)
        self.rejections = Counter("tilebeam_rejections", "Errors answered.", ["problem"], registry=self.registry)

    def located(self, timing_ms: dict[str, float]) -> None:
        """Count one picture that was located."""
        self.images.inc()
        for stage, value in timing_ms.items():
            self.stage_seconds.labels(stage).observe(value / 1000)

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
