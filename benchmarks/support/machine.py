"""The machine that a benchmark ran on, without which its figures cannot be compared."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, caches, memory, load and versions; facts that Linux does not report are left out."""
    cpu = _lines("/proc/cpuinfo")
    memory = _lines("/proc/meminfo")
    packages = ("numpy", "torch", "faiss-cpu", "faiss-gpu", "open_clip_torch", "pillow")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "cache": {path.parent.name: path.read_text().strip() for path in _caches()},
        "memory_gib": round(int(memory.get("MemTotal", "0 kB").split()[0]) / 2**20, 1),
        "load": [round(v, 2) for v in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same facts as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, L3 {machine['cache'].get('index3', '?')}, "
        f"{machine['memory_gib']} GiB; load {machine['load'][0]}; Python {machine['python']}, {versions}"
    )


def _caches() -> list[Path]:
    return sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))


def _lines(path: str) -> dict[str, str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
