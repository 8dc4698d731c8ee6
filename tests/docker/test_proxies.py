"""The proxy configurations of docs/deployment.md, by the proxies themselves where they are installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs/deployment.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_takes_the_documented_block(tmp_path: Path) -> None:
    server = re.sub(r"listen 443 ssl;|ssl_certificate\S* .*;", "", block("nginx"))
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    head = f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
    http = f"http {{ access_log off; client_body_temp_path {tmp_path}/body; {temporary}\n{server}\n}}"
    (tmp_path / "nginx.conf").write_text(head + http)
    done = subprocess.run(["nginx", "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is not installed")
def test_caddy_takes_the_documented_block(tmp_path: Path) -> None:
    (tmp_path / "Caddyfile").write_text(block("caddy"))
    done = subprocess.run(
        ["caddy", "adapt", "--validate", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_nginx_allows_what_the_service_allows() -> None:
    settings, units = Settings(), {"m": 2**20, "g": 2**30}
    sizes = re.findall(r"client_max_body_size (\d+)([mg]);", block("nginx"))
    picture, batch = (int(number) * units[unit] for number, unit in sizes)
    assert picture > settings.max_image_bytes
    assert batch >= settings.max_batch_bytes
    pauses = [int(seconds) for seconds in re.findall(r"proxy_read_timeout (\d+)s;", block("nginx"))]
    assert pauses[0] > settings.request_timeout_s
    assert pauses[1] > settings.batch_upload_timeout_s
