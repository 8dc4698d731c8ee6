"""Tiles over HTTP as far as names go: a URL template and a tile make a URL. Knows nothing of sockets; the fetcher does.

An API key stands in the template as `{key}` (or `{apikey}`) and comes from TILEBEAM_TILE_KEY. It is put into URLs
only: never into the source's name or identity, never into a message, never into a file.
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
    """A slippy-map server. `template` keeps its placeholders; `subdomains` fill `{s}` in turn."""

    info: SourceInfo
    template: str
    subdomains: tuple[str, ...] = ("a", "b", "c")
    key: str = field(default="", repr=False)

    @classmethod
    def from_template(cls, url: str, environ: Mapping[str, str]) -> "XyzSource":
        """A source from `https://host/{z}/{x}/{y}.jpg`.

        What the URL cannot say may follow in its fragment, which no server sees:
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
        """A source by its name in xyzservices, with the attribution and zooms that stand there. Raises SourceError."""
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
        """Every host that the template can name, in lower case."""
        return {(urlsplit(self.template.replace("{s}", s)).hostname or "") for s in self.subdomains or ("",)}

    def url(self, tile: Tile) -> str:
        """The tile's URL, with the API key in it: for the request alone. Raises TileAddressError."""
        return self._fill(tile, quote(self.key, safe=""))

    def public_url(self, tile: Tile) -> str:
        """The tile's URL as people may see it: stars stand for the API key."""
        return self._fill(tile, _HIDDEN)

    def redact(self, text: str) -> str:
        """`text` with stars for the API key, as written and as quoted in URLs."""
        for secret in {self.key, quote(self.key, safe="")} - {""}:
            text = text.replace(secret, _HIDDEN)
        return text

    def _fill(self, tile: Tile, key: str) -> str:
        check_tile(tile)
        # The same tile always comes from the same subdomain, so that caches on the way can answer.
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
    """The names that xyzservices knows, as `Esri.WorldImagery`."""
    return sorted(_providers())


def _providers() -> dict[str, Any]:
    try:
        import xyzservices.providers as providers
    except ImportError as exc:
        raise SourceError("source names need the package xyzservices: pip install 'tilebeam[index]'") from exc
    return dict(providers.flatten())


def _filled(provider: Mapping[str, Any]) -> str:
    """The provider's URL with its own values put in, and `{key}` where it asks for a token."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "y" and provider.get("tms"):
            return "{-y}"
        if name in _KNOWN - _KEYS or name not in provider:
            return match[0]
        return "{key}" if str(provider[name]).startswith("<insert") else str(provider[name])

    return _PLACEHOLDER.sub(value, str(provider["url"]))


def _check_template(template: str) -> None:
    """Raise SourceError for a template that cannot address tiles, or that holds a secret in clear."""
    try:
        parts = urlsplit(template)
    except ValueError as exc:
        raise SourceError(f"the source URL cannot be read: {exc}") from exc
    # Shown without its query, where people leave their keys.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SourceError(
            f"{shown!r} is no http or https URL: a template looks like https://host/{{z}}/{{x}}/{{y}}.jpg"
        )
    _check_placeholders(set(_PLACEHOLDER.findall(template)), shown)
    if "@" in parts.netloc:
        raise SourceError(
            f"{shown!r} names a user or password: sources are shown and stored, so they must not hold one"
        )
    for name, values in parse_qs(parts.query, keep_blank_values=True).items():
        if _KEY_PARAMETER.match(name) and not all(_PLACEHOLDER.fullmatch(v) for v in values):
            raise SourceError(
                f"{shown!r} holds a key in its parameter {name!r}, and sources are shown and stored: write"
                f" {name}={{key}} and set the environment variable {KEY_VARIABLE}"
            )


def _check_placeholders(names: set[str], shown: str) -> None:
    if unknown := sorted(names - _KNOWN):
        known = ", ".join("{" + name + "}" for name in sorted(_KNOWN))
        raise SourceError(f"{shown!r} holds {{{unknown[0]}}}, which means nothing here: known are {known}")
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
    """The template's hash: two keys of one service have the same tiles, so the placeholder stays what it is."""
    same = template.replace("{apikey}", "{key}")
    return f"xyz:{hashlib.sha256(same.encode()).hexdigest()}"


def _options(fragment: str, template: str) -> dict[str, str]:
    known = {"name", "attribution", "min_zoom", "max_zoom", "tile_size", "subdomains"}
    options = {name: values[-1] for name, values in parse_qs(fragment).items()}
    if unknown := sorted(options.keys() - known) or ([fragment] if fragment and not options else []):
        raise SourceError(f"#{unknown[0]} after {urlsplit(template).hostname}: known are {', '.join(sorted(known))}")
    return options


def _whole(options: Mapping[str, str], name: str, otherwise: int, most: int) -> int:
    text = options.get(name, str(otherwise))
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise SourceError(f"{name}={text} in the source is no whole number from 0 to {most}")
    return int(text)


_OSM = (
    "OpenStreetMap's tile servers are run by volunteers and their usage policy forbids bulk downloading"
    " (https://operations.osmfoundation.org/policies/tiles/)"
)
_GOOGLE = "Google's terms forbid fetching and storing its map tiles (https://cloud.google.com/maps-platform/terms)"

_ESRI = "Esri's terms forbid downloading its basemaps in bulk and keeping them (https://www.esri.com/legal)"
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
    """Why tiles of `host` must not be fetched in bulk; None where nothing is known against it."""
    host = host.lower().rstrip(".")
    return next((reason for pattern, reason in _REFUSED if pattern.search(host)), None)


def redirect_refusal(scheme: str, host: str, to_scheme: str, to_host: str) -> str | None:
    """Why a redirect must not be followed: to where the source itself might not have led; None where it may."""
    if to_scheme not in ("http", "https") or (scheme == "https" and to_scheme == "http"):
        return f"redirect from {scheme} to {to_scheme}"
    if refusal(to_host) is not None:
        return f"redirect to {to_host}, which must not be fetched from in bulk"
    if is_local(to_host) and not is_local(host):
        return "redirect into a private network"
    return None


def is_local(host: str) -> bool:
    """Whether the host's name is this machine or an address that the public internet does not route."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False
