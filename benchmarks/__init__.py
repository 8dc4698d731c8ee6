"""Programs that measure, run by `python -m benchmarks.NAME`. What they share is in `benchmarks.support`."""
