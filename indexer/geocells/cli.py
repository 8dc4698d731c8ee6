"""The commands `geocells fit` and `geocells train`: parse, call, print. Heavy libraries are imported inside them."""

import typer

__all__ = ["geocells", "register"]

geocells = typer.Typer(
    name="geocells", help="Part the Earth by where photos were taken; learn to name the part.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Mount the commands, as `geocells fit` and so on."""
    app.add_typer(geocells)


@geocells.callback()
def _group() -> None:
    """Keeps `geocells` a group, however few commands it has."""
