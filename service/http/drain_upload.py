"""Read the rest of an upload before an early answer, so that the client receives the answer.

If a server answers and closes while the request still arrives, the system resets the connection, and the client sees
"connection reset" instead of the answer. So the rest of the body is read and discarded first, for a limited time.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DrainUploadMiddleware:
    """Discards the unread rest of a request's body, for at most `seconds`, before the answer starts."""

    def __init__(self, app: ASGIApp, seconds: float = 1.0) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request and track how much of its body was read."""
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        body_ended = False

        async def receive_tracked() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def discard_rest() -> None:
            while not body_ended:
                await receive_tracked()

        async def send_after_upload(message: Message) -> None:
            if message["type"] == "http.response.start" and not body_ended:
                try:
                    await asyncio.wait_for(discard_rest(), self.seconds)
                except TimeoutError:
                    message = _with_close(message)
            await send(message)

        await self.app(scope, receive_tracked, send_after_upload)


def _has_body(scope: Scope) -> bool:
    """Whether a body will arrive. A client that expects 100-continue waits, so there is nothing to discard."""
    names = {name for name, _ in scope["headers"]}
    return bool(names & {b"content-length", b"transfer-encoding"}) and b"expect" not in names


def _with_close(message: Message) -> Message:
    return {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
