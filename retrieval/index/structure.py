"""Rules that the codes of an index follow: ascending, inside their zoom, and closed upward. Reads no files."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["wrong_codes"]

Codes = NDArray[np.uint64]


def wrong_codes(zoom: int, codes: Codes, above_zoom: int | None, above: Codes | None) -> Iterator[str]:
    """One sentence per broken rule. `codes`: (n,) of a zoom; `above`: (m,) of the next coarser zoom, if any."""
    if (codes[1:] <= codes[:-1]).any():
        yield f"zoom {zoom}: Morton codes do not ascend: build the index again"
    if len(codes) and int(codes.max()) >= 4**zoom:
        yield f"zoom {zoom}: Morton code {codes.max()} lies outside the zoom: build the index again"
    if above is None or above_zoom is None:
        return
    parents = codes >> np.uint64(2 * (zoom - above_zoom))
    positions = np.minimum(np.searchsorted(above, parents), max(len(above) - 1, 0))
    orphans = len(codes) if not len(above) else int(np.count_nonzero(above[positions] != parents))
    if orphans:
        yield f"zoom {zoom}: {orphans} tiles have no parent at zoom {above_zoom}: build the index again"
