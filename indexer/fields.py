"""What a request's dataclass says about its fields besides their types: ranges and sentences of documentation.

Plain metadata with no dependency, so that every request module can use it. `indexer.cli.options` turns it into
command-line options; nothing here knows of command lines.
"""

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Range", "field_docs"]


class Range(NamedTuple):
    """Bounds of a number, both inclusive; None: unbounded. Used as `k: Annotated[int, Range(1, 1024)] = 64`."""

    minimum: float | None = None
    maximum: float | None = None


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, on one line, by field name; fields without one are left out.

    Reads the source file, inherited fields included. Raises OSError if the source is not installed.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            docs |= _docs_of_class(base)
    return {f.name: docs[f.name] for f in fields(cls) if f.name in docs} if is_dataclass(cls) else {}


def _docs_of_class(cls: type) -> dict[str, str]:
    (body,) = (n.body for n in ast.parse(textwrap.dedent(inspect.getsource(cls))).body if isinstance(n, ast.ClassDef))
    docs = {}
    for statement, below in pairwise(body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs
