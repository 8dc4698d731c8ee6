"""The proxy configurations of docs/deployment.md, by the proxies themselves where they are installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
TEXT = (Path(__file__).resolve().parents[2] / "docs/deployment.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The blocks of the document in this language: at the root, and below a sub-path."""
    root, sub_path = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return [root, sub_path]


def nginx_servers() -> list[str]:
    """The documented server without TLS, with the blocks `location` at the root and with those below a sub-path."""
    root, sub_path = blocks("nginx")
    root = re.sub(r"listen 443 ssl;|ssl_certificate\S* .*;", "", root)
    return [root, re.sub(r"    location .*\n\}", f"{sub_path}}}", root, flags=re.DOTALL)]


@pytest.mark.skipif(not NGINX, reason="nginx is not installed: Debian's package nginx-light")
@pytest.mark.parametrize("server", nginx_servers(), ids=["root", "sub-path"])
def test_nginx_takes_the_documented_block(tmp_path: Path, server: str) -> None:
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    head = f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
    http = f"http {{ access_log off; client_body_temp_path {tmp_path}/body; {temporary}\n{server}\n}}"
    (tmp_path / "nginx.conf").write_text(head + http)
    done = subprocess.run([NGINX, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("caddy"), reason="caddy is not installed")
@pytest.mark.parametrize("text", blocks("caddy"), ids=["root", "sub-path"])
def test_caddy_takes_the_documented_block(tmp_path: Path, text: str) -> None:
    (tmp_path / "Caddyfile").write_text(text)
    done = subprocess.run(
        ["caddy", "adapt", "--validate", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("server", nginx_servers(), ids=["root", "sub-path"])
def test_nginx_allows_what_the_service_allows(server: str) -> None:
    settings, units = Settings(), {"m": 2**20, "g": 2**30}
    sizes = re.findall(r"client_max_body_size (\d+)([mg]);", server)
    picture, batch = (int(number) * units[unit] for number, unit in sizes)
    assert picture > settings.max_image_bytes
    assert batch >= settings.max_batch_bytes
    pauses = [int(seconds) for seconds in re.findall(r"proxy_read_timeout (\d+)s;", server)]
    assert pauses[0] > settings.request_timeout_s
    assert pauses[1] > settings.batch_upload_timeout_s
