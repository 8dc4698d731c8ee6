"""Options that derive from dataclasses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from indexer.cli.options import Fields, command, flag
from indexer.errors import BuildError, CoverageError
from indexer.fields import Range, field_docs


@dataclass(frozen=True)
class Pace:
    rate_per_s: float = 20.0
    """Requests a second."""
    contact: str = ""
    """Your address."""
    attempts: int = 5

    def __post_init__(self) -> None:
        if self.rate_per_s <= 0:
            raise BuildError("rate must be over 0")


@dataclass(frozen=True)
class Request:
    out: Path
    """The folder to write,
    which must not exist."""
    zooms: tuple[int, ...]
    """Ascending."""
    k: Annotated[int, Range(1, 1024)] = 64
    """Beam width."""
    bbox: tuple[float, float, float, float] | None = None
    """Degrees."""
    overwrite: bool = False
    """Replace."""
    warm: bool = True
    """Start warm."""
    margins: dict[int, float] = field(default_factory=dict)
    """Margins by zoom."""
    pace: Pace = field(default_factory=Pace)
    internal: int = 7


@dataclass(frozen=True)
class Further(Request):
    extra: str = "x"
    """One more."""


def zooms_of(text: str) -> tuple[int, ...]:
    return tuple(int(zoom) for zoom in text.split(","))


def margins_of(texts: list[str]) -> dict[int, float]:
    return {int(z): float(w) for z, w in (t.split("=") for t in texts)}


PACE = Annotated[
    Pace,
    Fields("rate_per_s", "contact", panel="Fetching", rate_per_s=flag("--rate"), contact=flag(envvar="TEST_CONTACT")),
]
HOW = Fields(
    zooms=flag(parser=zooms_of, metavar="4,6,8"),
    margins=flag("--context", kind=list[str], parser=margins_of),
    pace=PACE,
    internal=None,
)

OUT_AND_ZOOMS = Fields("out", "zooms", zooms=flag(parser=zooms_of))


def run(function: Callable[..., None], *args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    app = typer.Typer()
    command(app)(function)
    result = CliRunner().invoke(app, list(args), env={"COLUMNS": "200", "TEST_CONTACT": ""} | (env or {}))
    return result.exit_code, result.output


@pytest.fixture
def requests() -> list[Any]:
    return []


@pytest.fixture
def draw(requests: list[Any]) -> Callable[..., None]:
    def draw(
        request: Annotated[Request, HOW], as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False
    ) -> None:
        """Draw pictures."""
        requests.append((request, as_json))

    return draw


def test_absent_options_leave_the_defaults_of_the_dataclass(draw: Any, requests: list[Any]) -> None:
    assert run(draw, "--out", "a", "--zooms", "4,6")[0] == 0
    assert requests == [(Request(Path("a"), (4, 6)), False)]


def test_every_kind_of_option_reaches_its_field(draw: Any, requests: list[Any]) -> None:
    args = (
        "--out a --zooms 4 --k 1024 --bbox 1 2 3 4 --overwrite --no-warm --context 4=0.5 --context 6=1 --rate 3 --json"
    )
    assert run(draw, *args.split(), env={"TEST_CONTACT": "me@example.org"})[0] == 0
    expected = Request(
        Path("a"), (4,), 1024, (1.0, 2.0, 3.0, 4.0), True, False, {4: 0.5, 6: 1.0}, Pace(3.0, "me@example.org")
    )
    assert requests == [(expected, True)]


def test_help_shows_the_docstring_default_and_range_of_each_field(draw: Any) -> None:
    _, text = run(draw, "--help")
    words = " ".join(text.replace("│", " ").split())
    assert "Draw pictures." in words
    assert "The folder to write, which must not exist. [required]" in words
    assert "4,6,8" in words
    assert "1<=x<=1024" in words
    assert "[default: 64]" in words
    assert "Fetching" in words
    assert "--no-overwrite" not in words
    assert "internal" not in words
    assert "attempts" not in words


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ("--zooms 4", 2, "Missing option '--out'"),
        ("--out a --zooms 4,x", 2, "invalid literal"),
        ("--out a --zooms 4 --k 0", 2, "Invalid value for '--k'"),
        ("--out a --zooms 4 --rate 0", 2, "tilebeam: rate must be over 0"),
    ],
)
def test_wrong_values_end_with_a_message_and_the_right_exit_code(draw: Any, args: str, code: int, text: str) -> None:
    exit_code, output = run(draw, *args.split())
    assert exit_code == code
    assert text in output


def test_a_function_may_build_a_field_from_options_of_its_own(requests: list[Any]) -> None:
    def pace_of(slow: Annotated[bool, typer.Option("--slow", help="Be slow.")] = False) -> Pace:
        return Pace(1.0 if slow else 20.0)

    def draw(
        request: Annotated[Request, Fields("out", "zooms", "pace", zooms=flag(parser=zooms_of), pace=pace_of)],
    ) -> None:
        requests.append(request)

    assert run(draw, "--out", "a", "--zooms", "4", "--slow")[0] == 0
    assert requests == [Request(Path("a"), (4,), pace=Pace(1.0))]


def test_fields_with_one_option_name_share_the_option(requests: list[Any]) -> None:
    def draw(first: Annotated[Request, OUT_AND_ZOOMS], second: Annotated[Request, OUT_AND_ZOOMS]) -> None:
        requests.extend([first, second])

    assert run(draw, "--out", "a", "--zooms", "4")[0] == 0
    assert requests[0] == requests[1]


def test_an_error_of_the_command_ends_in_one_line(requests: list[Any]) -> None:
    def draw(request: Annotated[Request, OUT_AND_ZOOMS]) -> None:
        raise CoverageError("no tile")

    assert run(draw, "--out", "a", "--zooms", "4") == (2, "tilebeam: no tile\n")


def test_an_undocumented_or_unknown_field_is_refused_at_registration() -> None:
    def undocumented(request: Annotated[Request, Fields("internal")]) -> None: ...

    def unknown(request: Annotated[Request, Fields("quality")]) -> None: ...

    with pytest.raises(TypeError, match=r"Request\.internal needs a string"):
        command(typer.Typer())(undocumented)
    with pytest.raises(TypeError, match="Request has no field quality"):
        command(typer.Typer())(unknown)


def test_documentation_of_inherited_fields_is_read() -> None:
    docs = field_docs(Further)
    assert docs["extra"] == "One more."
    assert docs["out"] == "The folder to write, which must not exist."
    assert "internal" not in docs


def test_defaults_of_a_nested_dataclass_come_from_the_field(requests: list[Any]) -> None:
    @dataclass(frozen=True)
    class Slow:
        pace: Pace = field(default_factory=lambda: Pace(2.0, attempts=1))

    def draw(request: Annotated[Slow, Fields(pace=PACE)]) -> None:
        requests.append(request)

    assert "default: 2.0" in run(draw, "--help")[1]
    assert run(draw)[0] == 0
    assert run(draw, "--rate", "3")[0] == 0
    assert requests == [Slow(), Slow(Pace(3.0, attempts=1))]


def test_an_empty_text_is_parsed_and_an_absent_option_shows_its_default(requests: list[Any]) -> None:
    @dataclass(frozen=True)
    class Numbers:
        zooms: tuple[int, ...] = (4, 6)
        """Ascending."""

    def shown(zooms: tuple[int, ...]) -> str:
        return ",".join(map(str, zooms))

    def parsed(text: str) -> tuple[int, ...]:
        return zooms_of(text) if text else ()

    def draw(request: Annotated[Numbers, Fields(zooms=flag(parser=parsed, shown=shown))]) -> None:
        requests.append(request)

    assert "[default: (4,6)]" in run(draw, "--help")[1]
    assert run(draw)[0] == run(draw, "--zooms", "")[0] == 0
    assert requests == [Numbers((4, 6)), Numbers(())]
