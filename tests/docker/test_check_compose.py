"""scripts/check-compose on the engine of DOCKER_HOST: builds the image, which takes many minutes the first time."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.skipif("DOCKER_HOST" not in os.environ, reason="needs a Docker engine: set DOCKER_HOST")
def test_compose_on_a_real_engine() -> None:
    done = subprocess.run([ROOT / "scripts/check-compose"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")
