"""Which hosts may be asked for tiles, and why not. Knows host names only; resolves none."""

import ipaddress
import re

__all__ = ["is_local", "redirect_refusal", "refusal"]

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
