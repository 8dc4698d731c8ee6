"""Another index in place of the one that serves, without an outage: `POST /index/reload` by an admin's key, or SIGHUP.

The new one is opened and must locate a picture before it is taken; what is in work ends on the old one, which is freed
with its last picture. One that is refused changes nothing. The key file is read and the audit file opened again, too.
"""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from retrieval.encoders.photo import PhotoLimits
from retrieval.errors import RetrievalError
from retrieval.index.manifest import Manifest
from retrieval.locator import Locator
from retrieval.pipeline import locate_group, prepare
from retrieval.search.query import LocateQuery
from service.access.admission import Admission, check_admin
from service.access.audit import Audit
from service.engine.inference import Inference, proof_picture
from service.errors import KeyFileError, ReloadError, SettingsError
from service.hangup import noted
from service.http.openapi import RELOAD

__all__ = ["Reloader", "Reopen", "reopening", "router"]

Reopen = Callable[[Locator], Locator]
"""Opens what is to be served next, given what serves now; raises RetrievalError."""
Follow = Callable[[Locator], Callable[[], None]]
"""Opens what else depends on the index, given the next one; what it returns takes that over. Raises SettingsError."""

_log = logging.getLogger("tilebeam.service")
router = APIRouter()


def reopening(directory: Path, device: str, prior: str | None = None) -> Reopen:
    """Opens a directory again: another index may have been put there by renaming. Equal encoders and priors are kept.

    `prior`: what is asked unless a question names another, as for `Locator.open`.
    """

    def reopen(old: Locator) -> Locator:
        manifest = Manifest.read(directory)
        if manifest.photo_encoder["fingerprint"] != old.encoder.fingerprint:
            return Locator.open(directory, device=device, prior=prior)
        # One of the index's own is no substitute for one of the same name that comes without files, nor the other way.
        before = old.index.manifest.priors
        alike = {n: asked.prior for n, asked in old.priors.by_name.items() if (n in before) == (n in manifest.priors)}
        return Locator.open(directory, device=device, encoder=old.encoder, prior=prior, kept=alike)

    return reopen


class Reloader:
    """Keys, audit file and index, taken anew: in this order, so that a bad index does not keep a lost key alive."""

    def __init__(
        self, inference: Inference, admission: Admission, audit: Audit, reopen: Reopen | None, follow: Follow
    ) -> None:
        self._inference, self._admission, self._audit = inference, admission, audit
        self._reopen, self._follow = reopen, follow
        self._turn = asyncio.Lock()

    async def reload(self) -> dict[str, Any]:
        """Take everything anew; returns ids before and after. Raises ReloadError, and then the old index serves on."""
        async with self._turn:
            before = _ids(self._inference.locator)
            try:
                self._admission.reload()
                self._audit.reopen()
                locator = await self._opened_apart()
                take_over = await asyncio.to_thread(self._follow, locator)
            except (RetrievalError, KeyFileError, SettingsError) as exc:
                _log.error("a reload was refused: %s", exc)
                raise ReloadError(f"{exc}; what was loaded serves on") from exc
            except OSError as exc:
                _log.exception("a reload was refused")
                raise ReloadError(f"a file cannot be opened ({exc.strerror}); what was loaded serves on") from exc
            self._inference.adopt(locator)
            take_over()
            after = _ids(locator)
            _log.info("reloaded", extra={"fields": after})
            return after | {"previous": before}

    async def _opened_apart(self) -> Locator:
        # In a thread that ends: OpenMP keeps threads for each that has used it, and those would be in the engine's way.
        passing = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-reload")
        try:
            running = asyncio.get_running_loop().run_in_executor(passing, self._opened, self._inference.locator)
            return await running
        finally:
            passing.shutdown(wait=False)

    def _opened(self, old: Locator) -> Locator:
        if self._reopen is None:
            raise ReloadError("this service was not told where its index lies; start it with `tilebeam serve`")
        locator = self._reopen(old)
        try:
            locate_group(locator, [prepare(locator, proof_picture(), PhotoLimits())], LocateQuery())
        except Exception as exc:
            _log.exception("the new index cannot locate a picture")
            raise ReloadError(
                "the new index cannot locate a picture; the log has the reason, the old one serves"
            ) from exc
        return locator

    @contextlib.contextmanager
    def on_hangup(self) -> Iterator[None]:
        """Reload at SIGHUP while the block runs, and at once where one came before. Told to a main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def hangup() -> None:
            task = loop.create_task(self._quietly())
            tasks.add(task)  # the loop itself keeps no task alive
            task.add_done_callback(tasks.discard)

        before, early = signal.getsignal(signal.SIGHUP), noted()
        loop.add_signal_handler(signal.SIGHUP, hangup)
        if early:
            hangup()
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, before)  # else one while requests end would end them

    async def _quietly(self) -> None:
        with contextlib.suppress(ReloadError):  # it is in the log
            await self.reload()


def _ids(locator: Locator) -> dict[str, Any]:
    about = locator.describe()
    return {"id": about["id"], "calibration_id": about["calibration_id"]}


@router.post("/index/reload", tags=["about"], summary="Load the index again", **RELOAD)
async def reload(request: Request) -> dict[str, Any]:
    """Open the index directory again and serve what lies there now; needs an admin's key. Nothing is interrupted."""
    check_admin(request.state.caller)
    reloader: Reloader = request.app.state.reloader
    return await reloader.reload()
