"""Where the fetcher connects to: private addresses behind any name, proxies, certificates; and what logs show."""

import asyncio
import logging
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from loopback import TileServer, http, image, serving, tile_image

from tile_cache.errors import SourceError
from tile_cache.fetch.client import FetchReport, FetchSettings, fetch
from tile_cache.fetch.network import Guard, PrivateAddressError
from tile_cache.mbtiles import TileStore
from tile_cache.xyz import XyzSource

CODES = np.arange(4, dtype=np.uint64)
PUBLIC, PRIVATE = "93.184.215.14", "127.0.0.1"


def run(source: XyzSource, path: Path, settings: FetchSettings) -> FetchReport:
    with TileStore.open(path, source.info) as store:
        return asyncio.run(fetch(source, store, [(5, CODES)], settings))


@pytest.fixture
def names(monkeypatch) -> dict[str, str]:
    """Names that the resolver knows beside the real ones: name to address."""
    known: dict[str, str] = {}
    real = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        return real(known.get(host, host), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def test_public_name_on_a_private_address_is_fetched_from_but_leads_nowhere_else(server, tmp_path, hasty, names):
    names |= {"tiles.example": PRIVATE, "inside.example": PRIVATE}
    settings = replace(hasty, contact="me@example.org")
    source = XyzSource.from_template(server.template.replace("127.0.0.1", "tiles.example"), {})
    assert run(source, tmp_path / "own.mbtiles", settings).kept == 4
    with serving() as other:
        for number, host in enumerate(["2130706433", "0x7f000001", "127.1", "localhost.", "inside.example"]):
            server.answer = lambda r, host=host: http(302, Location=f"http://{host}:{other.port}{r.path}")
            report = run(source, tmp_path / f"{number}.mbtiles", settings)
            assert (report.kept, report.failed) == (0, 4), host
            assert "private network" in next(iter(report.reasons))
        assert not other.log, "not even a connection with a request"


def test_local_source_may_redirect_to_another_local_one(server, tmp_path, hasty):
    with serving() as other:
        server.answer = lambda r: http(302, Location=f"http://localhost:{other.port}{r.path}")
        assert run(server.source, tmp_path / "s.mbtiles", hasty).kept == 4


def test_same_server_may_redirect_to_itself(server, tmp_path, hasty, names):
    names["tiles.example"] = PRIVATE
    source = XyzSource.from_template(server.template.replace("127.0.0.1", "tiles.example"), {})
    server.answer = lambda r: http(200, tile_image(r.tile)) if "?" in r.path else http(302, Location=f"{r.path}?there")
    assert run(source, tmp_path / "s.mbtiles", replace(hasty, contact="me@example.org")).kept == 4


def test_guard_judges_addresses_not_names():
    guard = Guard(XyzSource.from_template("https://t{s}.example/{z}/{x}/{y}#subdomains=12", {}))
    assert guard.allowed("cdn.example", 443, [PUBLIC]) == [PUBLIC]
    assert guard.allowed("cdn.example", 443, [PRIVATE, PUBLIC, "::1"]) == [PUBLIC]
    for private in (PRIVATE, "::1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1%1"):
        with pytest.raises(PrivateAddressError, match="in a private network"):
            guard.allowed("cdn.example", 443, [private])
    assert guard.allowed("t1.example", 443, [PUBLIC]) == [PUBLIC]
    with pytest.raises(PrivateAddressError):
        guard.allowed("T1.example.", 443, [PRIVATE])  # it was public at first: its name was changed meanwhile
    assert guard.allowed("t2.example", 443, [PRIVATE]) == [PRIVATE]
    with pytest.raises(PrivateAddressError):
        guard.allowed("t2.example", 80, [PRIVATE])


def test_next_address_is_tried_where_one_does_not_answer(server, tmp_path, hasty, monkeypatch):
    real = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        return real("127.0.0.2", 9, *args, **kwargs)[:1] + real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert run(server.source, tmp_path / "s.mbtiles", replace(hasty, deadline_s=20.0)).kept == 4


@pytest.fixture
def no_proxies(monkeypatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5h://me:s3cret@127.0.0.1:9", "ALL_PROXY names a socks5h proxy, which needs .* socksio"),
        ("http_proxy", "socks4://me:s3cret@127.0.0.1:9", "http_proxy is not the address of a proxy"),
        ("HTTP_PROXY", "http://me:s3cret@[::1:9", "HTTP_PROXY is not the address of a proxy"),
        ("HTTP_PROXY", "http://", "HTTP_PROXY is not the address of a proxy"),
        ("http_proxy", "not a url", "http_proxy is not the address of a proxy"),
    ],
)
def test_proxy_that_cannot_be_used_is_one_line(server, tmp_path, hasty, no_proxies, name, value, words):
    real = __import__("importlib.util").util.find_spec
    no_proxies.setattr("importlib.util.find_spec", lambda n, *a: None if n == "socksio" else real(n, *a))
    no_proxies.setenv(name, value)
    with pytest.raises(SourceError, match=words) as caught:
        run(server.source, tmp_path / "s.mbtiles", hasty)
    assert "s3cret" not in str(caught.value)
    assert f"env -u {name}" in str(caught.value)
    assert not server.log


