"""Under load: groups, limits, turns between lanes, and clients that disconnect."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from retrieval.locator import LocateQuery, Locator
from retrieval.pictures.photo import decode_photo
from retrieval.pipeline import decode, locate
from retrieval.testing.fake import FakePhotoEncoder
from service.engine.limits import Slots
from service.errors import OverloadedError

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def figure(url: str, name: str) -> float:
    """The value of one sample of /metrics; 0 before the first one."""
    sample = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(sample[1]) if sample else 0.0


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def singles(url: str) -> float:
    return figure(url, 'tilebeam_queue_images{lane="single"}')


def files_of(pictures: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]


class Held:
    """A service whose encoder holds one picture until `go_on`."""

    def __init__(self, url: str, locator: Locator, first: "Future[httpx.Response]", pool: ThreadPoolExecutor) -> None:
        self.url, self.encoder, self.first, self.pool = url, locator.encoder, first, pool

    def ask(self, data: bytes, query: str = "") -> "Future[httpx.Response]":
        return self.pool.submit(httpx.post, f"{self.url}/locate{query}", files={"image": data}, timeout=30)

    def go_on(self, groups: int = 100) -> None:
        self.encoder.steps.release(groups)  # type: ignore[attr-defined]


@pytest.fixture
def held(serving: Any, stepped: Any, make_picture: Picture) -> Any:
    """`with held(batch_size, **settings) as service`."""

    @contextmanager
    def hold(batch_size: int, **settings: Any) -> Any:
        encoder = stepped.encoder
        encoder.batch_size = batch_size
        with ExitStack() as stack:
            url = stack.enter_context(serving(stepped, **{"caller_share": 1.0} | settings))
            pool = stack.enter_context(ThreadPoolExecutor(16))
            stack.callback(encoder.steps.release, 1000)
            encoder.steps.release()
            assert httpx.get(f"{url}/readyz").status_code == 200
            assert encoder.waiting.acquire(timeout=10)
            first = pool.submit(httpx.post, f"{url}/locate", files={"image": make_picture(99)}, timeout=30)
            assert encoder.waiting.acquire(timeout=10)  # an idle encoder takes a single picture at once
            yield Held(url, stepped, first, pool)

    return hold


def test_group_forms_while_encoder_is_busy(held: Any, make_picture: Picture, locator: Locator) -> None:
    with held(8) as service:
        pending = [service.ask(make_picture(seed)) for seed in range(5)]
        until(lambda: singles(service.url) == 6)
        time.sleep(0.3)  # until the last one is decoded
        service.go_on()
        answers = [answer.result().json() for answer in [service.first, *pending]]
        assert figure(service.url, "tilebeam_batch_images_sum") == 7  # with the readiness inference
        assert figure(service.url, "tilebeam_batch_images_count") <= 4  # 3, unless one was slow to be decoded
        assert figure(service.url, 'tilebeam_stage_seconds_count{stage="wait"}') == 7
        assert figure(service.url, 'tilebeam_confidence_count{zoom="4"}') == 7
        until(lambda: figure(service.url, "tilebeam_requests_in_flight") == 1)
    for seed, answer in zip([99, *range(5)], answers, strict=True):
        pixels = locator.encoder.prepare(decode_photo(make_picture(seed)))[None]
        [expected] = locator.locate(locator.encoder.encode(pixels), LocateQuery())
        assert (answer["lat"], answer["lon"]) == pytest.approx((expected.lat, expected.lng), abs=1e-6)


def test_each_query_of_a_group_gets_its_own_answer(held: Any, make_picture: Picture) -> None:
    with held(8) as service:
        pending = [
            service.ask(make_picture(1), query) for query in ("?k=1", "?bbox=-150,83,-145,84", "?trace=1", "?k=1")
        ]
        until(lambda: singles(service.url) == 5)
        service.go_on()
        narrow, nowhere, traced, again = (answer.result() for answer in pending)
    assert [answer.status_code for answer in (narrow, nowhere, traced, again)] == [200, 422, 200, 200]
    assert "trace" in traced.json()
    assert "trace" not in narrow.json()
    assert narrow.json()["levels"] == again.json()["levels"]


def test_encoder_failure_affects_only_the_picture_that_causes_it(index_dir: Any, make_picture: Picture) -> None:
    class Picky(FakePhotoEncoder):
        def encode(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            if (batch == batch[:, :, :1, :1]).all(axis=(1, 2, 3)).any():
                raise RuntimeError("a picture of one colour")
            return super().encode(batch)

    locator = Locator.open(index_dir, encoder=Picky())
    good = decode(locator, make_picture(1))
    bad = decode(locator, make_picture(1, size=(1, 1)))
    other = decode(locator, make_picture(1), LocateQuery(k=8))
    found = locate([good, bad, other])
    assert [isinstance(outcome, RuntimeError) for outcome in found] == [False, True, False]


def test_encoder_that_gives_nan_is_a_fault_of_the_service(
    serving: Any, index_dir: Any, make_picture: Picture, check_problem: Problem
) -> None:
    class Broken(FakePhotoEncoder):
        def encode(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return super().encode(batch) * np.float32(np.nan)

    with serving(Locator.open(index_dir, encoder=Broken())) as url:
        answer = httpx.post(f"{url}/locate", files={"image": make_picture()})
        assert "finite" not in check_problem(answer, 500, "internal")
        assert httpx.get(f"{url}/readyz").status_code == 503


def test_engine_thread_failure_is_answered_and_next_request_works(
    serving: Any, locator: Locator, make_picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the engine thread reaches the waiting request, and the next request works."""
    files = {"image": make_picture()}
    with serving(locator) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        with monkeypatch.context() as broken:
            broken.setattr("service.engine.queue.locate", lambda *work: 1 / 0)
            assert httpx.post(f"{url}/locate", files=files).status_code == 500
        assert httpx.post(f"{url}/locate", files=files).status_code == 200


