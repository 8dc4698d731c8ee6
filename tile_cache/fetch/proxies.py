"""The proxy that the environment names for an address: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

`NO_PROXY` may hold names, which cover their subdomains, addresses, networks such as 10.0.0.0/8, and `*`; whatever
else stands there is ignored. A proxy may have a password in its address, so it is never shown. Imports no HTTP library.
"""

import importlib.util
import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["ProxyError", "proxy_for"]

_SCHEMES = ("http", "https", "socks5", "socks5h")


class ProxyError(Exception):
    """A proxy in the environment that cannot be used; the message names the variable and the way out."""


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy's URL for requests to a host; None: connect to it directly. Raises ProxyError."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or _is_direct(host, proxies):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _check(proxy, scheme if proxies.get(scheme) else "all")
    return proxy


def _is_direct(host: str, proxies: Mapping[str, str]) -> bool:
    entries = [entry.strip() for entry in proxies.get("no", "").split(",")]
    if "*" in entries or proxy_bypass(host, dict(proxies)):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    for entry in entries:
        try:
            if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def _check(proxy: str, kind: str) -> None:
    names = [name for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY") if os.environ.get(name)]
    name = names[0] if names else f"{kind}_proxy"
    way_out = f"correct {name}, or take it out for this command (env -u {name} tilebeam ...)"
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0 and len(proxy.split()) == 1
    except ValueError:
        usable = False
    if not usable:
        raise ProxyError(f"{name} is not the address of a proxy, such as http://proxy.example:3128: {way_out}")
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ProxyError(
            f"{name} names a {parts.scheme} proxy, which needs the package socksio: pip install 'httpx[socks]', or"
            f" {way_out}"
        )
