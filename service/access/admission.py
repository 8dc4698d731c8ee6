"""Who asks: an API key, or nobody in particular where that is allowed. A dependency of every route but the open ones.

It runs before a byte of a picture is read, so that whoever may not ask costs nothing.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from service.access.keys import ANONYMOUS, KeyRing
from service.access.rates import Rates
from service.errors import ForbiddenError, SettingsError, UnauthorizedError
from service.settings import Settings

__all__ = ["OPEN_ROUTES", "Admission", "Caller", "admit", "check_admin", "check_exposure"]

OPEN_ROUTES = frozenset({"/", "/healthz", "/readyz"})
"""Routes that ask for no key: probes, and a page that is the same for everyone. `/docs` and `/openapi.json`, which say
no more than the repository does, are the framework's own and open too. `/metrics` is not: it tells what
the service is used for."""

_COUNTED = frozenset({"/locate", "/locate/batch"})


@dataclass(frozen=True)
class Caller:
    """Who asks: the key's name, its rate in images a minute (0: no limit), and whether it may change the service."""

    key: str
    rate: int
    admin: bool


class Admission:
    """The keys in force and what each has sent. `reload` reads the file again, and keeps the old keys if it is bad."""

    def __init__(self, settings: Settings) -> None:
        self._file = Path(settings.keys_file) if settings.keys_file else None
        self._required = self._file is not None and not settings.allow_anonymous
        self._nobody = Caller(ANONYMOUS, settings.anonymous_rate, admin=False)
        self._ring = KeyRing.read(self._file) if self._file else KeyRing()
        self._rates = Rates()

    def reload(self) -> None:
        """Read the key file again, if there is one; raises KeyFileError, and then nothing has changed."""
        if self._file:
            self._ring = KeyRing.read(self._file)
            self._rates.keep({key.name for key in self._ring.keys} | {ANONYMOUS})

    def caller(self, authorization: str, api_key: str) -> Caller:
        """Who these two headers' values (empty where there are none) stand for; raises UnauthorizedError."""
        scheme, _, presented = authorization.strip().partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else api_key.strip()
        if not presented and self._required:
            raise UnauthorizedError("this service needs a key; send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        if not presented:  # another scheme than Bearer is for whoever stands in front of the service
            return self._nobody
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
    """Leave who asks in `request.state.caller`, or raise UnauthorizedError or RateLimitedError."""
    route = getattr(request.scope.get("route"), "path", "")
    if route in OPEN_ROUTES:
        return
    admission: Admission = request.app.state.service.admission
    caller = admission.caller(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))
    request.state.caller = caller
    if route in _COUNTED:
        admission.enter(caller)


def check_admin(caller: Caller) -> None:
    """Raise ForbiddenError unless the caller's key is an admin's."""
    if not caller.admin:
        raise ForbiddenError(
            f"key {caller.key!r} is not an admin key; use a key made with `tilebeam key new --admin`, or send SIGHUP"
        )


def check_exposure(address: str, settings: Settings) -> None:
    """Raise SettingsError if everybody on a network would be let in without anyone having said so.

    `address`: the numeric address that is listened on.
    """
    if settings.keys_file or settings.allow_anonymous or _is_loopback(address):
        return
    raise SettingsError(
        f"{address} can be reached from other machines and nobody needs a key: make one with `tilebeam key new --file "
        "keys.json --name NAME` and set TILEBEAM_KEYS_FILE=keys.json, listen on 127.0.0.1, or let everybody in with "
        "TILEBEAM_ALLOW_ANONYMOUS=1"
    )


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
