"""Addresses of tile servers as text: what may be shown of them, which are refused, and which are local by name.

A query or a user name may hold a key under any name, so neither is ever shown; nor are parts of a path that look like
keys. Resolves no host and opens no socket.
"""

import ipaddress
import re
import socket
from urllib.parse import unquote

__all__ = [
    "IpAddress",
    "hidden",
    "is_key_name",
    "is_local",
    "is_public",
    "may_reach_private",
    "redact_urls",
    "redirect_refusal",
    "refusal",
    "shown_template",
]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HIDDEN = "***"

_URL = re.compile(r"(?P<start>[a-z][a-z0-9+.-]*://)(?P<rest>[^\s\"'<>\\]+)", re.IGNORECASE)
_KEY_IN_PATH = re.compile(r"(?<=/)(?=(?:[^/]*[0-9]){3})(?=(?:[^/]*[A-Za-z]){3})[A-Za-z0-9_.~-]{20,}(?=/|$)")
"""A part of a path that is long and mixes letters and digits; ids of data sets look the same, and are hidden too."""
_PLACEHOLDERS = re.compile(r"(\{(z|x|y|-y|quadkey|s|r|key|apikey)\})+")
_KEY_ENDINGS = (
    "key", "token", "secret", "signature", "password", "passwd", "pwd", "auth", "authorization", "credential",
    "credentials", "appid", "appcode", "accesskeyid", "sessionid", "jwt",
)  # fmt: skip
_KEY_NAMES = frozenset(("sig", "sas", "tk", "ak", "sk", "pw", "pass"))


def is_key_name(parameter: str) -> bool:
    """Whether a query parameter is one that carries a key: `access-token`, `appid`, `rapidapi-key`, `tk`, ..."""
    name = re.sub(r"[^a-z0-9]", "", parameter.lower())
    return name in _KEY_NAMES or name.endswith(_KEY_ENDINGS)


def hidden(query: str) -> str:
    """A query with its parameters' names and asterisks for their values; placeholders such as {z} stay."""
    return "&".join(_hidden(part) for part in query.split("&"))


def shown_template(url: str) -> str:
    """A URL or template without user name, query values, fragment, and parts of the path that look like keys."""
    url, _, _ = url.partition("#")
    start, scheme_mark, rest = url.partition("://")
    if not scheme_mark:
        start, rest = "", url
    address, mark, query = rest.partition("?")
    host, slash, path = address.partition("/")
    path = _KEY_IN_PATH.sub(HIDDEN, slash + path)
    return f"{start}{scheme_mark}{host.rpartition('@')[2]}{path}{mark}{hidden(query) if query else ''}"


def redact_urls(text: str) -> str:
    """`text` with every URL in it as `shown_template` shows it."""
    return _URL.sub(lambda match: shown_template(match[0]), text)


def refusal(host: str) -> str | None:
    """The reason why tiles of `host` must not be downloaded in bulk; None if no reason is known."""
    host = host.lower().rstrip(".")
    return next((reason for pattern, reason in _REFUSED if pattern.search(host)), None)


def redirect_refusal(scheme: str, host: str, to_scheme: str, to_host: str) -> str | None:
    """The reason, by names alone, why a redirect must not be followed; None if it may be.

    The rules are those for sources. Names that resolve to private addresses are for `tile_cache.fetch.network`.
    """
    if to_scheme not in ("http", "https") or (scheme == "https" and to_scheme == "http"):
        return f"redirect from {scheme} to {to_scheme}"
    if refusal(to_host) is not None:
        return f"redirect to {to_host}, whose terms forbid bulk download"
    if is_local(to_host) and not may_reach_private(host):
        return "redirect into a private network"
    return None


def is_local(host: str) -> bool:
    """Whether a host is by its name this machine, or an address that is not routed on the public internet.

    All spellings of an address count, as the system's resolver reads them: `127.1`, `2130706433`, `0x7f000001`.
    """
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and not is_public(address)


def may_reach_private(host: str) -> bool:
    """Whether a source at `host` may redirect into a private network: it is in one itself, by its name."""
    name = host.lower().strip("[]").rstrip(".")
    return is_local(name) or name.endswith(_LOCAL_ENDINGS) or ("." not in name and ":" not in name and bool(name))


def is_public(address: IpAddress) -> bool:
    """Whether an address is routed on the public internet; one that embeds an IPv4 address counts as that one."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
    return address.is_global and not address.is_multicast


def _hidden(part: str) -> str:
    name, mark, value = part.partition("=")
    if not mark:  # a key without a name, or nothing
        return part if not part or _PLACEHOLDERS.fullmatch(part) else HIDDEN
    return f"{name}={value if _PLACEHOLDERS.fullmatch(unquote(value)) else HIDDEN}"


def _address(name: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    if not _ODD_IPV4.fullmatch(name):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ODD_IPV4 = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")
_LOCAL_ENDINGS = (".local", ".lan", ".internal", ".intranet", ".localdomain", ".home.arpa")

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
