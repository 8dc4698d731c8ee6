"""One caller never keeps the others out: uploads, batches, pictures, turns, expensive searches."""

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval.geo.region import Region
from retrieval.locator import LocateQuery, Locator
from retrieval.pipeline import decode, locate
from retrieval.search.deadline import Deadline
from service.access.addresses import client_of
from service.access.keys import add_key
from service.engine.limits import Slots
from service.engine.shares import Holding, Shares, TurnQueue, Turns
from service.errors import OverloadedError

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]
BATCH_HEAD = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'


@contextmanager
def upload(url: str, path: str, kind: str, key: str = "", source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection that has sent the headers of an upload, and none of its body."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n"
        head += f"X-API-Key: {key}\r\n" if key else ""
        connection.sendall(head.encode() + b"\r\n")
        yield connection


def overload(reached: str) -> OverloadedError:
    return OverloadedError(reached)


def in_flight(url: str, key: str) -> float:
    text = httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).text
    return float(text.split("\ntilebeam_requests_in_flight ")[1].split()[0])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str, str]:
    """A key file, and the keys of alice and bob."""
    file = tmp_path / "keys.json"
    return str(file), add_key(file, "alice", 0, admin=False), add_key(file, "bob", 0, admin=False)


def test_trickled_uploads_of_one_key_leave_the_others_served(
    serving: Any, locator: Locator, make_picture: Picture, keys: tuple[str, str, str]
) -> None:
    """64 uploads of one key once took every slot of `/locate`."""
    file, alice, bob = keys
    ask = lambda: httpx.post(f"{url}/locate", files={"image": make_picture()}, headers={"X-API-Key": bob}, timeout=60)  # noqa: E731
    with serving(locator, keys_file=file) as url, ExitStack() as stack:
        uploads = [stack.enter_context(upload(url, "/locate", "image/jpeg", alice)) for _ in range(64)]
        until(lambda: in_flight(url, bob) == 65)
        for _ in range(3):
            for connection in uploads:
                connection.sendall(b"a")
            assert ask().status_code == 200


def test_uploads_of_one_caller_are_bounded(
    serving: Any, locator: Locator, make_picture: Picture, keys: tuple[str, str, str], check_problem: Problem
) -> None:
    file, alice, bob = keys
    sent = {"files": {"image": make_picture()}, "timeout": 60}
    with serving(locator, keys_file=file, max_uploads=8) as url, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(upload(url, "/locate", "image/jpeg", alice))
        until(lambda: in_flight(url, bob) == 5)
        refused = httpx.post(f"{url}/locate", headers={"X-API-Key": alice}, **sent)
        assert "4 uploads of yours" in check_problem(refused, 503, "overloaded")
        assert httpx.post(f"{url}/locate", headers={"X-API-Key": bob}, **sent).status_code == 200


def test_batches_of_one_caller_are_bounded(
    serving: Any, locator: Locator, make_picture: Picture, keys: tuple[str, str, str], check_problem: Problem
) -> None:
    file, alice, bob = keys
    kind, sent = "multipart/form-data; boundary=x", {"files": [("images", ("a", make_picture()))], "timeout": 60}
    with serving(locator, keys_file=file) as url, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(upload(url, "/locate/batch", kind, alice)).sendall(BATCH_HEAD)
        until(lambda: in_flight(url, bob) == 3)
        refused = httpx.post(f"{url}/locate/batch", headers={"X-API-Key": alice}, **sent)
        assert "2 batch requests of yours" in check_problem(refused, 503, "overloaded")
        assert "result" in httpx.post(f"{url}/locate/batch", headers={"X-API-Key": bob}, **sent).json()


def test_addresses_without_a_key_are_callers_of_their_own(
    serving: Any, locator: Locator, make_picture: Picture
) -> None:
    with serving(locator, max_uploads=2) as url, ExitStack() as stack:
        stack.enter_context(upload(url, "/locate", "image/jpeg", source="127.0.0.2"))
        until(lambda: in_flight(url, "") == 2)
        data = make_picture()
        forged = {"X-Forwarded-For": "127.0.0.2"}
        assert httpx.post(f"{url}/locate", files={"image": data}, headers=forged).status_code == 200
        with upload(url, "/locate", "image/jpeg", source="127.0.0.2") as second:
            assert second.recv(4096).startswith(b"HTTP/1.1 503")


def test_client_address_is_taken_from_a_trusted_proxy(serving: Any, locator: Locator, make_picture: Picture) -> None:
    with serving(locator, max_uploads=2, trusted_proxies="127.0.0.1") as url, ExitStack() as stack:
        stack.enter_context(upload(url, "/locate", "image/jpeg"))
        until(lambda: in_flight(url, "") == 2)
        ask = lambda **headers: httpx.post(f"{url}/locate", files={"image": make_picture()}, headers=headers)  # noqa: E731
        assert ask().status_code == 503
        assert ask(**{"X-Forwarded-For": "192.0.2.7"}).status_code == 200


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_client_of_an_address(address: str, client: str) -> None:
    assert client_of(address) == client


