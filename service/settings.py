"""The service's settings: one frozen object, and the only place where the environment is read.

Each field has a default, a unit and a sentence; `docs/http-api.md` lists them and a test compares the two.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.encoders.photo import accepted_formats
from retrieval.search.query import SERVED, Scoring
from service.errors import SettingsError

__all__ = ["PREFIX", "Settings"]

PREFIX = "TILEBEAM_"


def _setting(default: Any, unit: str, sentence: str, least: float = 0) -> Any:
    return dataclasses.field(default=default, metadata={"unit": unit, "sentence": sentence, "least": least})


@dataclass(frozen=True)
class Settings:
    """What an operator may change. Raises SettingsError for a value outside its range."""

    max_image_bytes: int = _setting(20_000_000, "bytes", "The largest picture that is accepted, as a file.", 1)
    max_image_pixels: int = _setting(
        100_000_000, "pixels", "The largest picture that is decoded, width times height.", 1
    )
    formats: str = _setting(
        "all", "names", "Formats that are taken: names with commas, `JPEG,PNG` say, or `all` that can be decoded here."
    )
    max_batch_bytes: int = _setting(2_000_000_000, "bytes", "The largest batch request, spooled to `spool_dir`.", 1)
    max_batch_images: int = _setting(1000, "images", "The most pictures in one batch request.", 1)
    max_batches: int = _setting(
        2, "requests", "Batch requests in work at once; `spool_dir` needs room for as many times `max_batch_bytes`.", 1
    )
    max_in_flight: int = _setting(
        64, "requests", "Requests to `/locate` being read, decoded or waiting; one more is answered 503.", 1
    )
    max_queued_images: int = _setting(
        128, "images", "Images being decoded or waiting, of batches at most half; one more is answered 503.", 1
    )
    retry_after_s: int = _setting(
        1, "seconds", "What a 503 tells the client to wait at least; the measured pace may say more, up to 60.", 1
    )
    client_timeout_s: float = _setting(
        30.0, "seconds", "How long a client may stall, sending its upload or reading a batch's answer.", 0.001
    )
    shutdown_timeout_s: int = _setting(30, "seconds", "How long requests in work may take to end after SIGTERM.", 1)
    threads: int = _setting(
        0, "threads", "Threads of the encoder and of the search; 0 leaves it to OpenMP (all cores, or OMP_NUM_THREADS)."
    )
    decode_threads: int = _setting(2, "threads", "Threads that decode and resize pictures.", 1)
    spool_dir: str = _setting("", "directory", "Where batches are spooled; empty takes the system's temporary folder.")
    request_timeout_s: float = _setting(
        60.0, "seconds", "How long one `/locate` may take in all, its upload included.", 0.001
    )
    batch_upload_timeout_s: float = _setting(600.0, "seconds", "How long a batch's upload may take in all.", 0.001)
    keys_file: str = _setting("", "file", "API keys, as `tilebeam key` writes them; given, every request needs one.")
    allow_anonymous: bool = _setting(
        False, "0 or 1", "Let in whoever brings no key: beyond loopback nobody is, unless there is a key file or this."
    )
    anonymous_rate: int = _setting(0, "images", "Images a minute for all without a key together; 0 is no limit.")
    audit_file: str = _setting("", "file", "A line for each picture asked about; empty writes them to the log.")
    log_level: str = _setting("info", "name", "`debug`, `info`, `warning` or `error`; a request is an `info`.")
    tiles: str = _setting(
        "",
        "path",
        "The map of the page: a tile cache or other .mbtiles file, a z/x/y folder, or `bluemarble`; "
        "empty takes the built-in Earth where the index is of it.",
    )
    scoring: Scoring = _setting(  # noqa: RUF009 - it returns a dataclasses.field
        "posterior", "name", "How tiles are ranked: `posterior`, calibrated, or `paper`, by the level's similarity."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self.taken_formats()

    def taken_formats(self) -> tuple[str, ...]:
        """The names in `formats`, as people write them; none for all. Raises SettingsError for an unknown one."""
        if self.formats.strip().lower() == "all":
            return ()
        known = {name.lower(): name for name in accepted_formats()}
        given = [name.strip().lower() for name in self.formats.split(",")]
        for name in given:
            if name not in known:
                raise SettingsError(
                    f"{PREFIX}FORMATS={self.formats!r}: {name!r} cannot be decoded here; there are all, "
                    + ", ".join(known.values())
                )
        return tuple(known[name] for name in given)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **given: Any) -> "Settings":
        """The defaults, overridden by TILEBEAM_<NAME> variables, overridden by `given`."""
        env = os.environ if env is None else env
        found = {
            f.name: _parsed(f, env[PREFIX + f.name.upper()])
            for f in dataclasses.fields(cls)
            if PREFIX + f.name.upper() in env
        }
        return cls(**{**found, **given})


def _parsed(field: "dataclasses.Field[Any]", text: str) -> Any:
    kind: type = type(field.default)
    try:
        return _BOOLS[text.strip().lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as exc:
        raise SettingsError(f"{_name(field)}={text!r} is no {_WORDS[kind]}; the default is {field.default!r}") from exc


_WORDS = {int: "whole number", float: "number", str: "text", bool: "0 or 1"}
_BOOLS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
    "": False,
}
_LEVELS = ("debug", "info", "warning", "error")


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    if isinstance(field.default, int | float):
        least = field.metadata["least"]
        if not least <= value < float("inf"):
            raise SettingsError(f"{_name(field)}={value!r} must be at least {least} ({field.metadata['unit']})")
    elif field.name == "scoring" and value not in SERVED:
        raise SettingsError(f"{_name(field)}={value!r} is unknown; there are {' and '.join(SERVED)}")
    elif field.name == "log_level" and value not in _LEVELS:
        raise SettingsError(f"{_name(field)}={value!r} is unknown; there are {', '.join(_LEVELS)}")
    elif field.name == "spool_dir" and value and not Path(value).is_dir():
        raise SettingsError(f"{_name(field)}={value!r} is no directory; create it or leave it empty")


def _name(field: "dataclasses.Field[Any]") -> str:
    return PREFIX + field.name.upper()
