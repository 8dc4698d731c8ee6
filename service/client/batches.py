"""A batch as one request or several: what to send next, after answers, refusals and dropped connections.

Both clients use it; it sends nothing itself. Answers come in the order of the pictures. A request that is too large for
the service, or for a proxy before it, is halved until it is taken; a single picture that is refused gets an error line.
After a dropped connection only the pictures without an answer are sent again.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.client.failures import Attempts, Failure, object_of
from service.client.photos import Upload, form_size
from service.errors import ClientError, problem_of

__all__ = ["Batch", "Group", "Refused", "described"]

_BOUNDARY_BYTES = 16


@dataclass
class Refused:
    """The size of the smallest request that was refused as too large, in bytes; shared by all batches of a client."""

    smallest: float = float("inf")


@dataclass
class Group:
    """The pictures of one request, and how many of them have their answer."""

    uploads: Sequence[Upload]
    boundary: str = field(default_factory=lambda: secrets.token_hex(_BOUNDARY_BYTES))
    answered: int = 0

    @property
    def size(self) -> int:
        """Bytes of the request's body."""
        return form_size(self.uploads, self.boundary)

    @property
    def headers(self) -> dict[str, str]:
        """Type and length. A proxy can refuse a body whose length it knows before it arrives."""
        kind = f"multipart/form-data; boundary={self.boundary}"
        return {"Content-Type": kind, "Content-Length": str(self.size)}


class Batch:
    """The requests for some pictures. `attempts` makes a new count of tries, for each picture that was answered."""

    def __init__(self, url: str, uploads: Sequence[Upload], refused: Refused, attempts: Callable[[], Attempts]) -> None:
        self._url, self._refused, self._new_attempts = url, refused, attempts
        self._attempts = attempts()
        self._pending = [uploads] if uploads else []

    def next_group(self) -> Group | None:
        """The next pictures to send; None if all have an answer."""
        while self._pending:
            group = Group(self._pending.pop())
            if len(group.uploads) == 1 or group.size < self._refused.smallest:
                return group
            self._halve(group.uploads)
        return None

    def line(self, group: Group, text: str) -> dict[str, Any]:
        """A line of the answer. Raises ClientError if it is not one."""
        line = object_of(self._url, text)
        if group.answered == len(group.uploads):
            raise ClientError(f"{self._url} answered more pictures than were sent; is it a Tilebeam service?")
        group.answered += 1
        return line

    def end(self, group: Group) -> None:
        """Check that every picture of a response that is complete has its line. Raises ClientError."""
        if group.answered != len(group.uploads):
            raise ClientError(
                f"{self._url} answered {group.answered} of {len(group.uploads)} pictures and stopped; "
                "send the rest again"
            )
        self._attempts = self._new_attempts()

    def failed(self, group: Group, failure: Failure) -> tuple[float, list[dict[str, Any]]]:
        """After a failure: seconds to wait, and the error lines that take the place of answers. Raises its error."""
        rest = group.uploads[group.answered :]
        if not rest:  # the connection broke after the last line
            return 0.0, []
        if failure.is_too_large:
            self._refused.smallest = min(self._refused.smallest, group.size)
            if len(rest) == 1:
                return 0.0, [{"error": problem_of(failure.error)}]
            self._halve(rest)
            return 0.0, []
        if group.answered:
            self._attempts = self._new_attempts()
        wait_s = self._attempts.wait_s(failure)
        self._pending.append(rest)
        return wait_s, []

    def _halve(self, uploads: Sequence[Upload]) -> None:
        middle = len(uploads) // 2
        self._pending += [uploads[middle:], uploads[:middle]]


def described(uploads: Sequence[Upload]) -> str:
    """What a request sends, for messages: `photo.jpg, 3.2 MB`."""
    megabytes = sum(upload.size for upload in uploads) / 1e6
    what = uploads[0].name if len(uploads) == 1 else f"{len(uploads)} pictures"
    return f"{what}, {megabytes:.1f} MB"