def test_single_picture_over_limit_is_rejected_with_retry_after(
    held: Any, make_picture: Picture, check_problem: Problem
) -> None:
    with held(8, max_queued_images=3, retry_after_s=2) as service:
        pending = [service.ask(make_picture(seed)) for seed in range(2)]
        until(lambda: singles(service.url) == 3)
        refused = service.ask(make_picture(9)).result()
        assert "3 images are in progress" in check_problem(refused, 503, "overloaded")
        assert 2 <= int(refused.headers["retry-after"]) <= 60
        assert figure(service.url, 'tilebeam_overloads_total{bound="images"}') == 1
        service.go_on()
        assert {answer.result().status_code for answer in [service.first, *pending]} == {200}
        assert service.ask(make_picture(9)).result().status_code == 200


def test_batch_leaves_slots_and_turns_to_single_pictures(held: Any, make_picture: Picture) -> None:
    with held(2, max_queued_images=8) as service:
        pictures = [make_picture(seed) for seed in range(30)]
        url = service.url
        batch = service.pool.submit(httpx.post, f"{url}/locate/batch", files=files_of(pictures), timeout=60)
        until(lambda: figure(url, 'tilebeam_queue_images{lane="batch"}') == 4)  # half of the slots
        pending = [service.ask(make_picture(50 + seed)) for seed in range(3)]
        until(lambda: singles(url) == 4)
        time.sleep(0.3)  # until the last one is decoded
        service.go_on(4)  # the first, and at most three groups of two, of which a picture or so is of the batch
        assert {answer.result(timeout=10).status_code for answer in [service.first, *pending]} == {200}
        assert not batch.done()
        service.go_on()
        lines = [json.loads(line) for line in batch.result().text.splitlines()]
        assert [line["index"] for line in lines] == list(range(30))
        assert all("result" in line for line in lines)
        assert figure(url, 'tilebeam_queue_images{lane="batch"}') == 0


