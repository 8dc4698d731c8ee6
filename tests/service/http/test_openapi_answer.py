"""The route of the OpenAPI document: made once, however many ask at the same time."""

import asyncio
import time
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from service.http.openapi import PATH, answer


def test_description_is_made_once_and_outside_the_event_loop() -> None:
    calls = list[float]()

    def described() -> dict[str, Any]:
        calls.append(time.monotonic())
        time.sleep(0.2)
        return {"openapi": "3.1.0", "info": {"title": "Ä"}}

    app = Starlette(routes=[Route(PATH, answer(described))])

    async def ask() -> tuple[list[httpx.Response], int]:
        transport, turns = httpx.ASGITransport(app), 0
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            asking = asyncio.gather(*(http.get(PATH) for _ in range(20)))
            while not asking.done():
                turns += 1
                await asyncio.sleep(0.001)
            return await asking, turns

    responses, turns = asyncio.run(ask())
    assert len(calls) == 1
    assert turns > 5  # the loop went on while the document was made
    assert {response.content for response in responses} == {'{"openapi":"3.1.0","info":{"title":"Ä"}}'.encode()}
    assert responses[0].headers["content-type"] == "application/json"
