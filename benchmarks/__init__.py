"""Programs that measure, run by `python -m benchmarks.NAME`. What they share is in `benchmarks.support`."""

from pathlib import Path

# Work that began before the shared modules moved imports them as `benchmarks.NAME`; take this out once it is done.
__path__.append(str(Path(__file__).parent / "support"))
