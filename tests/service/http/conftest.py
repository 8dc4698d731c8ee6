"""Fixtures for tests of the page: a browser, a service with a map, and a page without errors and foreign requests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chromium import launched
from maps import one_tile_map


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(serving: Any, locator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service with the fake index, on a map of one grey tile."""
    with serving(locator, tiles=str(one_tile_map(tmp_path_factory.mktemp("map")))) as url:
        yield url


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Opens a page and waits until it is ready. No page may have an error, or a request to another host."""
    opened, problems = [], []

    def visit(path: str = "/", ready: str = "body[data-ready]", site: str = site, **options: Any) -> Any:
        context = browser.new_context(
            **{"reduced_motion": "reduce", "viewport": {"width": 1200, "height": 800}} | options
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith((site, "blob:", "data:")) else None)
        page.goto(site + path)
        page.wait_for_selector(ready, state="attached")
        opened.append(context)
        return page

    yield visit
    for context in opened:
        context.close()
    assert problems == []
