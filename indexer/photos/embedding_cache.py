"""A cache of embeddings on disk, in shards that are only ever added. Knows nothing of encoders or pixels.

A photo's key is a hash of its absolute path, its size and its modification time in nanoseconds. Computing it costs one
`stat`; a hash of the contents would mean reading every picture again, which is most of what the cache saves. A picture
that is replaced gets another key, one that is moved is embedded once more, and pictures of equal names in two sets have
different keys.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.files import write_atomically

__all__ = ["EmbeddingCache", "photo_key"]

KEY_BYTES = 16
Keys = NDArray[np.void]


def photo_key(path: str) -> bytes:
    """16 bytes that change when the file at `path` does; b"" if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return b""
    text = os.fsencode(os.path.abspath(path)) + b"\0%d\0%d" % (status.st_size, status.st_mtime_ns)
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


class EmbeddingCache:
    """The shards of one encoder below `root`; a shard that is damaged or of another shape is ignored.

    A shard is an .npz of `keys` (n, 16) uint8, `hashes` (n,) uint64 and `embeddings` (n, dim) float32; the archive's
    own checksums detect damage. Its file name is a hash of its keys, so that two processes can add to one cache.
    """

    def __init__(self, root: Path, fingerprint: str, dim: int) -> None:
        self._directory = root / hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
        self._dim = dim

    def fill(self, keys: list[bytes], embeddings: NDArray[np.float32], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Copy cached values into `embeddings` (n, dim) and `hashes` (n,); returns which keys were cached, (n,) bool.

        Only one shard is in memory at a time.
        """
        cached = np.zeros(len(keys), dtype=np.bool_)
        rows: dict[bytes, int] = {key: row for row, key in enumerate(keys) if key}
        for shard_keys, shard_hashes, vectors in self._shards():
            matches = [(i, rows[key]) for i, key in enumerate(shard_keys) if key in rows]
            if matches:
                source, target = (np.array(side, dtype=np.intp) for side in zip(*matches, strict=True))
                embeddings[target], hashes[target], cached[target] = vectors[source], shard_hashes[source], True
        return cached

    def add(self, keys: list[bytes], embeddings: NDArray[np.float32], hashes: NDArray[np.uint64]) -> None:
        """Write one shard, whole or not at all; photos without a key are left out."""
        with_key = [row for row, key in enumerate(keys) if key]
        if not with_key:
            return
        joined = b"".join(keys[row] for row in with_key)
        self._directory.mkdir(parents=True, exist_ok=True)
        arrays = {
            "keys": np.frombuffer(joined, dtype=np.uint8).reshape(-1, KEY_BYTES),
            "hashes": hashes[with_key].astype("<u8"),
            "embeddings": embeddings[with_key].astype("<f4"),
        }

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as stream:  # given a path, np.savez would append .npz to it
                np.savez(stream, allow_pickle=False, **arrays)

        name = hashlib.blake2b(joined, digest_size=KEY_BYTES).hexdigest()
        write_atomically(self._directory / f"{name}.npz", write)

    def _shards(self) -> Iterator[tuple[list[bytes], NDArray[np.uint64], NDArray[np.float32]]]:
        for path in sorted(self._directory.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as shard:
                    keys, hashes, vectors = shard["keys"], shard["hashes"], shard["embeddings"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
                continue
            n = len(keys)
            shapes = keys.shape == (n, KEY_BYTES), hashes.shape == (n,), vectors.shape == (n, self._dim)
            if all(shapes) and (keys.dtype, hashes.dtype, vectors.dtype) == (np.uint8, np.uint64, np.float32):
                data = keys.tobytes()
                yield [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)], hashes, vectors