@pytest.mark.parametrize("exempt", ["localhost,fe80::/10,127.0.0.0/8", "127.0.0.1,::1/nonsense", "*", " 127.0.0.1 "])
def test_any_no_proxy_is_understood(server, tmp_path, hasty, no_proxies, exempt):
    no_proxies.setenv("NO_PROXY", exempt)
    no_proxies.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run(server.source, tmp_path / "s.mbtiles", hasty).kept == 4


def test_proxy_of_the_environment_is_used(server, tmp_path, hasty, no_proxies):
    no_proxies.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    source = XyzSource.from_template("http://tiles.example/{z}/{x}/{y}.png", {})
    assert run(source, tmp_path / "s.mbtiles", replace(hasty, contact="me@example.org")).kept == 4
    assert server.log[0].path.startswith("http://tiles.example/5/")


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """An https server with a certificate that nobody has signed; gives its port."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(image(1))

        def log_message(self, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *args: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_untrusted_certificate_ends_the_fetch_at_once(tmp_path, hasty, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with tls_server(tmp_path) as port:
        source = XyzSource.from_template(f"https://127.0.0.1:{port}/{{z}}/{{x}}/{{y}}.png", {})
        # With retries, the waits alone would be longer than the test may take.
        patient = replace(hasty, attempts=50, backoff_s=100.0, max_backoff_s=100.0)
        with pytest.raises(SourceError, match=r"certificate that is not trusted.*SSL_CERT_FILE"):
            run(source, tmp_path / "s.mbtiles", patient)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert run(source, tmp_path / "s.mbtiles", hasty).kept == 4


class _Plain(socketserver.BaseRequestHandler):
    """Answers whatever is sent, as servers without TLS answer a handshake."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_https_to_a_plain_server_ends_the_fetch_at_once(tmp_path, hasty):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Plain) as plain:
        threading.Thread(target=plain.serve_forever, args=(0.02,), daemon=True).start()
        source = XyzSource.from_template(f"https://127.0.0.1:{plain.server_address[1]}/{{z}}/{{x}}/{{y}}.png", {})
        with pytest.raises(SourceError, match="does not speak TLS there"):
            run(source, tmp_path / "s.mbtiles", replace(hasty, attempts=50, backoff_s=100.0, max_backoff_s=100.0))
        plain.shutdown()


@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_certificate_file_that_cannot_be_read_is_one_line(server, tmp_path, hasty, monkeypatch, content):
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(SourceError, match="SSL_CERT_FILE or SSL_CERT_DIR cannot be read"):
        run(server.source, tmp_path / "s.mbtiles", hasty)


def test_host_that_cannot_be_requested_is_one_line(tmp_path, hasty):
    source = XyzSource.from_template("http://a..b\u3002example/{z}/{x}/{y}.png", {})
    with pytest.raises(SourceError, match="check the host in the template"):
        run(source, tmp_path / "s.mbtiles", replace(hasty, contact="me@example.org"))


@pytest.mark.parametrize("status", [200, 302, 403, 500])
def test_no_query_is_shown_anywhere(server: TileServer, tmp_path, hasty, caplog, status):
    source = XyzSource.from_template(server.template + "?odd=s3cret&s3cret&x={x}", {})
    server.answer = lambda r: http(status, tile_image(r.tile), Location="/other?odd=s3cret" if status == 302 else "")
    path = tmp_path / "s.mbtiles"
    shown = ""
    with caplog.at_level(logging.DEBUG):
        try:
            report = run(source, path, replace(hasty, attempts=1))
            shown += repr(report)
        except SourceError as exc:
            shown += str(exc)
    assert "odd=s3cret" in server.log[0].path
    assert "s3cret" not in shown + caplog.text + repr(source)
    assert b"s3cret" not in path.read_bytes()
