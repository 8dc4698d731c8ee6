"""Output of a command line as one line of text, independent of the terminal's width."""

import re


def unwrapped(output: str) -> str:
    """The output without Rich's boxes and line breaks; words are separated by single spaces."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", output).split())
