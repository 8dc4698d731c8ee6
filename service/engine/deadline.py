"""A bound on how long something may take in all, however steadily it goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import TooSlowError

__all__ = ["deadline"]


@asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """End the block after `seconds` with TooSlowError. A TimeoutError of the block's own passes as it is."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TooSlowError(f"{what} took longer than {seconds:g} s; try again later, or send less at once") from exc
