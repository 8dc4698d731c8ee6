"""Colour profiles: an ICC profile's colours to sRGB, which is what the encoders were trained on.

A profile that says nothing but sRGB, in whatever words, changes no pixel: it is recognised by what it does. One that is
broken, or belongs to other pixels, is left aside with a note.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

__all__ = ["Profile"]

_MAX_BYTES = 4 << 20
"""A printer's profile with tables has up to 3 MB."""
_MAX_CACHED = 64 << 10
_NEAR = 2
"""Of 255: two implementations of sRGB differ by so much."""
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_Transform = Callable[[Image.Image], Image.Image]


class Profile:
    """Brings pictures of one mode (`L`, `RGB` or `CMYK`) to RGB. Safe to share between threads."""

    def __init__(self, transform: _Transform | None = None) -> None:
        self._transform = transform

    @classmethod
    def of(cls, icc: bytes | None, mode: str, notes: list[str]) -> "Profile":
        """The profile of a picture whose pixels are in `mode`; adds to `notes` what it will do, if anything."""
        if not icc:
            return cls()
        make = _cached if len(icc) <= _MAX_CACHED else _transform_of
        try:
            if len(icc) > _MAX_BYTES:
                raise ValueError(f"{len(icc):,} bytes")
            transform, name = make(icc, mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as exc:
            notes.append(f"the ICC profile cannot be used ({exc}); colours taken as sRGB")
            return cls()
        if transform is not None:
            notes.append(f"colours converted from the profile {name!r} to sRGB")
        return cls(transform)

    @property
    def changes_nothing(self) -> bool:
        """Whether there is no profile, or one that says sRGB."""
        return self._transform is None

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """A picture in this profile's mode to RGB; the same picture where nothing changes."""
        if self._transform is not None:
            return self._transform(image)
        return image if image.mode == "RGB" else image.convert("RGB")


def _transform_of(icc: bytes, mode: str) -> tuple[_Transform | None, str]:
    """How to convert, None where it changes nothing that can be seen; and the profile's name."""
    profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    space = profile.profile.xcolor_space.strip()
    if space != _SPACES[mode]:
        raise ValueError(f"it is for {space} and the pixels are {_SPACES[mode]}")
    name = ImageCms.getProfileDescription(profile).strip()[:60]
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")

    def apply(image: Image.Image) -> Image.Image:
        out = transform.apply(image)
        out.info.pop("icc_profile", None)
        return out

    if mode != "CMYK":
        probe = _probe(mode)
        change = np.asarray(apply(probe), dtype=int) - np.asarray(probe.convert("RGB"))
        if np.abs(change).max() <= _NEAR:
            return None, name
    return apply, name


_cached = lru_cache(maxsize=32)(_transform_of)


def _probe(mode: str) -> Image.Image:
    """Colours over the whole range."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return Image.fromarray(grid.reshape(27, 27, 3))
