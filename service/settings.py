"""The service's settings: one frozen object, and the only place where the environment is read.

Each field has a default, a unit and a description; `docs/http-api.md` lists them and a test compares the two.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from retrieval.pictures.formats import accepted_formats
from retrieval.pictures.limits import DECODE_TIMEOUT_S, MAX_MEMORY
from retrieval.registrar import CANVAS_BYTES
from retrieval.search.options import Scoring
from service.errors import SettingsError

PREFIX = "TILEBEAM_"

_Flag = Annotated[bool, BeforeValidator(lambda value: False if value == "" else value)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Seconds = _Number
_Bytes = Annotated[int, BeforeValidator(lambda value: _bytes_of(value))]
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_Share = Annotated[float, Field(gt=0, le=1)]


def _setting(default: Any, unit: str, description: str, minimum: float | None = 0) -> Any:
    """A field; `minimum` is None for fields that are not numbers."""
    return Field(default, description=description, json_schema_extra={"unit": unit}, ge=minimum)


class Settings(BaseModel):
    """All settings of an operator. Raises SettingsError for an invalid value."""

    # A plain model and not pydantic-settings' BaseSettings: that reads the environment whenever one is constructed.
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_image_bytes: int = _setting(20_000_000, "bytes", "Largest picture that is accepted, as a file.", 1)
    max_image_pixels: int = _setting(100_000_000, "pixels", "Largest picture that is decoded, width times height.", 1)
    formats: str = _setting(
        "all", "names", "Accepted formats: names with commas, such as `JPEG,PNG`, or `all` that can be decoded.", None
    )
    decode_memory: _Bytes = _setting(
        MAX_MEMORY, "bytes", "Memory that decoding one picture may take, also written like `512MB`.", 32_000_000
    )
    decode_timeout_s: _Seconds = _setting(
        DECODE_TIMEOUT_S, "seconds", "How long the decoding of one large or risky picture may take.", 0.001
    )
    max_batch_bytes: int = _setting(2_000_000_000, "bytes", "Largest batch request; it is stored in `spool_dir`.", 1)
    max_batch_images: int = _setting(1000, "images", "Most pictures in one batch request.", 1)
    caller_share: _Share = _setting(
        0.5,
        "share",
        "Largest share of each limit below that one caller (a key, or an address without one) may hold.",
        None,
    )
    max_batches: int = _setting(4, "requests", "Batch requests at a time.", 1)
    max_spool_bytes: int = _setting(
        4_000_000_000, "bytes", "Batches in `spool_dir` at a time, which needs this much space.", 1
    )
    max_uploads: int = _setting(256, "requests", "Pictures being sent to `/locate` at a time.", 1)
    max_upload_bytes: int = _setting(
        256_000_000, "bytes", "Pictures of `/locate` in memory at a time, until they are decoded.", 1
    )
    max_in_flight: int = _setting(
        128, "requests", "Requests to `/locate` whose picture has arrived and is decoded or queued.", 1
    )
    max_queued_images: int = _setting(
        128, "images", "Pictures being decoded or queued, at most half of them from batches.", 1
    )
    retry_after_s: int = _setting(
        1, "seconds", "Smallest `Retry-After` of a 503; the measured load may raise it to at most 60.", 1
    )
    client_timeout_s: _Seconds = _setting(
        30.0, "seconds", "How long a client may pause while it sends an upload or reads an answer.", 0.001
    )
    min_upload_rate: _Number = _setting(
        1000.0, "bytes/s", "Least pace of an upload, on average over `client_timeout_s`; 0 is any."
    )
    header_timeout_s: _Seconds = _setting(
        20.0, "seconds", "How long a request's address and headers may take to arrive, from connecting on.", 0.001
    )
    max_connections: int = _setting(
        512, "connections", "Open connections; beyond it the longest idle one is closed, or the new one gets a 503.", 1
    )
    max_connections_per_address: int = _setting(256, "connections", "The same for one client address.", 1)
    shutdown_timeout_s: int = _setting(30, "seconds", "How long running requests may take to finish after SIGTERM.", 1)
    threads: int = _setting(
        0, "threads", "Threads of the encoder and the search; 0 leaves it to OpenMP (all cores, or OMP_NUM_THREADS)."
    )
    decode_threads: int = _setting(2, "threads", "Threads that decode and resize pictures.", 1)
    spool_dir: str = _setting("", "directory", "Where batches are stored; empty is the system's temp folder.", None)
    request_timeout_s: _Seconds = _setting(
        60.0, "seconds", "How long one `/locate` request may take, including its upload.", 0.001
    )
    batch_upload_timeout_s: _Seconds = _setting(600.0, "seconds", "How long a batch's upload may take.", 0.001)
    registration: Literal["on", "off"] = _setting(
        "on",
        "name",
        "`off` never compares pictures with the reference, which is then not loaded (see registration.md).",
        None,
    )
    max_registering: int = _setting(
        16,
        "images",
        "Pictures of `/locate` being registered or waiting for it; others are answered without.",
        1,
    )
    registration_timeout_s: _Seconds = _setting(5.0, "seconds", "How long registering one picture may take.", 0.001)
    register_anywhere: _Flag = _setting(
        False,
        "0 or 1",
        "Search all land of the built-in Earth where nothing fits near what retrieval found, within that time.",
        None,
    )
    canvas_memory: _Bytes = _setting(
        CANVAS_BYTES,
        "bytes",
        "Memory for drawn pieces of the reference, also written like `512MB`; the built-in Earth itself takes 200 MB.",
        1_000_000,
    )
    search_timeout_s: _Seconds = _setting(10.0, "seconds", "How long the search of one picture may take.", 0.001)
    allow_download: _Flag = _setting(
        False, "0 or 1", "Fetch weights that the index or a prior names from a model hub; 0 uses its cache alone.", None
    )
    keys_file: str = _setting("", "file", "API keys, as written by `tilebeam key`; if set, requests need a key.", None)
    allow_anonymous: _Flag = _setting(
        False, "0 or 1", "Accept requests without a key; beyond loopback either this or a key file is required.", None
    )
    anonymous_rate: int = _setting(0, "images", "Images a minute for all requests without a key; 0 is unlimited.")
    allowed_hosts: str = _setting(
        "",
        "names",
        "Names, with commas, under which a service without keys is reached besides `localhost` and its own address; "
        "`*` is any. Empty: on loopback none, elsewhere any.",
        None,
    )
    cors_origins: str = _setting(
        "", "origins", "Web pages of others that may use the service: `https://a.example,...`, or `*`.", None
    )
    trusted_proxies: str = _setting(
        "", "addresses", "Proxies, with commas, whose `X-Forwarded-For` names the client; `*` is all.", None
    )
    audit_file: str = _setting("", "file", "File for a line per located picture; empty writes to the log.", None)
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "name", "`debug`, `info`, `warning` or `error`; requests are logged as `info`.", None
    )
    tiles: str = _setting(
        "",
        "path",
        "Map of the page, and what pictures are registered with: a tile cache or other .mbtiles file, a z/x/y folder, "
        "or `bluemarble`; empty is the built-in Earth if the index was built from it.",
        None,
    )
    scoring: Scoring = _setting(
        "posterior", "name", "How tiles are ranked: `posterior` (calibrated), or `paper` (by similarity alone).", None
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise SettingsError("; ".join(map(_message, exc.errors()))) from exc
        self.accepted_formats()
        if self.spool_dir and not Path(self.spool_dir).is_dir():
            raise SettingsError(
                f"{PREFIX}SPOOL_DIR={self.spool_dir!r} is not a directory; create it or leave the setting empty"
            )

    def accepted_formats(self) -> tuple[str, ...]:
        """The names in `formats`, in their usual spelling; empty for all. Raises SettingsError for an unknown name."""
        if self.formats.strip().lower() == "all":
            return ()
        spelling = {name.lower(): name for name in accepted_formats()}
        names = [name.strip().lower() for name in self.formats.split(",")]
        for name in names:
            if name not in spelling:
                raise SettingsError(
                    f"{PREFIX}FORMATS={self.formats!r}: {name!r} cannot be decoded here; use all, "
                    + ", ".join(spelling.values())
                )
        return tuple(spelling[name] for name in names)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Settings from `overrides`, else from the variables TILEBEAM_<NAME>, else the defaults."""
        env = os.environ if env is None else env
        values = {name: env[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in env}
        return cls(**{**values, **overrides})


def _bytes_of(value: Any) -> Any:
    """`512MB` or `1GiB` as a number of bytes; anything else as it is."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)", value.strip().lower()) if isinstance(value, str) else None
    return value if match is None else int(float(match[1]) * _UNITS[match[2]])


def _message(error: Mapping[str, Any]) -> str:
    """The sentence for one of pydantic's errors, with the variable's name and unit."""
    name = str(error["loc"][0]) if error["loc"] else ""
    field = Settings.model_fields.get(name)
    extra = field.json_schema_extra if field else None
    unit = f" ({extra['unit']})" if isinstance(extra, dict) else ""
    return f"{PREFIX}{name.upper()}={error['input']!r} is invalid: {error['msg']}{unit}"
