"""The most memory that this process has held, in MB of 10^6 bytes: what the system reports, nothing estimated."""

import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> bool:
    """Begin anew, so that the peak is that of what follows; False where the system cannot (anything but Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_mb() -> float:
    """The highest resident memory since `forget_peak`, or since the process began where that is not possible.

    All of the process counts: Python, libraries, the photo encoder, and the pages of a mapped index that were read.
    """
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
