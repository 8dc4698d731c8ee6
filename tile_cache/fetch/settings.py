"""How politely to fetch, and what came of it: `FetchSettings` in, `FetchReport` out. Plain data; no sockets."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError

__all__ = ["CONTACT_VARIABLE", "FailedTile", "FetchReport", "FetchSettings"]

CONTACT_VARIABLE = "TILEBEAM_CONTACT"
_EXAMPLES = 20


@dataclass(frozen=True)
class FetchSettings:
    """Everything that a fetch can be told. All hosts of one source (its subdomains) share one limit."""

    contact: str = ""
    """An address or page that the server's operator can write to; goes into the User-Agent. Needed beyond loopback."""
    concurrency: int = 6
    """Requests under way at once."""
    rate_per_s: float = 20.0
    """Requests started per second at most, evenly spaced; `inf` for no limit."""
    attempts: int = 5
    """Requests made for one tile before it is given up."""
    connect_timeout_s: float = 10.0
    """Seconds until a connection must stand."""
    deadline_s: float = 30.0
    """Seconds for one request from its start to its last byte, redirects included; ends slow bodies."""
    backoff_s: float = 0.5
    """Longest wait before the second attempt; doubles with each further one. The wait is drawn from 0 up to it."""
    max_backoff_s: float = 30.0
    """Seconds at which the doubling ends."""
    max_wait_s: float = 300.0
    """Longest Retry-After that is waited for, in seconds; a server that asks for more ends the fetch."""
    give_up_after: int = 20
    """Tiles in a row that failed for the host's sake, each after all its attempts, until the fetch ends."""
    give_up_after_bad: int = 1000
    """Tiles in a row that were no images (HTML, say) until the fetch ends."""
    max_tile_bytes: int = 8 << 20
    """Bytes at which a body is cut off and the tile counted as bad."""
    max_redirects: int = 5
    """Redirects followed for one request; never from https to http, nor to a host that must not be fetched from."""
    absent_statuses: frozenset[int] = frozenset((204, 404, 410))
    """HTTP statuses that mean: no such tile; remembered. Some S3 buckets say 403 for it."""
    verify: bool = True
    """Decode every image before it is kept; about a millisecond a tile, in a thread."""
    refresh: bool = False
    """Ask again, with ETag and If-Modified-Since, for known tiles that are past their time."""
    default_age_s: int = 30 * 86400
    """Seconds that an answer without a time of its own counts as fresh."""
    batch_tiles: int = 256
    """Answers written in one transaction at most."""
    flush_s: float = 0.5
    """Seconds until an answer is written at the latest: what a kill can lose."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "rate_per_s", "attempts", "connect_timeout_s", "deadline_s", "max_tile_bytes"):
            self._at_least(name, 0, open_end=True)
        for name in ("give_up_after", "give_up_after_bad", "batch_tiles", "flush_s"):
            self._at_least(name, 0, open_end=True)
        for name in ("backoff_s", "max_backoff_s", "max_wait_s", "max_redirects", "default_age_s"):
            self._at_least(name, 0)
        if not self.contact.isascii() or not self.contact.isprintable() or set(self.contact) & set("()"):
            raise SourceError(f"contact {self.contact!r} must be printable ASCII without brackets: an e-mail or a URL")

    def _at_least(self, name: str, least: float, *, open_end: bool = False) -> None:
        value = getattr(self, name)
        if not (value > least or (value == least and not open_end)):
            raise SourceError(f"fetch setting {name}={value} must be {'over' if open_end else 'at least'} {least}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> "FetchSettings":
        """Settings with the contact of TILEBEAM_CONTACT; overrides that are None leave the default."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return cls(**({"contact": environ.get(CONTACT_VARIABLE, "").strip()} | given))


class FailedTile(NamedTuple):
    """A tile that was given up, and why."""

    tile: Tile
    reason: str


@dataclass
class FetchReport:
    """Counts of one fetch, growing while it runs; `kept`, `absent` and `not_modified` count what is on disk."""

    planned: int = 0
    """Tiles asked for so far."""
    known: int = 0
    """Of these, tiles that needed no request: kept or known to be absent, and fresh."""
    kept: int = 0
    absent: int = 0
    not_modified: int = 0
    bytes: int = 0
    """Bytes of the images kept, before equal ones are stored once."""
    retries: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Tiles given up, by reason."""
    examples: list[FailedTile] = field(default_factory=list)
    """The first 20 tiles given up."""

    @property
    def failed(self) -> int:
        """Tiles given up in this run; the next run asks for them again."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Tiles settled so far, one way or another."""
        return self.known + self.kept + self.absent + self.not_modified + self.failed

    def fail(self, tile: Tile, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(FailedTile(tile, reason))
