"""Fixtures: a real index, locator and server on loopback, with the fake encoder of `retrieval.testing`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from retrieval.locator import Locator
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index
from service.app import create_app
from service.serving import listen
from service.serving import server as make_server
from service.settings import Settings

ZOOMS = (4, 6, 8)


def picture(seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (48, 32)) -> bytes:
    """A picture of random patches; different seeds give different embeddings."""
    patches = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(out, kind)
    return out.getvalue()


class SteppedEncoder(FakePhotoEncoder):
    """The fake encoder, but each call of `encode` waits until the test lets it pass."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps = threading.Semaphore(0)
        self.waiting = threading.Semaphore(0)
        self.failing = False

    def encode(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.waiting.release()
        if not self.steps.acquire(timeout=20):
            raise TimeoutError("the test did not let the encoder continue")
        if self.failing:
            raise RuntimeError("secret internals of the encoder")
        return super().encode(batch)


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("index")
    write_fake_index(directory, fake_pyramid(7, ZOOMS, 32, tiles=300))
    return directory


@pytest.fixture(scope="session")
def engine_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random pyramid with a real, tiny open_clip encoder in it, as `tilebeam index` would leave it."""
    import torch

    from retrieval.encoders.open_clip import PhotoEncoder, build_tower
    from retrieval.encoders.preprocess import Preprocess
    from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index

    directory = tmp_path_factory.mktemp("engine")
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    architecture = {"embed_dim": 16, "vision_cfg": vision, "quick_gelu": False}
    half = (0.5, 0.5, 0.5)
    torch.manual_seed(0)
    encoder = PhotoEncoder("tiny", build_tower(architecture), Preprocess(32, half, half), architecture, "cpu")
    encoder.save(directory / "encoders")
    described = FakePhotoEncoder(16)
    described.describe = encoder.describe  # type: ignore[method-assign]
    write_fake_index(directory, fake_pyramid(3, (4, 6), 16), photo=described)
    return directory


@pytest.fixture(scope="session")
def locator(index_dir: Path) -> Locator:
    return Locator.open(index_dir, encoder=FakePhotoEncoder())


@pytest.fixture
def stepped(index_dir: Path) -> Locator:
    return Locator.open(index_dir, encoder=SteppedEncoder(batch_size=2))


Serving = Callable[..., AbstractContextManager[str]]


@contextmanager
def _serving(locator: Locator, *, reopen: Callable[[Locator], Locator] | None = None, **settings: Any) -> Iterator[str]:
    listener = listen("127.0.0.1", 0)
    # Off unless a test wants it: no other test should load the built-in Earth.
    app = create_app(Settings(**{"registration": "off"} | settings), locator, reopen)
    server = make_server(app, Settings(**{"shutdown_timeout_s": 1} | settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        encoder = locator.encoder
        if isinstance(encoder, SteppedEncoder):
            encoder.steps.release(1000)
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def serving() -> Serving:
    """`with serving(locator, max_image_bytes=...) as url`: a new uvicorn server on a free port."""
    return _serving


@pytest.fixture(scope="session")
def url(locator: Locator) -> Iterator[str]:
    """A service with default settings, shared by tests that do not change it."""
    with _serving(locator) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client


def problem(response: httpx.Response, status: int, slug: str) -> str:
    """Assert that a response is the expected problem document; returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert (body["status"], body["type"]) == (status, f"urn:tilebeam:problem:{slug}")
    return str(body["detail"])


@pytest.fixture(scope="session")
def check_problem() -> Callable[[httpx.Response, int, str], str]:
    return problem


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    return picture
