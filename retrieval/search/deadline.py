"""A time limit for one search: the loops whose length a caller chooses check it. Knows nothing of what they compute."""

import math
import time
from dataclasses import dataclass

from retrieval.errors import SearchTimeoutError

__all__ = ["NO_DEADLINE", "Deadline"]


@dataclass(frozen=True)
class Deadline:
    """The end of a search, `at` by the monotonic clock; `seconds`: how long it was allowed to take."""

    at: float = math.inf
    seconds: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline so many seconds from now."""
        return cls(time.monotonic() + seconds, seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is over, for work that stops with what it has."""
        return time.monotonic() > self.at

    def check(self) -> None:
        """Raise SearchTimeoutError if the time is over."""
        if self.is_over:
            raise SearchTimeoutError(
                f"the search took longer than {self.seconds:g} s and was ended; use a smaller k or a simpler region"
            )


NO_DEADLINE = Deadline()
