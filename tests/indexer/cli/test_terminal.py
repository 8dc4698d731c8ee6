"""Exit codes and last lines of commands."""

import signal
import subprocess
import sys

COMMAND = """
import signal, time, typer
signal.signal(signal.SIGINT, signal.SIG_IGN)
from indexer.cli.terminal import ending_well
try:
    with ending_well("the same command goes on"):
        print("ready", flush=True)
        time.sleep(60)
except typer.Exit as end:
    raise SystemExit(end.exit_code)
"""


def test_sigterm_ends_a_background_job_that_ignores_interrupts() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert stderr == "tilebeam: interrupted; the same command goes on\n"
