"""Whatever Chromium there is, driven by Playwright: its own (`playwright install chromium`) or the system's."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_SYSTEMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """A headless browser; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need Playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        executable = own if Path(own).exists() else next(filter(None, map(shutil.which, _SYSTEMS)), None)
        if executable is None:
            pytest.skip("no Chromium: `playwright install chromium`, or Debian's package chromium")
        # Root in a container cannot use Chromium's sandbox; the pages are trusted.
        options = ["--no-sandbox", "--disable-gpu", *arguments]
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        try:
            yield browser
        finally:
            browser.close()


def drop(page: Any, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    """Drop a file on the page, as a browser does."""
    transfer = page.evaluate_handle(
        """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type}));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), name, kind],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def level(page: Any, wanted: str) -> Any:
    """Wait until the map shows this step."""
    return page.wait_for_selector(f'#map[data-level="{wanted}"]')
