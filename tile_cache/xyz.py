"""Tile servers by name: URL templates, names of xyzservices, and the hosts whose terms forbid bulk download.

`XyzSource` makes a tile's URL; `tile_cache.fetch` requests it. An API key appears in the template as `{key}` (or
`{apikey}`) and comes from TILEBEAM_TILE_KEY. It is put into URLs only, never into the source's name or identity, a
message or a file. Nor is anything else of a query, because it may hold a key under any name. This module resolves no
host and opens no socket.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tile_cache.addressing import MAX_ZOOM, Tile, check_tile, quadkey
from tile_cache.errors import RefusedSourceError, SourceError
from tile_cache.layout.decide import check_url, is_web_mercator
from tile_cache.source import SourceInfo
from tile_cache.urls import HIDDEN, is_key_name, redact_urls, refusal, shown_template

__all__ = ["KEY_VARIABLE", "XyzSource", "provider_names"]

KEY_VARIABLE = "TILEBEAM_TILE_KEY"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_KEYS = frozenset(("key", "apikey"))
_KNOWN = {"z", "x", "y", "-y", "quadkey", "s", "r", *_KEYS}
_ESCAPED = re.compile(r"%7b([a-z-]+)%7d", re.IGNORECASE)
_DEFAULT_MAX_ZOOM = 22


@dataclass(frozen=True)
class XyzSource:
    """A slippy-map server. `template` is the URL with its placeholders; `subdomains` fill `{s}` in turn."""

    info: SourceInfo
    template: str = field(repr=False)
    subdomains: tuple[str, ...] = ("a", "b", "c")
    key: str = field(default="", repr=False)

    @classmethod
    def from_template(cls, url: str, environ: Mapping[str, str]) -> "XyzSource":
        """A source from `https://host/{z}/{x}/{y}.jpg`.

        Other values may follow in the fragment, which is not sent to the server:
        `#attribution=...&name=...&min_zoom=0&max_zoom=12&tile_size=512&subdomains=1234`. Raises SourceError.
        """
        template, _, fragment = url.partition("#")
        # Browsers and some documents write braces as %7B and %7D.
        template = _ESCAPED.sub(lambda m: "{" + m[1] + "}", template)
        _check_template(template)
        options = _options(fragment, template)
        info = SourceInfo(
            name=options.get("name") or (urlsplit(template).hostname or "").replace("{s}", "").lstrip("."),
            identity=_identity(template),
            attribution=options.get("attribution", ""),
            min_zoom=_whole(options, "min_zoom", 0, MAX_ZOOM),
            max_zoom=_whole(options, "max_zoom", _DEFAULT_MAX_ZOOM, MAX_ZOOM),
            tile_size=_whole(options, "tile_size", 256, 4096),
        )
        return cls._checked(info, template, tuple(options.get("subdomains", "abc")), environ)

    @classmethod
    def from_provider(cls, name: str, environ: Mapping[str, str]) -> "XyzSource":
        """A source by its name in xyzservices, with the attribution and zooms given there. Raises SourceError."""
        provider = _providers()[name]
        if not is_web_mercator(str(provider.get("crs", "EPSG:3857"))):
            raise SourceError(f"{name} is in {provider['crs']}, not in Web Mercator (EPSG:3857): choose another source")
        template = _filled(provider)
        _check_template(template)
        info = SourceInfo(
            name=name,
            identity=_identity(template),
            attribution=str(provider.get("attribution", "")),
            min_zoom=int(provider.get("min_zoom", 0)),
            max_zoom=min(int(provider.get("max_zoom", _DEFAULT_MAX_ZOOM)), MAX_ZOOM),
            tile_size=int(provider.get("tileSize", 256)),
        )
        return cls._checked(info, template, tuple(provider.get("subdomains", "abc")), environ)

    @classmethod
    def _checked(
        cls, info: SourceInfo, template: str, subdomains: tuple[str, ...], environ: Mapping[str, str]
    ) -> "XyzSource":
        key = ""
        if not _KEYS.isdisjoint(_PLACEHOLDER.findall(template)):
            key = environ.get(KEY_VARIABLE, "").strip()
            if not key:
                raise SourceError(f"{info.name} needs an API key: set the environment variable {KEY_VARIABLE}")
        source = cls(info, template, subdomains, key)
        for host in sorted(source.hosts):
            if (reason := refusal(host)) is not None:
                raise RefusedSourceError(f"tiles of {host} are not fetched: {reason}. Choose another source")
        return source

    @property
    def hosts(self) -> set[str]:
        """Every host that the template can give, in lower case."""
        return {(urlsplit(self.template.replace("{s}", s)).hostname or "") for s in self.subdomains or ("",)}

    def url(self, tile: Tile) -> str:
        """The tile's URL with the API key, for requests only. Raises TileAddressError."""
        return self._fill(tile, quote(self.key, safe=""), self.template)

    def public_url(self, tile: Tile) -> str:
        """The tile's URL for messages, with asterisks in place of the API key and of all values of the query."""
        return self._fill(tile, HIDDEN, shown_template(self.template))

    def redact(self, text: str) -> str:
        """`text` with asterisks in place of the API key and of the query of every URL."""
        for secret in {self.key, quote(self.key, safe="")} - {""}:
            text = text.replace(secret, HIDDEN)
        return redact_urls(text)

    def _fill(self, tile: Tile, key: str, template: str) -> str:
        check_tile(tile)
        # A tile always uses the same subdomain, so that HTTP caches between here and the server are effective.
        subdomain = self.subdomains[(tile.x + tile.y) % len(self.subdomains)] if self.subdomains else ""
        values = {
            "z": str(tile.z),
            "x": str(tile.x),
            "y": str(tile.y),
            "-y": str((1 << tile.z) - 1 - tile.y),
            "quadkey": quadkey(tile),
            "s": subdomain,
            "r": "",
            **dict.fromkeys(_KEYS, key),
        }
        return _PLACEHOLDER.sub(lambda m: values[m[1]], template)


