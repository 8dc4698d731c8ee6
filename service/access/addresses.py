"""IP addresses: which are this machine's own, and which belong to one client. Imports nothing heavy."""

import ipaddress


def is_loopback(address: str) -> bool:
    """Whether a numeric address, perhaps with an interface as in `fe80::1%eth0`, is of this machine alone."""
    return _parsed(address).is_loopback


def client_of(address: str) -> str:
    """Who an address stands for: itself, or its /64 network for IPv6, of which one client has all addresses."""
    try:
        parsed = _parsed(address)
    except ValueError:  # no numeric address: a test client's, or a socket file's
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
