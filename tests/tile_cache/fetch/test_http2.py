"""HTTP/2 with a TLS server that speaks only HTTP/2, with hanging streams and closing connections."""

import asyncio
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from loopback import tile_image

from tile_cache.addressing import Tile, tile_of_code
from tile_cache.fetch.client import FetchReport, FetchSettings, fetch
from tile_cache.mbtiles import TileStore
from tile_cache.xyz import XyzSource

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the server's certificate")

Z = 6
TILES = 60


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate for localhost that the fetcher trusts during the test."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *request.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return context


class Http2Server:
    """Answers with `tile_image`. The 5th stream hangs; after 20 answers, the first connection closes."""

    def __init__(self) -> None:
        self.connections = 0
        self.streams = 0
        self.hung: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        link.initiate_connection()
        answered, first = 0, self.connections == 1
        writer.write(link.data_to_send())
        while data := await reader.read(65536):
            for event in link.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    answered += self.answer(link, event)
            if first and answered >= 20:
                link.close_connection()
            writer.write(link.data_to_send())
            if first and answered >= 20:
                break
        writer.close()

    def answer(self, link: h2.connection.H2Connection, event: h2.events.RequestReceived) -> bool:
        self.streams += 1
        path = dict(event.headers)[b":path"].decode()
        if self.streams == 5:
            self.hung.append(path)
            return False
        z, x, y = path.removesuffix(".png").split("/")[-3:]
        body = tile_image(Tile(int(x), int(y), int(z)))
        link.send_headers(event.stream_id, [(":status", "200"), ("content-type", "image/png")])
        link.send_data(event.stream_id, body, end_stream=True)
        return True


def test_streams_share_a_connection_and_fail_independently(tls, tmp_path, hasty):
    server = Http2Server()

    async def all_of_it(settings: FetchSettings) -> FetchReport:
        listening = await asyncio.start_server(server.serve, "localhost", 0, ssl=tls)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            source = XyzSource.from_template(f"https://localhost:{port}/{{z}}/{{x}}/{{y}}.png", {})
            with TileStore.open(tmp_path / "cache.mbtiles", source.info) as store:
                report = await fetch(source, store, [(Z, np.arange(TILES, dtype=np.uint64))], settings)
                for c in range(TILES):
                    assert store.read(tile_of_code(c, Z)) == tile_image(tile_of_code(c, Z))
        return report

    report = asyncio.run(all_of_it(replace(hasty, deadline_s=1.5)))
    assert (report.kept, report.failed) == (TILES, 0)
    assert report.retries >= 1
    assert len(server.hung) == 1
    assert server.connections < TILES / 4, "requests share connections"
