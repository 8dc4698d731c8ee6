"""Whether hubs of models may be contacted. Knows neither models nor indexes.

Encoders are loaded by libraries that fetch what they lack. Inside `hub_access(allowed=False)` they read what earlier
downloads left in their caches, and nothing else: no request is made. Commands in which the user names an encoder
himself run without it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ALLOW_DOWNLOAD_VARIABLE", "NO_DOWNLOAD", "hub_access", "is_offline"]

ALLOW_DOWNLOAD_VARIABLE = "TILEBEAM_ALLOW_DOWNLOAD"
NO_DOWNLOAD = (
    "nothing is downloaded for an index unless you allow it: give --allow-download or set TILEBEAM_ALLOW_DOWNLOAD=1 "
    "(in Python, allow_download=True)"
)
"""The way out where weights are not on this machine."""

_lock = threading.RLock()


def _constants() -> Any:
    # Imported here because not every installation has the hub's client; without it nothing is fetched.
    from huggingface_hub import constants

    return constants


@contextmanager
def hub_access(allowed: bool) -> Iterator[None]:
    """Make no request to a hub inside the block, unless `allowed`; `allowed` leaves the process's own setting.

    The clients' setting is one for the whole process, so only one thread is inside such a block at a time, and a
    download in another thread fails meanwhile.
    """
    if allowed:
        yield
        return
    with _lock:
        constants = _constants()
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def is_offline() -> bool:
    """Whether no request may be made now, by `hub_access` or by HF_HUB_OFFLINE."""
    return bool(_constants().HF_HUB_OFFLINE)
