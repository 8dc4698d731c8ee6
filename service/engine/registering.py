"""Registers pictures after their search, in a thread of its own, so that plain requests never wait for it.

What waits is bounded: in all and per caller for pictures sent alone, by the slots of batches for the others. Callers
take turns. With `register=auto` a picture is answered without registration, and with the reason, where it would have to
wait for a place in line or for the reference to be loaded. It knows nothing of routes.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from retrieval.attempt import Attempt
from retrieval.errors import NoReferenceError
from retrieval.index.manifest import Manifest
from retrieval.locator import Locator
from retrieval.pipeline import DecodedPicture, Outcome, Searched, turned_answers, turned_pictures
from retrieval.registrar import Registrar
from retrieval.search.answer import Answer
from retrieval.search.deadline import Deadline
from service.engine.queue import Lane
from service.engine.shares import Overload, Shares, Turns
from service.engine.watch import Watch
from service.errors import NotReadyError, OverloadedError
from service.ops.metrics import Metrics
from service.settings import Settings

__all__ = ["Registering"]

_SWITCHED_OFF = "the operator has switched registration off"
_LOADING = "what pictures are compared with is still being loaded"
_FAILED = "the registration failed; the service's log has the reason"
_RELOADED = "another index was loaded while the picture was searched"
_log = logging.getLogger("tilebeam.service")

Submit = Callable[[Sequence[DecodedPicture], str, Lane], "Sequence[Awaitable[Outcome]]"]
_T = TypeVar("_T")
_Begun = tuple[Attempt, Sequence[float], list[DecodedPicture]]


@dataclass(frozen=True)
class _Stoppable(Deadline):
    """A deadline that another thread brings forward to now by setting `stopped`."""

    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether the time is over, or somebody has stopped it."""
        return self.stopped.is_set() or super().is_over


