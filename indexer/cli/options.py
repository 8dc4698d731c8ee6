"""Commands whose options are the fields of dataclasses: default, range and help sentence stand in the dataclass alone.

Write the command as a function of the finished request, and register it:

    @dataclass(frozen=True)
    class DrawRequest:
        out: Path
        '''The folder for the pictures.'''
        count: Annotated[int, Range(1, 100)] = 10
        '''Pictures to draw.'''
        reading: ReadOptions = ReadOptions()      # a nested dataclass: its fields become options, too
        zooms: tuple[int, ...] = (4, 6)
        '''Zooms, ascending.'''

    Reading = Annotated[ReadOptions, Fields("layout", "images", panel="Photos")]   # only these two; others: default

    def draw(
        request: Annotated[
            DrawRequest, Fields(reading=Reading, zooms=flag(parser=zooms_of, metavar="4,6,8"), out=flag("--to"))
        ],
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,    # plain Typer option
    ) -> None:
        '''Draw pictures.'''
        ...

    command(app, go_on="the same command goes on from here")(draw)

A field's entry in `Fields` is one of: `flag(...)`, which changes its option; None, which leaves it out, so that it
keeps its default; a dataclass, `Annotated` with its own `Fields` or not; or a function that makes the value and whose
parameters become options. Two fields with the same option name in one command share the option. If a field that is a
dataclass has a default, the defaults of its options are that object's values.

The module knows Typer and dataclasses. It does not know any request.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from indexer.cli.terminal import ending_well
from indexer.errors import IndexerError
from indexer.fields import Range, field_docs

__all__ = ["Fields", "Flag", "command", "flag"]

F = TypeVar("F", bound=Callable[..., None])
_MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Flag:
    """How one field's option differs from what the dataclass says; made by `flag`."""

    names: tuple[str, ...] = ()
    parser: Callable[[Any], Any] | None = None
    kind: Any = None
    shown: Callable[[Any], str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def flag(
    *names: str,
    parser: Callable[[Any], Any] | None = None,
    kind: Any = None,
    shown: Callable[[Any], str] | None = None,
    **settings: Any,
) -> Flag:
    """Change a field's option: other `names`, and any keyword of `typer.Option` (envvar, metavar, help, ...).

    `parser` makes the field's value from what is typed, which has the type `kind`: text unless stated, `list[str]` for
    an option that may be repeated. A ValueError that it raises is reported as wrong usage. A parsed option is not
    parsed when it is absent: the field keeps its default, which the help shows if `shown` makes a text of it.
    """
    return Flag(names, parser, kind, shown, settings)


class Fields:
    """Which fields of a dataclass become options, and how: see the module's example.

    `only`: leave out all fields but these. `panel`: the heading of these options in the help.
    """

    def __init__(self, *only: str, panel: str | None = None, **changes: Any) -> None:
        self.only, self.panel, self.changes = only, panel, changes

    def check(self, owner: Any, names: set[str]) -> None:
        """Raise TypeError for a name that is not a field of `owner`."""
        if unknown := ({*self.only} | {*self.changes}) - names:
            raise TypeError(f"{owner.__name__} has no field {', '.join(sorted(unknown))}")


def command(
    app: typer.Typer, name: str | None = None, *, go_on: str = "nothing was changed", **settings: Any
) -> Callable[[F], F]:
    """Register a function of dataclasses as a command; returns the function unchanged.

    Requests are built and the function runs inside `ending_well(go_on)`, so errors in either end in one line and the
    documented exit code: 2, wrong usage, where a request refuses an option's value. `settings` go to `app.command`.
    Raises TypeError for a field without documentation.
    """

    def register(function: F) -> F:
        parameters: dict[str, inspect.Parameter] = {}
        call = _Call(function, Fields(), parameters)

        def run(**values: Any) -> None:
            with ending_well(go_on, code=2):
                arguments = call.arguments(values)
            with ending_well(go_on):
                function(**arguments)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {}  # Typer would resolve them, and the signature says it all
        app.command(name, **settings)(run)
        return function

    return register


class _Call:
    """A function or dataclass whose arguments come from options; adds those options to `parameters`.

    `default`: an instance of the dataclass, whose values absent options keep.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        how: Fields,
        parameters: dict[str, inspect.Parameter],
        default: Any = None,
    ) -> None:
        self._target, self._default = target, default
        self._nested: dict[str, _Call] = {}
        self._options: dict[str, tuple[str, Flag]] = {}
        arguments = inspect.signature(target).parameters
        hints = get_type_hints(target, include_extras=True)
        how.check(target, {*arguments})
        for name, argument in arguments.items():
            if how.only and name not in how.only:
                continue
            change = how.changes.get(name, hints[name])
            if change is None:
                continue
            if (nested := _nested(change)) is not None:
                value = _default(target, argument, default)
                same = isinstance(nested[0], type) and isinstance(value, nested[0])
                self._nested[name] = _Call(*nested, parameters, value if same else None)
            else:
                flag = change if isinstance(change, Flag) else Flag()
                value = _default(target, argument, default)
                option = _option(target, argument.replace(default=value), hints[name], flag, how.panel)
                _add(parameters, option)
                self._options[name] = option.name, flag

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The target's arguments, from the options' values."""
        arguments = {name: call.run(values) for name, call in self._nested.items()}
        for name, (option, flag) in self._options.items():
            value = values[option]
            if flag.parser is None:
                arguments[name] = value
            elif value is not None and value != []:  # an absent option that may be repeated is an empty list
                arguments[name] = _parsed(flag.parser, value, option)
        return arguments

    def run(self, values: Mapping[str, Any]) -> Any:
        """Call with the options' values."""
        arguments = self.arguments(values)
        if self._default is not None:
            return dataclasses.replace(self._default, **arguments)
        return self._target(**arguments)


def _nested(change: Any) -> tuple[Callable[..., Any], Fields] | None:
    """What a change or an annotation says to build from options of its own, or None."""
    if isinstance(change, Flag):
        return None
    target, *extras = get_args(change) if get_origin(change) is Annotated else (change,)
    if (isinstance(target, type) and is_dataclass(target)) or inspect.isfunction(target):
        return target, next((e for e in extras if isinstance(e, Fields)), Fields())
    return None


def _option(
    owner: Callable[..., Any], argument: inspect.Parameter, hint: Any, flag: Flag, panel: str | None
) -> inspect.Parameter:
    """The Typer parameter of one field. A function's own parameters are Typer's already and stay."""
    if not isinstance(owner, type):
        return argument.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    name = next((n.lstrip("-").partition("/")[0] for n in flag.names if n.startswith("--")), argument.name)
    default = argument.default
    settings: dict[str, Any] = {"help": field_docs(owner).get(argument.name), "rich_help_panel": panel}
    for extra in extras:
        if isinstance(extra, Range):
            settings |= {"min": extra.minimum, "max": extra.maximum}
    settings |= flag.settings
    if settings["help"] is None:
        raise TypeError(f"{owner.__name__}.{argument.name} needs a string below it that says what it is")
    names = flag.names
    if kind is bool and default is False and not names:
        names = (f"--{name.replace('_', '-')}",)  # without this, Typer would add a --no-... option
    if flag.parser is not None or flag.kind is not None:
        kind = flag.kind or str
        if flag.parser is not None and default is not _MISSING:
            if flag.shown is not None:
                settings["show_default"] = flag.shown(default)
            kind, default = kind | None, None
    return inspect.Parameter(
        name.replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*names, **settings)],
    )


def _default(owner: Callable[..., Any], argument: inspect.Parameter, instance: Any) -> Any:
    """A field's value in `instance` or else its default, with a default factory called; `_MISSING` if required."""
    if instance is not None:
        return getattr(instance, argument.name)
    if not isinstance(owner, type):
        return argument.default
    own = next(f for f in dataclasses.fields(owner) if f.name == argument.name)
    return own.default_factory() if own.default_factory is not dataclasses.MISSING else argument.default


def _add(parameters: dict[str, inspect.Parameter], option: inspect.Parameter) -> None:
    first = parameters.setdefault(option.name, option)
    if first.default != option.default:
        raise TypeError(f"--{option.name}: two fields share this option but not its default: give one another name")


def _parsed(parser: Callable[[Any], Any], value: Any, option: str) -> Any:
    try:
        return parser(value)
    except ValueError as exc:
        if isinstance(exc, IndexerError):  # has an exit code of its own
            raise
        raise typer.BadParameter(str(exc), param_hint=f"--{option.replace('_', '-')}") from exc
