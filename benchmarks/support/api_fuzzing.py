"""Schemathesis against a running service's own description."""

import re
import subprocess
import sys
import tempfile
from os import environ

from benchmarks.support.server import ROOT

__all__ = ["schemathesis"]

_SLOW = ("--suppress-health-check", "too_slow")
"""Pictures take a busy machine long to generate, which is no fault of the service."""


def schemathesis(url: str, key: str | None, seed: int, *more: str) -> tuple[int, str]:
    """Run schemathesis on the service's own description; return its exit code and output. `more`: its options."""
    # A schema cannot describe a valid picture or box: bytes that match the schema may still get a 400.
    orderly = _tried(url, key, seed, "examples,coverage", "positive_data_acceptance")
    # It also counts those of its mutated forms as invalid that a mutation made valid again.
    random = _tried(url, key, seed, "fuzzing", "positive_data_acceptance,negative_data_rejection", *more, *_SLOW)
    return max(orderly[0], random[0]), orderly[1] + random[1]


def _tried(url: str, key: str | None, seed: int, phases: str, without: str, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
    command += [] if key is None else ["--header", f"Authorization: Bearer {key}"]
    command += ["--exclude-checks", without, "--phases", phases]
    command += ["--seed", str(seed), "--continue-on-failure", "--generation-database", "none", *more]
    hooks = {"SCHEMATHESIS_HOOKS": "benchmarks.support.hostile_hooks", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as name:  # schemathesis writes files into its working directory
        done = subprocess.run(command, cwd=name, env={**environ, **hooks}, capture_output=True, text=True)
    return done.returncode, re.sub(r"curl .*", "curl ...", done.stdout + done.stderr)
