"""HEAD and OPTIONS for every route, without a place in the OpenAPI document. Knows nothing of what the routes do."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ORDER = ("GET", "HEAD", "POST", "OPTIONS")


class MethodsMiddleware:
    """Answers HEAD as GET without the body, OPTIONS with the methods that a path has, and names them in each 405."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = self._methods(scope) if scope["method"] in ("HEAD", "OPTIONS") else set()
        if scope["method"] == "OPTIONS" and own:
            await Response(status_code=204, headers={"Allow": _listed(own)})(scope, receive, send)
            return
        is_head, asked = "GET" in own, dict(scope)  # a folder of files changes its scope

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                others = [pair for pair in message["headers"] if pair[0].lower() != b"allow"]
                allowed = _listed(self._methods(asked)).encode()
                message = {**message, "headers": [*others, (b"allow", allowed)]}
            elif message["type"] == "http.response.body" and is_head:
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"} if is_head else scope, receive, send_changed)

    def _methods(self, scope: Scope) -> set[str]:
        """The methods of the routes with this path; a folder of files has GET."""
        methods: set[str] = set()
        for route in self._routes:
            if isinstance(route, Route | Mount) and route.matches(scope)[0] is not Match.NONE:
                methods |= {"GET"} if isinstance(route, Mount) else (route.methods or set())
        return methods


def _listed(methods: set[str]) -> str:
    every = methods | ({"HEAD"} if "GET" in methods else set()) | {"OPTIONS"}
    return ", ".join(sorted(every, key=_ORDER.index))
