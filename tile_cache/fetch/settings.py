"""The settings of a fetch and its report: `FetchSettings` and `FetchReport`. Plain data; opens no socket."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError
from tile_cache.repeats import Repeated

__all__ = ["ABSENT_STATUSES", "CONTACT_VARIABLE", "FailedTile", "FetchReport", "FetchSettings"]

CONTACT_VARIABLE = "TILEBEAM_CONTACT"

ABSENT_STATUSES = frozenset((204, 404, 410))
"""HTTP statuses that mean everywhere that there is no such tile."""

_NEVER_ABSENT = frozenset((401, 407, 408, 425, 429, 503))
_EXAMPLES = 20


_MAX_CONCURRENCY = 1024
"""Connections, each with an open file; beyond that a process runs out of them, and a server's owner of patience."""


@dataclass(frozen=True)
class FetchSettings:
    """The settings of a fetch. All hosts of a source (its subdomains) share one rate."""

    contact: str = ""
    """An e-mail address or page for the server's operator, sent in the User-Agent. Needed except for local servers."""
    concurrency: int = 6
    """Requests at the same time, at most 1,024."""
    rate_per_s: float = 20.0
    """Maximum number of requests started per second, evenly spaced; `inf` for no limit."""
    attempts: int = 5
    """Requests for one tile until it is given up."""
    connect_timeout_s: float = 10.0
    """Seconds within which a connection must be made."""
    deadline_s: float = 30.0
    """Seconds for one request from its start to the last byte, redirects included; slow bodies are cut off."""
    backoff_s: float = 0.5
    """Longest wait before the second attempt, in seconds. It doubles with each attempt; the wait is random up to it."""
    max_backoff_s: float = 30.0
    """Largest value of the doubling wait, in seconds."""
    max_wait_s: float = 300.0
    """Longest Retry-After that is obeyed, in seconds; a longer one ends the fetch."""
    give_up_after: int = 20
    """Consecutive tiles that failed because of the host, each after all its attempts, until the fetch ends."""
    give_up_after_bad: int = 1000
    """Consecutive responses that were not images (but HTML, for example) until the fetch ends."""
    max_tile_bytes: int = 8 << 20
    """Largest body in bytes; a tile with a larger one counts as failed."""
    max_redirects: int = 5
    """Maximum redirects of one request. None is followed from https to http, or to a host that forbids bulk use."""
    absent_statuses: frozenset[int] = ABSENT_STATUSES
    """HTTP statuses that mean that there is no such tile, which is remembered. S3 without list rights uses 403."""
    absent_images: frozenset[str] = frozenset()
    """Pictures that mean that there is no data: each a file, or the SHA-256 of its bytes. They are not imagery."""
    verify: bool = True
    """Decode every image before it is stored; takes about a millisecond per tile, in a thread."""
    refresh: bool = False
    """Request known tiles again: those that have expired, with If-None-Match and If-Modified-Since, and absent ones."""
    default_age_s: int = 30 * 86400
    """Seconds until a response without an expiry time expires."""
    batch_tiles: int = 256
    """Maximum number of responses written in one transaction."""
    flush_s: float = 0.5
    """Longest time in seconds until a response is written; a killed process loses the responses of this time."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "rate_per_s", "attempts", "connect_timeout_s", "deadline_s", "max_tile_bytes"):
            self._check_minimum(name, exclusive=True)
        if self.concurrency > _MAX_CONCURRENCY:
            raise SourceError(f"fetch setting concurrency={self.concurrency} must be at most {_MAX_CONCURRENCY:,}")
        for name in ("give_up_after", "give_up_after_bad", "batch_tiles", "flush_s"):
            self._check_minimum(name, exclusive=True)
        for name in ("backoff_s", "max_backoff_s", "max_wait_s", "max_redirects", "default_age_s"):
            self._check_minimum(name, exclusive=False)
        for status in self.absent_statuses - ABSENT_STATUSES:
            if not 400 <= status <= 599 or status in _NEVER_ABSENT:
                raise SourceError(
                    f"status {status} cannot mean that there is no such tile: give one from 400 to 599, but not"
                    f" {', '.join(map(str, sorted(_NEVER_ABSENT)))}"
                )
        if not self.contact.isascii() or not self.contact.isprintable() or set(self.contact) & set("()"):
            raise SourceError(
                f"contact {self.contact!r} must be printable ASCII without brackets: give an e-mail or a URL"
            )

    def _check_minimum(self, name: str, *, exclusive: bool) -> None:
        value = getattr(self, name)
        if not (value > 0 or (value == 0 and not exclusive)):
            raise SourceError(f"fetch setting {name}={value} must be {'over' if exclusive else 'at least'} 0")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> "FetchSettings":
        """Settings with the contact of TILEBEAM_CONTACT. Overrides that are None keep the default."""
        values = {name: value for name, value in overrides.items() if value is not None}
        return cls(**({"contact": environ.get(CONTACT_VARIABLE, "").strip()} | values))


class FailedTile(NamedTuple):
    """A tile that was given up, and the reason."""

    tile: Tile
    reason: str


@dataclass
class FetchReport:
    """Counts of one fetch, updated while it runs. `kept` and `not_modified` count written responses."""

    planned: int = 0
    """Tiles of the plan read so far."""
    known: int = 0
    """Planned tiles that needed no request: stored or known to be absent, and not expired."""
    stored: int = 0
    """Planned tiles whose image the store had before."""
    kept: int = 0
    absent: int = 0
    """Tiles that the server does not have."""
    not_modified: int = 0
    placeholders: int = 0
    """Kept tiles that show one of the settings' `absent_images`."""
    bytes: int = 0
    """Bytes of the stored images; equal images count each time."""
    retries: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of tiles given up, by reason."""
    examples: list[FailedTile] = field(default_factory=list)
    """The first 20 tiles given up."""
    absent_statuses: Counter[int] = field(default_factory=Counter)
    """Number of absent tiles by HTTP status."""
    absent_example: Tile | None = None
    """The first absent tile."""
    repeated: tuple[Repeated, ...] = ()
    """Pictures, not of one colour, that stand at many of the tiles kept in this run."""

    @property
    def found(self) -> bool:
        """Whether there is an image of any planned tile."""
        return self.stored + self.kept - self.placeholders + self.not_modified > 0

    @property
    def failed(self) -> int:
        """Tiles given up in this run; the next run requests them again."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Tiles that are finished, with whatever outcome."""
        return self.known + self.kept + self.absent + self.not_modified + self.failed

    def miss(self, tile: Tile, status: int) -> None:
        """Count an absent tile."""
        self.absent += 1
        self.absent_statuses[status] += 1
        self.absent_example = self.absent_example or tile

    def fail(self, tile: Tile, reason: str) -> None:
        """Count a tile that was given up."""
        self.reasons[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(FailedTile(tile, reason))
