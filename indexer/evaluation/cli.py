"""The command `evaluate`: parse, call, print."""

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Mount the command."""