class Registering:
    """The thread, and what it compares pictures with. Used on the event loop.

    `registrar`: that of the loaded index. `submit`: queues pictures for the encoder, see `ImageQueue.submit`.
    """

    def __init__(
        self, locator: Locator, settings: Settings, metrics: Metrics, watch: Watch, overload: Overload, submit: Submit
    ) -> None:
        self._settings, self._metrics, self._watch, self._submit = settings, metrics, watch, submit
        self.places = Shares(settings.max_registering, settings.caller_share, "pictures to register", overload)
        metrics.read_registering_from(lambda: self.places.held)
        self._turns = Turns(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-register")
        self._loading: asyncio.Future[None] | None = None
        self._locator, self.registrar = locator, self._registrar_of(locator)

    def load(self) -> None:
        """Begin to read what pictures are compared with, unless it is there or was begun. Call it on the event loop."""
        if self._loading is None and self.registrar.why_not is None and not self.registrar.is_loaded:
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(self._thread, self._load, self.registrar)

    def adopt(self, locator: Locator) -> None:
        """Register pictures of this locator from now on. The built-in Earth is kept if the new index has it too."""
        old, new = self._locator.index.manifest, locator.index.manifest
        if _compared_with(old) != _compared_with(new):
            self.registrar, self._loading = self._registrar_of(locator), None
        self._locator = locator
        self.load()

    def check(self, caller: str) -> None:
        """Raise OverloadedError if a picture of this caller that must be registered would be rejected now."""
        self.places.check(caller)

    async def answer(self, searched: Searched, caller: str, lane: Lane, *, in_time: bool = True) -> dict[str, Any]:
        """The answer for a picture after its registration, or without it and with the reason.

        `in_time`: whether there is time; otherwise only `register=on` is registered. Raises OverloadedError and
        NotReadyError with `register=on` only, and what the engine raises.
        """
        is_asked = searched.picture.plan.register == "on"
        reason = None
        if searched.picture.locator is not self._locator:
            reason = _RELOADED
        elif self.registrar.why_not is not None:
            reason = self.registrar.why_not
        elif not is_asked and not self.registrar.is_loaded:
            reason = _LOADING
        elif not is_asked and not in_time:
            reason = "the pictures of this batch take too long to register; send register=on, or this one alone"
        if reason is not None and is_asked:
            raise NotReadyError(f"the picture cannot be registered: {reason}; try again later")
        if reason is None:
            try:
                return await self._admitted(searched, caller, lane)
            except OverloadedError as error:
                if is_asked:
                    raise
                reason = str(error)
        return self._without(searched, reason)

    def close(self) -> None:
        """Finish the running step, drop what waits, and stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _admitted(self, searched: Searched, caller: str, lane: Lane) -> dict[str, Any]:
        if lane == "batch":  # bounded by the groups of batches that are in progress
            return await self._in_turn(searched, caller, lane)
        with self.places.taken(caller):
            return await self._in_turn(searched, caller, lane)

    async def _in_turn(self, searched: Searched, caller: str, lane: Lane) -> dict[str, Any]:
        self.load()
        stop = threading.Event()
        async with self._turns.taken(f"{lane} {caller}"):
            try:
                return await self._steps(searched, caller, stop)
            except asyncio.CancelledError:
                stop.set()  # so that the thread is free for the next picture
                raise
            except Exception as exc:
                if searched.picture.plan.register == "on" and isinstance(exc, NoReferenceError):
                    raise NotReadyError(f"{exc}; try again later") from exc
                if searched.picture.plan.register == "on":
                    raise
                _log.exception("a registration failed")
        return self._without(searched, _FAILED)

    async def _steps(self, searched: Searched, caller: str, stop: threading.Event) -> dict[str, Any]:
        attempt, turns, turned = await self._in_thread(self._begin, searched, stop)
        outcomes = await asyncio.gather(*self._submit(turned, caller, "batch")) if turned else ()
        answer = await self._in_thread(self._end, searched, attempt, turned_answers(turns, outcomes))
        self._metrics.count_registration("accepted" if answer["registration"]["accepted"] else "rejected")
        return answer

    def _without(self, searched: Searched, reason: str) -> dict[str, Any]:
        self._metrics.count_registration("skipped")
        return searched.unregistered(reason)

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watched, work, *arguments)

    def _watched(self, work: Callable[..., _T], *arguments: Any) -> _T:
        with self._watch.running("the registration of a picture", 2 * self._settings.registration_timeout_s):
            return work(*arguments)

    def _begin(self, searched: Searched, stop: threading.Event) -> _Begun:
        """In the thread: search around the answer; then the headings to search next, and the pictures for them."""
        seconds = self._settings.registration_timeout_s
        deadline = _Stoppable(time.monotonic() + seconds, seconds, stop)
        attempt = searched.attempt(self.registrar, deadline)
        attempt.search_upright()
        turns = attempt.turns
        return attempt, turns, turned_pictures(searched.picture, turns)

    def _end(self, searched: Searched, attempt: Attempt, found: list[tuple[float, Answer]]) -> dict[str, Any]:
        """In the thread: search around what was found for the turned picture, and answer."""
        attempt.search_turned(found)
        if self._settings.register_anywhere:
            attempt.search_everywhere()
        return searched.registered(attempt)

    def _load(self, registrar: Registrar) -> None:
        """In the thread."""
        try:
            registrar.load()
        except Exception:
            _log.exception("what pictures are compared with cannot be loaded")
            self.registrar = Registrar(None, "what pictures are compared with cannot be loaded")

    def _registrar_of(self, locator: Locator) -> Registrar:
        if self._settings.registration == "off":
            return Registrar(None, _SWITCHED_OFF)
        return Registrar.of(locator.index.manifest, self._settings.tiles, self._settings.canvas_memory)


def _compared_with(manifest: Manifest) -> tuple[Any, ...]:
    """What decides an index's registrar."""
    return manifest.source["identity"], [entry.zoom for entry in manifest.zooms], manifest.viewpoint
