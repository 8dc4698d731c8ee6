"""A TIFF's samples as strips of 8-bit RGB, with nodata and alpha as transparency."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.errors import UnreadablePhotoError
from retrieval.pictures.profile import Profile
from retrieval.pictures.stretch import Range, in_words
from retrieval.pictures.tiff_layout import Layout
from retrieval.pictures.tiff_rows import rows_of

__all__ = ["TiffSource"]


class TiffSource:
    """A source of strips (see `retrieval.pictures.views`). The file is read twice: first for the range of its samples.

    Raises UnreadablePhotoError where no pixel has data.
    """

    def __init__(self, data: bytes, layout: Layout) -> None:
        self.size = layout.width, layout.height
        self.turn = layout.orientation
        self.notes: list[str] = []
        self._data, self._layout = data, layout
        self._profile = Profile.of(layout.icc_profile, "RGB" if layout.colours == 3 else "L", self.notes)
        self._nodata = _as_sample(layout)
        self._fills: tuple[float, ...] = ()
        self._absent = layout.absent_blocks
        self._ranges()

    def strips(self) -> Iterator[Image.Image]:
        """RGB, or RGBA where pixels are transparent, from top to bottom."""
        top = 0
        for rows in rows_of(self._data, self._layout):
            yield self._strip(rows, top)
            top += len(rows)

    def _ranges(self) -> None:
        layout = self._layout
        total = layout.width * layout.height * layout.colours
        colours, alphas = Range(layout.bits, layout.kind, total), Range(layout.bits, layout.kind, total)
        missing = top = 0
        if layout.bits > 8 or layout.kind != "u" or self._nodata is not None or self._absent is not None:
            for rows in rows_of(self._data, layout):
                samples = rows[:, :, : layout.colours]
                valid = self._valid(samples, top)
                top += len(rows)
                colours.add(samples[valid] if valid is not None else samples.reshape(-1))
                missing += 0 if valid is None else int(np.count_nonzero(~valid.any(axis=2)))
                if layout.alpha is not None:
                    alphas.add(rows[:, :, layout.alpha].reshape(-1))
            if colours.is_empty:
                raise UnreadablePhotoError(
                    "the picture has no finite pixel value that is not nodata; send another copy"
                )
        else:  # 8 bits are shown as they are
            colours.add(np.array([255], dtype=np.uint8))
            alphas.add(np.array([255], dtype=np.uint8))
        self._scale, self._fills = colours.scale(), colours.fills()
        self._alpha_scale = alphas.scale()._replace(low=0.0) if layout.alpha is not None else None
        self.notes += [self._scale.note] if self._scale.note else []
        if missing:
            what = "" if layout.nodata is None else f" (nodata is {layout.nodata:g})"
            self.notes.append(f"{missing:,} pixels without data{what} shown as transparent")
        if self._fills:
            self.notes.append(f"pixels of {in_words(self._fills)}, far from all others, shown as transparent")
        used = layout.colours + (layout.alpha is not None)
        if layout.bands > used:
            self.notes.append(f"{layout.bands - used} of {layout.bands} bands left out")

    def _strip(self, rows: NDArray[Any], top: int) -> Image.Image:
        layout = self._layout
        samples = rows[:, :, : layout.colours]
        valid = self._valid(samples, top)
        if valid is not None:
            samples = np.where(valid, samples, samples.dtype.type(self._scale.low))
        pixels = self._scale.to_bytes(samples)
        if layout.photometric == 0:  # white is zero
            pixels = 255 - pixels
        image = self._profile.to_rgb(Image.fromarray(pixels if layout.colours == 3 else pixels[:, :, 0]))
        opaque: NDArray[np.bool_] | None = None
        if valid is not None:
            # One band may well have the nodata value of integers; a float that is not a number is no colour.
            opaque = np.asarray(valid.any(axis=2))
            if layout.kind == "f":
                opaque = opaque & np.isfinite(rows[:, :, : layout.colours]).all(axis=2)
        if layout.alpha is not None and self._alpha_scale is not None:
            return self._with_alpha(image, self._alpha_scale.to_bytes(rows[:, :, layout.alpha]), opaque)
        if opaque is not None and not opaque.all():
            image.putalpha(Image.fromarray(np.where(opaque, np.uint8(255), np.uint8(0))))
        return image

    def _with_alpha(
        self, image: Image.Image, alpha: NDArray[np.uint8], opaque: NDArray[np.bool_] | None
    ) -> Image.Image:
        if opaque is not None:
            alpha = np.where(opaque, alpha, np.uint8(0))
        image.putalpha(Image.fromarray(alpha))
        if self._layout.extra[0] == 2:
            return image
        multiplied = Image.frombytes("RGBa", image.size, image.tobytes())  # colours that alpha is multiplied into
        return multiplied.convert("RGBA")

    def _valid(self, samples: NDArray[Any], top: int) -> NDArray[np.bool_] | None:
        """Which samples are data, of the same shape, in rows from `top` on; None where all of them are."""
        valid = np.isfinite(samples) if samples.dtype.kind == "f" else None
        for value in (self._nodata, *self._fills):
            if value is not None:
                has_data = samples != value
                valid = has_data if valid is None else valid & has_data
        if self._absent is not None:
            layout = self._layout
            rows = self._absent[np.arange(top, top + len(samples)) // layout.block_height]
            stored = ~np.repeat(rows, layout.block_width, axis=1)[:, : layout.width, None]
            valid = np.broadcast_to(stored, samples.shape) if valid is None else valid & stored
        return valid


def _as_sample(layout: Layout) -> Any:
    """The nodata value in the samples' type; None where there is none, or one that no sample can have."""
    if layout.nodata is None or not np.isfinite(layout.nodata):
        return None
    if layout.kind == "f":
        return np.dtype(f"f{layout.bits // 8}").type(layout.nodata)
    bits = -(-layout.bits // 8) * 8
    low, high = (0, 2**bits - 1) if layout.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if layout.nodata != int(layout.nodata) or not low <= layout.nodata <= high:
        return None
    return int(layout.nodata)