def provider_names() -> list[str]:
    """The names of xyzservices, such as `NASAGIBS.BlueMarble`."""
    return sorted(_providers())


def _providers() -> dict[str, Any]:
    try:
        import xyzservices.providers as providers
    except ImportError as exc:
        raise SourceError("source names need the package xyzservices: pip install 'tilebeam[index]'") from exc
    return dict(providers.flatten())


def _filled(provider: Mapping[str, Any]) -> str:
    """The provider's URL template with the provider's own values filled in, and `{key}` in place of a token."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "y" and provider.get("tms"):
            return "{-y}"
        if name in _KNOWN - _KEYS or name not in provider:
            return match[0]
        return "{key}" if str(provider[name]).startswith("<insert") else str(provider[name])

    return _PLACEHOLDER.sub(value, str(provider["url"]))


def _check_template(template: str) -> None:
    """Raise SourceError for a template that cannot address tiles, or that contains a secret."""
    shown = shown_template(template)
    try:
        parts = urlsplit(template)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:  # its text may repeat a user name or password
        raise SourceError(
            f"{shown!r} cannot be parsed as a URL: check its host, port and brackets,"
            " in which an IPv6 address stands (http://[::1]:8000/)"
        ) from exc
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SourceError(
            f"{shown!r} is not an http or https URL: a template looks like https://host/{{z}}/{{x}}/{{y}}.jpg"
        )
    if not host:
        raise SourceError(f"{shown!r} names no host: a template looks like https://host/{{z}}/{{x}}/{{y}}.jpg")
    if "${" in template:
        raise SourceError(f"{shown!r} has a dollar sign before a placeholder: write {{z}}, not ${{z}}")
    _check_placeholders(set(_PLACEHOLDER.findall(template)), shown)
    if "@" in parts.netloc:
        raise SourceError(
            f"{shown!r} contains a user name or password: remove it, because sources are shown and stored"
        )
    for name, values in parse_qs(parts.query, keep_blank_values=True).items():
        if is_key_name(name) and not all(_PLACEHOLDER.fullmatch(v) for v in values):
            raise SourceError(
                f"{shown!r} contains a key in its parameter {name!r}, but sources are shown and stored: write"
                f" {name}={{key}} and set the environment variable {KEY_VARIABLE}"
            )
    check_url(shown, template)


def _check_placeholders(names: set[str], shown: str) -> None:
    if unknown := sorted(names - _KNOWN):
        known = ", ".join("{" + name + "}" for name in sorted(_KNOWN))
        raise SourceError(f"{shown!r} contains the unknown placeholder {{{unknown[0]}}}: use {known}")
    if {"y", "-y"} <= names:
        raise SourceError(f"{shown!r} has both {{y}} and {{-y}}: keep the one that the server counts rows by")
    if "quadkey" in names:
        return
    if "z" not in names:
        raise SourceError(
            f"{shown!r} has no {{z}}: a template needs {{z}}, {{x}} and {{y}} (or {{-y}}), or {{quadkey}}"
        )
    if "x" not in names or not names & {"y", "-y"}:
        raise SourceError(
            f"{shown!r} needs {{x}} and {{y}} (or {{-y}}) beside {{z}}, or {{quadkey}} instead of all three"
        )


def _identity(template: str) -> str:
    """The template's hash. The key is left out, because all keys of a service give the same tiles."""
    same = template.replace("{apikey}", "{key}")
    return f"xyz:{hashlib.sha256(same.encode()).hexdigest()}"


def _options(fragment: str, template: str) -> dict[str, str]:
    known = {"name", "attribution", "min_zoom", "max_zoom", "tile_size", "subdomains"}
    options = {name: values[-1] for name, values in parse_qs(fragment).items()}
    if unknown := sorted(options.keys() - known) or ([fragment] if fragment and not options else []):
        host, names = urlsplit(template).hostname, ", ".join(sorted(known))
        raise SourceError(f"unknown option #{unknown[0]} after {host}: use {names}")
    return options


def _whole(options: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    text, minimum = options.get(name, str(default)), 1 if name == "tile_size" else 0
    if not (text.isascii() and text.isdigit() and len(text) < 10 and minimum <= int(text) <= maximum):
        raise SourceError(f"{name}={text[:20]} in the source must be a whole number from {minimum} to {maximum}")
    return int(text)
