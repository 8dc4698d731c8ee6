"""Load another index without an outage: `POST /index/reload` with an admin's key, or SIGHUP.

The new index must locate a test picture before it replaces the old one. Pictures in progress finish with the old
index, which is then freed. If the new index is refused, the old one stays in use. The key file is read again and the
audit file is opened again, too.
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

from retrieval.errors import RetrievalError
from retrieval.index.manifest import Manifest
from retrieval.locator import Locator
from retrieval.pipeline import locate_picture
from retrieval.search.query import LocateQuery
from service.access.admission import Admission, check_admin
from service.access.audit import Audit
from service.engine.inference import Inference, sample_picture
from service.errors import KeyFileError, ReloadError, ServiceError, SettingsError
from service.http.openapi import RELOAD
from service.serving import hangup_was_remembered

Reopen = Callable[[Locator], Locator]
"""Opens the next locator, given the current one; raises RetrievalError."""
Prepare = Callable[[Locator], Callable[[], None]]
"""Opens everything else that depends on the index; returns a function that puts it in use. Raises SettingsError."""

_log = logging.getLogger("tilebeam.service")
router = APIRouter()


def reopening(directory: Path, device: str, prior: str | None = None, *, allow_download: bool = False) -> Reopen:
    """A function that opens the directory again, where another index may lie by now; reuses equal encoders and priors.

    `prior`: name of the default prior, `allow_download`: as for `Locator.open`.
    """

    def reopen(old: Locator) -> Locator:
        manifest = Manifest.read(directory)
        if manifest.photo_encoder["fingerprint"] != old.encoder.fingerprint:
            return Locator.open(directory, device=device, prior=prior, allow_download=allow_download)
        # A prior of the index and a prior without files may have the same name but are different priors.
        before = old.index.manifest.priors
        alike = {n: asked.prior for n, asked in old.priors.by_name.items() if (n in before) == (n in manifest.priors)}
        return Locator.open(
            directory,
            device=device,
            encoder=old.encoder,
            prior=prior,
            reuse_priors=alike,
            allow_download=allow_download,
        )

    return reopen


class Reloader:
    """Reloads keys, audit file and index, in this order: a bad index must not keep a revoked key valid."""

    def __init__(
        self, inference: Inference, admission: Admission, audit: Audit, reopen: Reopen | None, prepare: Prepare
    ) -> None:
        self._inference, self._admission, self._audit = inference, admission, audit
        self._reopen, self._prepare = reopen, prepare
        self._lock = asyncio.Lock()

    async def reload(self) -> dict[str, Any]:
        """Reload everything; returns the new and the previous ids. After a ReloadError the old index is in use."""
        async with self._lock:
            before = _ids(self._inference.locator)
            try:
                self._admission.reload()
                self._audit.reopen()
                locator = await self._open_in_thread()
                put_in_use = await asyncio.to_thread(self._prepare, locator)
            except (RetrievalError, KeyFileError, SettingsError) as exc:
                _log.error("reload refused: %s", exc)
                raise ReloadError(f"{exc}; the old index stays in use") from exc
            except OSError as exc:
                _log.exception("reload refused")
                raise ReloadError(f"a file cannot be opened ({exc.strerror}); the old index stays in use") from exc
            except ServiceError:
                raise
            except Exception as exc:  # whatever the new index makes the libraries raise
                _log.exception("reload refused")
                raise ReloadError(
                    "what was to be loaded cannot be opened; the log has the reason, the old index stays in use"
                ) from exc
            self._inference.adopt(locator)
            put_in_use()
            after = _ids(locator)
            _log.info("reloaded", extra={"fields": after})
            return after | {"previous": before}

    async def _open_in_thread(self) -> Locator:
        # In a thread that ends: OpenMP keeps a pool for each thread that used it, which would slow down the engine.
        executor = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-reload")
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, self._open, self._inference.locator)
        finally:
            executor.shutdown(wait=False)

    def _open(self, old: Locator) -> Locator:
        if self._reopen is None:
            raise ReloadError("this service does not know its index directory; start it with `tilebeam serve`")
        locator = self._reopen(old)
        try:
            locate_picture(locator, sample_picture(), LocateQuery(register="off"))
        except Exception as exc:
            _log.exception("the new index cannot locate a picture")
            raise ReloadError(
                "the new index cannot locate a picture; the log has the reason, the old index stays in use"
            ) from exc
        return locator

    @contextlib.contextmanager
    def on_hangup(self) -> Iterator[None]:
        """Reload on SIGHUP while the block runs, or at once if one arrived before. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def hangup() -> None:
            task = loop.create_task(self._reload_and_log())
            tasks.add(task)  # the loop holds only weak references to tasks
            task.add_done_callback(tasks.discard)

        before, early = signal.getsignal(signal.SIGHUP), hangup_was_remembered()
        loop.add_signal_handler(signal.SIGHUP, hangup)
        if early:
            hangup()
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, before)  # otherwise a SIGHUP during shutdown would end the process

    async def _reload_and_log(self) -> None:
        with contextlib.suppress(ReloadError):  # `reload` has logged it
            await self.reload()


def _ids(locator: Locator) -> dict[str, Any]:
    about = locator.describe()
    return {"id": about["id"], "calibration_id": about["calibration_id"]}


@router.post("/index/reload", tags=["about"], summary="Load the index again", **RELOAD)
async def reload(request: Request) -> dict[str, Any]:
    """Open the index directory again and use the index found there; needs an admin's key. No request is interrupted."""
    check_admin(request.state.caller)
    reloader: Reloader = request.app.state.reloader
    return await reloader.reload()
