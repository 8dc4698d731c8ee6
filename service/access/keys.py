"""The file of API keys: names, rights, and hashes of the keys, never the keys themselves. Imports no engine.

A key is 256 random bits, so its SHA-256 is enough. A slow hash (scrypt) protects passwords, which can be guessed; 256
bits cannot. It would also cost tens of milliseconds per request, which senders of wrong keys could exploit.

{"version": 1, "keys": [{"name": "alice", "sha256": "...", "rate": 60, "admin": false, "created": "2026-11-20"}]}
"""

import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retrieval.files import read_json, write_atomically
from retrieval.picture_files import printable
from service.errors import KeyFileError

ANONYMOUS = "anonymous"
"""The name for requests without a key; no key may have it."""

_VERSION = 1
_PREFIX = "tilebeam_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """One entry. `name` identifies the key in the audit; `rate` is in images a minute, 0 for unlimited."""

    name: str
    sha256: str
    rate: int
    admin: bool
    created: str


class KeyRing:
    """The keys of a file, as read once; immutable."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    @classmethod
    def read(cls, path: Path) -> "KeyRing":
        """Read a key file; raises KeyFileError with what is wrong in it."""
        try:
            document = read_json(path)
        except OSError as exc:
            raise KeyFileError(
                f"the key file {path} cannot be read ({exc.strerror}); make one with `tilebeam key new --file {path}`"
            ) from exc
        except ValueError as exc:
            raise KeyFileError(f"the key file {path} is not JSON ({exc}); restore it, or make new keys") from exc
        return cls(_checked(path, document))

    def find(self, presented: str) -> Key | None:
        """The key with this text, or None. All entries are compared in constant time, so timing reveals nothing."""
        digest = _digest(presented)
        match = None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                match = key
        return match


def add_key(path: Path, name: str, rate: int, admin: bool) -> str:
    """Add a key to a file, which is created if missing. Returns the key's text, which is not stored anywhere."""
    if not _is_name(name):
        raise KeyFileError(
            f"{name!r} cannot be a key's name; use 1 to 64 letters, digits and . _ @ -, but not {ANONYMOUS!r}"
        )
    keys = KeyRing.read(path).keys if _exists(path) else ()
    if any(key.name == name for key in keys):
        raise KeyFileError(f"{path} already has a key {name!r}; choose another name, or remove that key first")
    text = _PREFIX + secrets.token_urlsafe(32)
    created = datetime.datetime.now(datetime.UTC).date().isoformat()
    _write(path, (*keys, Key(name, _digest(text), rate, admin, created)))
    return text


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file; raises KeyFileError if no key has this name."""
    keys = KeyRing.read(path).keys
    if all(key.name != name for key in keys):
        raise KeyFileError(f"{path} has no key {name!r}; its keys: {', '.join(key.name for key in keys) or 'none'}")
    _write(path, tuple(key for key in keys if key.name != name))


def _exists(path: Path) -> bool:
    """Whether there is a file. Raises KeyFileError for what cannot be one."""
    try:
        if path.is_dir():
            raise KeyFileError(
                f"{printable(path)} is a folder; name a file in it, such as {printable(path / 'keys.json')}"
            )
        return path.exists()
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        reason = getattr(exc, "strerror", None) or exc
        raise KeyFileError(f"the key file {printable(path)} cannot be used ({reason}); give another --file") from exc


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name != ANONYMOUS


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()


def _checked(path: Path, document: Any) -> tuple[Key, ...]:
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise KeyFileError(f"the key file {path} does not have version {_VERSION}; make it with `tilebeam key new`")
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise KeyFileError(f"the key file {path} has no list 'keys'; make it with `tilebeam key new`")
    keys = tuple(_key(path, number, entry) for number, entry in enumerate(entries))
    if len({key.name for key in keys}) < len(keys):
        raise KeyFileError(f"the key file {path} has the same name twice; give each key its own name")
    return keys


def _key(path: Path, number: int, entry: Any) -> Key:
    kinds = {field.name: field.type for field in fields(Key)}
    if not isinstance(entry, dict) or set(entry) != set(kinds):
        raise KeyFileError(f"{path}: key number {number} must have exactly {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(entry[name]) is not kind:
            raise KeyFileError(
                f"{path}: key number {number}: {name}={entry[name]!r} must not be {type(entry[name]).__name__}"
            )
    key = Key(**entry)
    if not _is_name(key.name) or not _HASH.fullmatch(key.sha256) or key.rate < 0:
        raise KeyFileError(f"{path}: key number {number} ({key.name!r}) has an invalid name, hash or rate")
    return key


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Write the file atomically; a new one is readable by its owner only, because it contains names."""
    text = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, indent=1) + "\n"

    def write(temporary: Path) -> None:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)

    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        write_atomically(path, write)
    except OSError as exc:
        raise KeyFileError(f"the key file {path} cannot be written ({exc.strerror}); check its folder") from exc