def test_disconnect_frees_slot_of_single_picture(held: Any, make_picture: Picture) -> None:
    with held(2, max_in_flight=2) as service:
        host, port = service.url.removeprefix("http://").split(":")
        data = make_picture(1)
        head = b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        for left in (1, 2, 3):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head % len(data) + data)
                until(lambda: singles(service.url) == 2)
            until(lambda: singles(service.url) == 1)
            until(lambda left=left: figure(service.url, "tilebeam_departures_total") == left)
        last = service.ask(data)
        until(lambda: singles(service.url) == 2)
        service.go_on()
        assert (service.first.result().status_code, last.result().status_code) == (200, 200)
        assert figure(service.url, "tilebeam_images_total") == 3  # no picture of a disconnected client was encoded
        assert figure(service.url, 'tilebeam_requests_total{route="/locate",status="499"}') == 3


def test_batch_disconnect_frees_slots_while_encoder_is_busy(held: Any, make_picture: Picture) -> None:
    with held(2, max_queued_images=8, max_batches=1) as service:
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + make_picture(seed) + b"\r\n"
            for seed in range(30)
        )
        body += b"--x--\r\n"
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /locate/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            until(lambda: figure(service.url, 'tilebeam_queue_images{lane="batch"}') == 4)
        until(lambda: figure(service.url, 'tilebeam_queue_images{lane="batch"}') == 0)
        service.go_on()
        again = httpx.post(f"{service.url}/locate/batch", files=files_of([make_picture(1)]), timeout=30)
        assert "result" in again.json()
        assert figure(service.url, "tilebeam_images_total") == 3  # readiness, the first, and the one of this batch


def test_many_clients_get_answers_or_503_and_all_slots_are_freed(
    serving: Any, locator: Locator, make_picture: Picture
) -> None:
    with (
        serving(locator, max_queued_images=4, max_in_flight=8, caller_share=1.0) as url,
        ThreadPoolExecutor(24) as pool,
    ):
        ask = lambda seed: httpx.post(f"{url}/locate", files={"image": make_picture(seed)}, timeout=30)  # noqa: E731
        answers = list(pool.map(ask, range(60)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert sum(answer.status_code == 200 for answer in answers) >= 4
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)
        assert singles(url) == 0
        until(lambda: figure(url, "tilebeam_requests_in_flight") == 1)


def refusal(count: str) -> OverloadedError:
    return OverloadedError(count)


def test_slots_are_reserved_for_waiting_batch() -> None:
    async def run() -> None:
        slots = Slots(8, 1.0, refusal)
        with ExitStack() as held:
            for _ in range(6):
                held.enter_context(slots.for_single("a"))
            entered, leave = asyncio.Event(), asyncio.Event()

            async def batch() -> None:
                async with slots.for_batch("a", 4):
                    entered.set()
                    await leave.wait()

            task = asyncio.create_task(batch())
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError, match="6 images"):
                slots.check("a")  # two are free, but the batch needs four
            assert not entered.is_set()
            held.pop_all().close()
            await asyncio.wait_for(entered.wait(), 5)
            assert (slots.single, slots.batch) == (0, 4)
            leave.set()
            await task
        assert (slots.single, slots.batch) == (0, 0)

    asyncio.run(run())


def test_batches_enter_in_order_and_cancelled_ones_free_their_slots() -> None:
    async def run() -> None:
        slots, order = Slots(4, 1.0, refusal), []

        async def batch(number: int, count: int) -> None:
            async with slots.for_batch("a", count):
                order.append(number)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(batch(number, count)) for number, count in enumerate((2, 2, 1, 2, 1))]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2, 3]
        granted = asyncio.create_task(batch(9, 2))
        await asyncio.sleep(0)
        granted.cancel()  # its slots are granted, but it has not run yet
        await asyncio.gather(granted, return_exceptions=True)
        assert (slots.single, slots.batch) == (0, 0)
        slots.check("a")

    asyncio.run(run())
