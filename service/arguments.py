"""What all commands share before their options are parsed: two ways to write a box, and errors that name the value.

Knows Typer, and no command. Imports nothing of the engine.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from retrieval.search.options import parse_bbox

__all__ = ["box_arguments", "with_value"]

_BOX = "--bbox"
_EDGES = 4
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def box_arguments(command: Any, arguments: Sequence[str]) -> list[str]:
    """The arguments with `--bbox W S E N`, `--bbox W,S,E,N` and `--bbox=W,S,E,N` in the form that a command parses.

    `command`: Typer's. Raises typer.BadParameter for a box with commas that is not four numbers.
    """
    option = next((p for p in command.params if _BOX in getattr(p, "opts", ())), None)
    return list(arguments) if option is None else list(_rewritten(arguments, int(option.nargs)))


def with_value(error: typer.BadParameter) -> typer.BadParameter:
    """The error of an option or argument, with the value that was given where the message does not name it."""
    errors = getattr(error.__cause__, "errors", None)  # pydantic's, by which Typer converts values
    if callable(errors) and (details := errors()):
        value = str(details[0].get("input", ""))
        if value and value not in error.message:
            error.message = f"{error.message}, not {value!r}"
    return error


def _rewritten(arguments: Sequence[str], nargs: int) -> Iterator[str]:
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            yield from (argument, *rest)
            return
        name, mark, value = argument.partition("=")
        if name != _BOX or (not mark and not rest):
            yield argument
            continue
        edges = _taken([value, *rest] if mark else rest)
        rest = rest[len(edges) - bool(mark) :]
        text = ",".join(edge.strip().strip(",") for edge in edges)
        text = text if "," in text or len(edges) > 1 else ",".join(text.split())
        yield _BOX
        yield from [text] if nargs == 1 else _numbers(text)


def _taken(values: Sequence[str]) -> list[str]:
    """The leading values that belong to a box: one that holds it all, or numbers, up to four."""
    if len(_parts(values[0])) > 1:
        return [values[0]]
    count = 0
    while count < min(_EDGES, len(values)) and _NUMBER.fullmatch(values[count].strip(" ,")):
        count += 1
    return list(values[: max(count, 1)])


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[,\s]+", text.strip()) if part]


def _numbers(text: str) -> list[str]:
    try:
        return [str(number) for number in parse_bbox(text)]
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=_BOX) from exc
