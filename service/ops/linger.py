"""Let a client finish sending before it is told no.

A server that answers and closes while bytes of the request still arrive makes the system reset the connection, and
the client sees "connection reset" instead of the answer. So before an early answer goes out, what still arrives is
read and thrown away, for a bounded time.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LingerMiddleware"]


class LingerMiddleware:
    """Discard the rest of an unread request body, for at most `seconds`, before the answer starts."""

    def __init__(self, app: ASGIApp, seconds: float = 1.0) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, watching how much of its body was read."""
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        ended = False

        async def watch() -> Message:
            nonlocal ended
            message = await receive()
            ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def discard() -> None:
            while not ended:
                await watch()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                try:
                    await asyncio.wait_for(discard(), self.seconds)
                except TimeoutError:
                    message = _closing(message)
            await send(message)

        await self.app(scope, watch, answer)


def _has_body(scope: Scope) -> bool:
    """Whether a body is on its way. A client that expects 100-continue has not sent any and must not be asked to."""
    names = {name for name, _ in scope["headers"]}
    return bool(names & {b"content-length", b"transfer-encoding"}) and b"expect" not in names


def _closing(message: Message) -> Message:
    return {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
