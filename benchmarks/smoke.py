"""Runs every benchmark in its smallest form, each in a process of its own, to see that it still works.

    python -m benchmarks.smoke [NAME ...]

Prints one line per benchmark: `ok`, `failed` or `skipped`, with the seconds that it took or the reason. The figures of
these runs mean nothing. Exits with 1 if one failed. `.ci/run` executes this.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900


class Smallest(NamedTuple):
    """The smallest form of a benchmark; `{out}` in an argument is a temporary folder that all of them share."""

    arguments: str
    needs: str | None = None  # a package that may be missing


SMALLEST = {
    "accuracy": Smallest("--count 40"),
    "density": Smallest("", "geoclip"),
    "descent": Smallest("--quick --json {out}/descent.json"),
    "geocells": Smallest("--only known --out {out}/geocells", "sklearn"),
    "geoclip": Smallest("--quick", "geoclip"),
    "gpu": Smallest("--device cpu --quick --out {out}/gpu.json"),
    "hostile": Smallest("--images 60 --seconds 0 --trickle-seconds 1 --no-bombs"),
    "indexing": Smallest("--quick --json {out}/indexing.json"),
    "learning": Smallest("--quick --out {out}/learning"),
    "locate": Smallest("--quick --json {out}/locate.json"),
    "located": Smallest("--folder {out}/located --set turned --set nowhere --style relief --style noise --count 1"),
    "overload": Smallest("--quick --json {out}/overload.json"),
    "partition": Smallest("--photos 2000 --min-samples 5 --out {out}/partition --json {out}/p.json", "sklearn"),
    "priors": Smallest("--quick --out {out}/priors", "sklearn"),
    "registration": Smallest("--count 1 --places 2 --style relief --kind turned --kind nowhere"),
    "service": Smallest("--quick --json {out}/service.json"),
    "training": Smallest("--quick --json {out}/training.json"),
}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SMALLEST], help="benchmarks to run; default: all")
    names = parser.parse_args().names or list(SMALLEST)
    with tempfile.TemporaryDirectory(prefix="tilebeam-smoke-") as out:
        failed = [name for name in names if not run(name, Path(out))]
    print(f"benchmarks: {len(names) - len(failed)} of {len(names)} ran or were skipped, {len(failed)} failed")
    sys.exit(bool(failed))


def run(name: str, out: Path) -> bool:
    """Run one benchmark and print its line; False if it failed, whose output then follows on standard error."""
    smallest = SMALLEST[name]
    if smallest.needs is not None and importlib.util.find_spec(smallest.needs) is None:
        print(f"skipped  {name}: {smallest.needs} is not installed", flush=True)
        return True
    command = [sys.executable, "-m", f"benchmarks.{name}", *smallest.arguments.format(out=out).split()]
    started = time.monotonic()
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"failed   {name}: not done after {TIMEOUT_S} s", flush=True)
        return False
    seconds = time.monotonic() - started
    if done.returncode:
        print(f"failed   {name}: exit code {done.returncode} after {seconds:.0f} s", flush=True)
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr, flush=True)
        return False
    print(f"ok       {name}: {seconds:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