@pytest.mark.parametrize("path", ["/locate", "/locate/batch"])
def test_trickled_upload_is_ended(serving: Any, locator: Locator, path: str) -> None:
    kind, head = ("image/jpeg", b"") if path == "/locate" else ("multipart/form-data; boundary=x", BATCH_HEAD)
    with serving(locator, client_timeout_s=0.5, min_upload_rate=1000.0) as url, upload(url, path, kind) as connection:
        connection.sendall(head)
        answer = b""
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                answer += connection.recv(4096)
                break
            except TimeoutError:
                connection.sendall(b"a")
        assert answer.startswith(b"HTTP/1.1 408")


def test_bytes_in_memory_are_bounded_and_freed(
    serving: Any, locator: Locator, make_picture: Picture, check_problem: Problem
) -> None:
    data = make_picture(1, "PNG", (400, 400))
    with serving(locator, max_upload_bytes=len(data) + 100, caller_share=1.0) as url, ExitStack() as stack:
        slow = stack.enter_context(upload(url, "/locate", "image/jpeg"))
        slow.sendall(b"a" * 500)
        until(lambda: in_flight(url, "") == 2)
        time.sleep(0.2)  # until its bytes are read
        refused = httpx.post(f"{url}/locate", content=data, headers={"Content-Type": "image/png"})
        assert "500 bytes of pictures are in progress" in check_problem(refused, 503, "overloaded")
        slow.close()
        until(lambda: in_flight(url, "") == 1)
        for _ in range(3):
            answer = httpx.post(f"{url}/locate", content=data, headers={"Content-Type": "image/png"})
            assert answer.status_code == 200


def test_share_is_at_least_one_and_is_given_back() -> None:
    shares = Shares(3, 0.5, "things", overload)
    shares.take("a")
    with pytest.raises(OverloadedError, match="1 things of yours are in progress, which is one caller's share"):
        shares.take("a")
    shares.take("b")
    shares.take("c")
    with pytest.raises(OverloadedError, match="3 things are in progress, which is the limit"):
        shares.take("d")
    for caller in "abc":
        shares.give_back(caller)
    holding = Holding(Shares(10, 0.5, "bytes", overload), "a")
    holding.take(2)
    holding.take(3)
    with pytest.raises(OverloadedError):
        holding.take(1)
    holding.release()
    holding.release()
    holding.take(5)


def test_callers_take_turns_and_keep_their_own_order() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for item in ("a1", "a2", "a3", "b1", "a4", "c1", "b2"):
        queue.add(item, item[0])
    queue.remove("a2", "a")
    queue.remove("a2", "a")
    taken = []
    while queue:
        first = queue.first()
        taken.append(queue.take())
        assert taken[-1] == first
    assert taken == ["a1", "b1", "c1", "a3", "b2", "a4"]


def test_a_caller_with_one_item_now_and_then_does_not_wait_for_those_that_send_many() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(40):
        queue.add(f"a{number}", "a")
        queue.add(f"b{number}", "b")
        queue.add(f"c{number}", "c")
    waited = []
    for number in range(8):
        [queue.take() for _ in range(7)]
        queue.add(f"other{number}", "other")
        waited.append(next(turn for turn in range(9) if queue.take().startswith("other")))
    assert max(waited) <= 1


def test_new_callers_keep_none_from_its_turn() -> None:
    queue: TurnQueue[str] = TurnQueue()
    queue.add("old1", "old")
    queue.add("old2", "old")
    queue.take()
    taken = []
    for number in range(8):
        queue.add(f"new{number}", f"new{number}")
        queue.add(f"newer{number}", f"newer{number}")
        taken.append(queue.take())
    assert "old2" in taken


