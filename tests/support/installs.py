"""What an installation consists of, by the metadata of what is installed here, and programs run as in a smaller one."""

import subprocess
import sys
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@cache
def script(name: str) -> Any:
    """A script of the repository, which has no suffix, as a module."""
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def installed_by(*requirements: str) -> dict[str, Any]:
    """The distributions that these requirements install, by normalised name, without Tilebeam."""
    found: dict[str, Any] = script("export-notice").closure(*requirements)
    return found


def missing_modules(*extras: str) -> list[str]:
    """The modules of this environment that an installation with these extras alone would lack."""
    there = installed_by(f"tilebeam[{','.join(extras)}]" if extras else "tilebeam").keys() | {"tilebeam"}
    owners = packages_distributions()
    return [module for module, names in owners.items() if not there & {canonicalize_name(name) for name in names}]


def run_with_only(extras: tuple[str, ...], code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a process as in an installation with these extras; its arguments are in `sys.argv[1:]`."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({missing_modules(*extras)!r}))\n"
    command = [sys.executable, "-c", blocked + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
