"""Tile servers by name: URL templates, names of xyzservices, and the hosts whose terms forbid bulk download.

`XyzSource` makes a tile's URL; `tile_cache.fetch` requests it. An API key appears in the template as `{key}` (or
`{apikey}`) and comes from TILEBEAM_TILE_KEY. It is put into URLs only, never into the source's name or identity, a
message or a file. This module resolves no host and opens no socket.
"""

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tile_cache.addressing import MAX_ZOOM, Tile, check_tile, quadkey
from tile_cache.errors import RefusedSourceError, SourceError
from tile_cache.source import SourceInfo

__all__ = ["KEY_VARIABLE", "XyzSource", "provider_names"]

KEY_VARIABLE = "TILEBEAM_TILE_KEY"

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_KEYS = frozenset(("key", "apikey"))
_KNOWN = {"z", "x", "y", "-y", "quadkey", "s", "r", *_KEYS}
_KEY_PARAMETER = re.compile(r"^(api_?|access_?|subscription-?)?(key|token)$|^(sig|signature|password)$", re.IGNORECASE)
_DEFAULT_MAX_ZOOM = 22
_HIDDEN = "***"


@dataclass(frozen=True)
class XyzSource:
    """A slippy-map server. `template` is the URL with its placeholders; `subdomains` fill `{s}` in turn."""

    info: SourceInfo
    template: str
    subdomains: tuple[str, ...] = ("a", "b", "c")
    key: str = field(default="", repr=False)

    @classmethod
    def from_template(cls, url: str, environ: Mapping[str, str]) -> "XyzSource":
        """A source from `https://host/{z}/{x}/{y}.jpg`.

        Other values may follow in the fragment, which is not sent to the server:
        `#attribution=...&name=...&min_zoom=0&max_zoom=12&tile_size=512&subdomains=1234`. Raises SourceError.
        """
        template, _, fragment = url.partition("#")
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
        if str(provider.get("crs", "EPSG:3857")).upper() not in ("EPSG:3857", "EPSG:900913"):
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
        return self._fill(tile, quote(self.key, safe=""))

    def public_url(self, tile: Tile) -> str:
        """The tile's URL for messages, with asterisks in place of the API key."""
        return self._fill(tile, _HIDDEN)

    def redact(self, text: str) -> str:
        """`text` with asterisks in place of the API key, whether as written or as quoted in URLs."""
        for secret in {self.key, quote(self.key, safe="")} - {""}:
            text = text.replace(secret, _HIDDEN)
        return text

    def _fill(self, tile: Tile, key: str) -> str:
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
        return _PLACEHOLDER.sub(lambda m: values[m[1]], self.template)


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
    try:
        parts = urlsplit(template)
    except ValueError as exc:
        raise SourceError(f"the source URL cannot be parsed ({exc}): check its brackets and port") from exc
    # Messages show the URL without its query, which may contain a key.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SourceError(
            f"{shown!r} is not an http or https URL: a template looks like https://host/{{z}}/{{x}}/{{y}}.jpg"
        )
    _check_placeholders(set(_PLACEHOLDER.findall(template)), shown)
    if "@" in parts.netloc:
        raise SourceError(
            f"{shown!r} contains a user name or password: remove it, because sources are shown and stored"
        )
    for name, values in parse_qs(parts.query, keep_blank_values=True).items():
        if _KEY_PARAMETER.match(name) and not all(_PLACEHOLDER.fullmatch(v) for v in values):
            raise SourceError(
                f"{shown!r} contains a key in its parameter {name!r}, but sources are shown and stored: write"
                f" {name}={{key}} and set the environment variable {KEY_VARIABLE}"
            )


def _check_placeholders(names: set[str], shown: str) -> None:
    if unknown := sorted(names - _KNOWN):
        known = ", ".join("{" + name + "}" for name in sorted(_KNOWN))
        raise SourceError(f"{shown!r} contains the unknown placeholder {{{unknown[0]}}}: use {known}")
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
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) <= maximum):
        raise SourceError(f"{name}={text} in the source must be a whole number from 0 to {maximum}")
    return int(text)


_OSM = (
    "OpenStreetMap's tile servers are run by volunteers and their usage policy forbids bulk download"
    " (https://operations.osmfoundation.org/policies/tiles/)"
)
_GOOGLE = "Google's terms forbid downloading and storing its map tiles (https://cloud.google.com/maps-platform/terms)"

_ESRI = "Esri's terms forbid downloading its basemaps in bulk and storing them (https://www.esri.com/legal)"
_MICROSOFT = "Bing Maps' terms forbid storing its tiles (https://www.microsoft.com/maps/product/terms.html)"
_MAPBOX = "Mapbox's terms forbid downloading its tiles in bulk (https://www.mapbox.com/legal/tos)"

_REFUSED = (
    (re.compile(r"(^|\.)(openstreetmap|osm)\.org$"), _OSM),
    (re.compile(r"(^|\.)(google(apis|usercontent)?|gstatic)\.com$"), _GOOGLE),
    (re.compile(r"(^|\.)google\.([a-z]{2,3}|com?\.[a-z]{2})$"), _GOOGLE),
    (re.compile(r"(^|\.)arcgisonline\.com$"), _ESRI),
    (re.compile(r"(^|\.)virtualearth\.net$"), _MICROSOFT),
    (re.compile(r"(^|\.)mapbox\.com$"), _MAPBOX),
)


def refusal(host: str) -> str | None:
    """The reason why tiles of `host` must not be downloaded in bulk; None if no reason is known."""
    host = host.lower().rstrip(".")
    return next((reason for pattern, reason in _REFUSED if pattern.search(host)), None)


def redirect_refusal(scheme: str, host: str, to_scheme: str, to_host: str) -> str | None:
    """The reason why a redirect must not be followed; None if it may be. The rules are those for sources."""
    if to_scheme not in ("http", "https") or (scheme == "https" and to_scheme == "http"):
        return f"redirect from {scheme} to {to_scheme}"
    if refusal(to_host) is not None:
        return f"redirect to {to_host}, whose terms forbid bulk download"
    if is_local(to_host) and not is_local(host):
        return "redirect into a private network"
    return None


def is_local(host: str) -> bool:
    """Whether a host is this machine, or an address that is not routed on the public internet."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False
