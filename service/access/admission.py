"""Admission: which key a request carries, what the key may do, and how many images it may send.

`admit` runs before the body is read, so that a rejected request costs nothing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from service.access.addresses import client_of, is_loopback
from service.access.keys import ANONYMOUS, KeyRing
from service.errors import ForbiddenError, RateLimitedError, SettingsError, UnauthorizedError
from service.settings import Settings

OPEN_ROUTES = frozenset({"/", "/healthz", "/readyz"})
"""Routes without a key: probes, and the page, which is public. `/docs` and `/openapi.json` contain nothing that is not
in the repository and are open, too. `/metrics` needs a key, because it shows how the service is used."""

_RATE_LIMITED_ROUTES = frozenset({"/locate", "/locate/geojson", "/locate/batch"})


@dataclass(frozen=True)
class Caller:
    """A request's sender: the key's name, its rate in images a minute (0: unlimited), whether it is an admin key.

    `address`: where a request without a key comes from; empty with a key, which may be used from several machines.
    """

    key: str
    rate: int
    admin: bool
    address: str = ""

    @property
    def holder(self) -> str:
        """Who holds slots and bytes: the key, or the address of a request without one. No key's name has a space."""
        return f"{self.key} {self.address}" if self.address else self.key


class Rates:
    """Limits images per minute and key, with one token bucket per key. Used on the event loop only, so without a lock.

    A bucket holds the images of one minute and refills steadily. A request needs at least one image left. A batch may
    take more than is left; the debt must be refilled before the next request. So a batch may exceed the images of a
    minute, but over hours no key gets more than its rate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # images left, and the time of that count

    def enter(self, name: str, rate: int) -> None:
        """Take one image, or raise RateLimitedError with the seconds to wait. `rate` 0 is unlimited."""
        left = self._left(name, rate)
        if left < 1:
            wait_s = max(1, math.ceil((1 - left) * 60 / rate))
            raise RateLimitedError(f"key {name!r} has used its {rate} images a minute; try again in {wait_s} s", wait_s)
        self._store(name, rate, left - 1)

    def charge(self, name: str, rate: int, images: int) -> None:
        """Take more images; the count may become negative."""
        self._store(name, rate, self._left(name, rate) - images)

    def forget_others(self, names: set[str]) -> None:
        """Drop the buckets of all keys but these."""
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in names}

    def _left(self, name: str, rate: int) -> float:
        if not rate:
            return math.inf
        now = self._clock()
        left, then = self._buckets.get(name, (float(rate), now))
        return min(float(rate), left + (now - then) * rate / 60)

    def _store(self, name: str, rate: int, left: float) -> None:
        if rate:
            self._buckets[name] = left, self._clock()


class Admission:
    """The valid keys and their use. `reload` reads the key file again; if it is invalid, the old keys stay valid."""

    def __init__(self, settings: Settings) -> None:
        self._file = Path(settings.keys_file) if settings.keys_file else None
        self._required = self._file is not None and not settings.allow_anonymous
        self._anonymous_rate = settings.anonymous_rate
        self._ring = KeyRing.read(self._file) if self._file else KeyRing()
        self._rates = Rates()

    def reload(self) -> None:
        """Read the key file again, if there is one. Raises KeyFileError and changes nothing if it is invalid."""
        if self._file:
            self._ring = KeyRing.read(self._file)
            self._rates.forget_others({key.name for key in self._ring.keys} | {ANONYMOUS})

    def caller(self, authorization: str, api_key: str, address: str = "") -> Caller:
        """The sender, by the values of two headers (empty if missing) and its address; raises UnauthorizedError."""
        scheme, _, presented = authorization.strip().partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else api_key.strip()
        if not presented and self._required:
            raise UnauthorizedError("this service needs a key; send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        if not presented:  # schemes other than Bearer are for a proxy in front of the service
            return Caller(ANONYMOUS, self._anonymous_rate, admin=False, address=client_of(address))
        key = self._ring.find(presented)
        if key is None:
            raise UnauthorizedError("this key is unknown or was removed; ask the service's operator for a new one")
        return Caller(key.name, key.rate, key.admin)

    def enter(self, caller: Caller) -> None:
        """Count one image; raises RateLimitedError."""
        self._rates.enter(caller.key, caller.rate)

    def charge(self, caller: Caller, images: int) -> None:
        """Count further images of the same request."""
        self._rates.charge(caller.key, caller.rate, images)


async def admit(request: Request) -> None:
    """Set `request.state.caller`, or raise UnauthorizedError or RateLimitedError. A dependency of all routes."""
    route = getattr(request.scope.get("route"), "path", "")
    if route in OPEN_ROUTES:
        return
    admission: Admission = request.app.state.service.admission
    address = request.client.host if request.client else ""
    caller = admission.caller(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""), address)
    request.state.caller = caller
    if route in _RATE_LIMITED_ROUTES:
        admission.enter(caller)


def check_admin(caller: Caller) -> None:
    """Raise ForbiddenError unless the caller has an admin key."""
    if not caller.admin:
        raise ForbiddenError(
            f"key {caller.key!r} is not an admin key; use a key made with `tilebeam key new --admin`, or send SIGHUP"
        )


def check_exposure(address: str, settings: Settings) -> None:
    """Raise SettingsError if the service would be open to a network without an explicit setting.

    `address`: the numeric address that the service listens on.
    """
    if settings.keys_file or settings.allow_anonymous or is_loopback(address):
        return
    raise SettingsError(
        f"{address} can be reached from other machines and no key is required: make a key with `tilebeam key new "
        "--file keys.json --name NAME` and set TILEBEAM_KEYS_FILE=keys.json, listen on 127.0.0.1, or allow requests "
        "without a key with TILEBEAM_ALLOW_ANONYMOUS=1"
    )