def test_turns_survive_cancelled_waiters() -> None:
    async def run() -> None:
        turns, order = Turns(1), list[str]()

        async def work(name: str) -> None:
            async with turns.taken(name[0]):
                order.append(name)
                await asyncio.sleep(0)

        tasks = {name: asyncio.create_task(work(name)) for name in ("a1", "a2", "a3", "b1", "b2")}
        await asyncio.sleep(0)
        tasks["b1"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert order == ["a1", "a2", "b2", "a3"]
        async with asyncio.timeout(5), turns.taken("c"):
            waiting = asyncio.create_task(work("d1"))
            await asyncio.sleep(0)
            late = asyncio.create_task(work("e1"))
            await asyncio.sleep(0)
        waiting.cancel()  # it is its turn by now
        await asyncio.gather(waiting, late, return_exceptions=True)
        assert order[4:] in (["e1"], ["d1", "e1"])

    asyncio.run(run())


def test_batch_over_its_share_does_not_hold_up_the_batch_of_another() -> None:
    async def run() -> None:
        slots = Slots(8, 0.5, overload)
        async with slots.for_batch("a", 2), slots.for_batch("a", 2):
            more = asyncio.create_task(slots.for_batch("a", 2).__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError, match="4 images of yours"):
                slots.check("a")
            slots.check("b")
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
        assert (slots.single, slots.batch) == (0, 0)

    asyncio.run(run())


def star(spikes: int, lng: float, lat: float) -> str:
    """A valid polygon of so many spikes around a point, as GeoJSON."""
    corners = []
    for corner in range(2 * spikes):
        angle, radius = math.pi * corner / spikes, 40 if corner % 2 else 5
        corners.append([round(lng + radius * math.cos(angle), 2), round(lat + radius * math.sin(angle), 2)])
    return json.dumps({"type": "Polygon", "coordinates": [[*corners, corners[0]]]}, separators=(",", ":"))


def test_point_inside_a_spiky_region_needs_no_exact_intersection(
    locator: Locator, make_picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact intersections of one picture's tiles with 1,100 spikes once took 2.7 s of the engine."""
    data = make_picture(3)
    [plain] = locate([decode(locator, data)])
    assert isinstance(plain, dict)
    region = Region.of_geojson(star(450, plain["lon"] / 2, plain["lat"] / 4))
    exact = []
    monkeypatch.setattr(Region, "_inside_exactly", lambda self, box: exact.append(box))
    query = LocateQuery(within=region, k=256)
    [answer] = locate([decode(locator, data, query)])
    assert isinstance(answer, dict), answer
    assert region.contains(*([answer[name]] for name in ("lon", "lat")))[0]
    assert exact == []


def test_expensive_search_is_a_group_of_its_own(serving: Any, stepped: Any, make_picture: Picture) -> None:
    encoder, sizes = stepped.encoder, list[int]()
    encoder.batch_size = 8
    original = encoder.encode
    encoder.encode = lambda batch: (sizes.append(len(batch)), original(batch))[1]
    with serving(stepped) as url, httpx.Client(base_url=url, timeout=60) as http:
        encoder.steps.release(1000)
        assert http.get("/readyz").status_code == 200
        sizes.clear()
        files = [("images", (str(seed), make_picture(seed))) for seed in range(6)]
        params = {"within": star(450, 0, 0)}
        assert http.post("/locate/batch", files=files, params=params).text.count("\n") == 6
        assert sizes == [1] * 6
    assert not locator_plan(stepped, LocateQuery()).is_expensive
    square = Region.of_geojson('{"type":"Polygon","coordinates":[[[0,0],[9,0],[9,9],[0,0]]]}')
    assert not locator_plan(stepped, LocateQuery(within=square)).is_expensive
    assert locator_plan(stepped, LocateQuery(within=square, k=1024)).is_expensive


def test_expensive_search_holds_up_no_other_picture(serving: Any, stepped: Any, make_picture: Picture) -> None:
    encoder, original = stepped.encoder, stepped.encoder.encode
    begun, held = threading.Event(), threading.Event()

    def encode(batch: Any) -> Any:
        if threading.current_thread().name.startswith("tilebeam-expensive"):
            begun.set()
            assert held.wait(30)
        return original(batch)

    encoder.encode = encode
    with serving(stepped) as url, ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, timeout=60) as http:
        encoder.steps.release(1000)
        try:
            params, data = {"within": star(450, 0, 0), "k": 1024}, make_picture(1)
            expensive = pool.submit(httpx.post, f"{url}/locate", params=params, files={"image": data}, timeout=60)
            assert begun.wait(30)
            assert http.post("/locate", files={"image": data}).status_code == 200
            assert not expensive.done()
        finally:
            held.set()
        assert expensive.result().status_code == 200


def locator_plan(locator: Locator, query: LocateQuery) -> Any:
    return locator.plan(query)


def test_search_over_its_time_is_503_and_does_not_end_readiness(
    serving: Any, locator: Locator, make_picture: Picture, check_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(locator, search_timeout_s=5.0) as url, httpx.Client(base_url=url, timeout=60) as http:
        assert http.get("/readyz").status_code == 200
        with monkeypatch.context() as over:
            over.setattr(Deadline, "after", classmethod(lambda cls, seconds: cls(-math.inf, seconds)))
            late = http.post("/locate", files={"image": make_picture()})
            assert "longer than 5 s" in check_problem(late, 503, "too-slow")
            line = http.post("/locate/batch", files=[("images", ("a", make_picture()))]).json()
            assert line["error"]["type"].endswith("too-slow")
        assert http.post("/locate", files={"image": make_picture()}).status_code == 200
        assert "readiness inference failed" not in http.get("/readyz").text
    assert late.headers["retry-after"] == "1"
