"""The files of the cache: an npy file and its JSON sidecar, each put in place in one step, and their upkeep.

The sidecar holds a CRC-32 of the npy file and of the sidecar's other fields: it always finds a single flipped byte,
misses one in 2^32 of larger damages, and takes a quarter of the time of the hashes in hashlib.
"""

from __future__ import annotations

import errno
import io
import json
import re
import time
import uuid
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from xmkd.errors import CacheError

Array = NDArray[np.generic]
Meta = dict[str, Any]

_OURS = re.compile(r"(pack-)?[0-9a-f]{32}\.(npy|json)|\.tmp-[0-9a-f]{32}")
_NEEDED = {"source", "dtype", "shape", "offset", "checksum"}  # without one of them another version wrote the sidecar
_BLOCK = 1 << 20  # bytes read at a time for a checksum: a pack may be larger than the memory
_CHECKED_BYTES = 1 << 30  # larger packs would delay each start by seconds, so that only `verify` reads them through
_ABANDONED_S = 3600.0  # a temporary file this old has lost its writer


# Name, time and size of the files that this process has read through and found whole.
_sound: set[tuple[str, int, int]] = set()


@dataclass(frozen=True)
class CacheListing:
    """One entry or pack on disk."""

    path: Path
    source: str
    shape: tuple[int, ...]
    nbytes: int
    age_days: float


@dataclass(frozen=True)
class Folder:
    """A folder of arrays by key.

    Attributes:
        path: The folder; made when the first array is written.
    """

    path: Path

    def array_path(self, key: str) -> Path:
        """Where the array with this key lies, or would."""
        return self.path / f"{key}.npy"

    def meta(self, key: str) -> Meta | None:
        """The sidecar of a whole entry; None where there is none, or where either file is damaged or cut short."""
        try:
            meta: Meta = json.loads((self.path / f"{key}.json").read_bytes())
            size = self.array_path(key).stat().st_size
        except (OSError, ValueError):
            return None
        whole = isinstance(meta, dict) and meta.get("size") == size and meta.keys() >= _NEEDED
        return meta if whole else None

    def checked(self, key: str) -> Meta | None:
        """The sidecar of a whole entry whose content agrees with its checksum; None, with a warning, where it doesn't.

        A process reads a file through once; above 1 GiB it is left to `verify`.
        """
        meta, path = self.meta(key), self.array_path(key)
        if meta is None or meta["size"] > _CHECKED_BYTES:
            return meta
        try:
            seen = (str(path), path.stat().st_mtime_ns, meta["size"])
        except OSError:  # cleaned away this moment
            return None
        if seen in _sound:
            return meta
        if not self._is_sound(key, meta):
            warnings.warn(f"{path} is damaged and is made again; is this disk failing?", stacklevel=3)
            return None
        _sound.add(seen)
        return meta

    def _is_sound(self, key: str, meta: Meta) -> bool:
        """Whether content and sidecar are what was written."""
        checksum = 0
        try:
            with self.array_path(key).open("rb") as file:  # a disk that fails kills whoever reads a memory map
                while block := file.read(_BLOCK):
                    checksum = zlib.crc32(block, checksum)
        except OSError:
            return False
        return bool(_with_fields(checksum, meta) == meta["checksum"])

    def open(self, key: str, meta: Meta) -> Array:
        """The array of a whole entry as a read-only memory map.

        The sidecar says where the numbers begin; parsing npy's own header takes longer than all the rest.
        """
        return np.memmap(self.array_path(key), meta["dtype"], "r", meta["offset"], tuple(meta["shape"]))

    def write(self, key: str, arrays: Iterable[Array], count: int | None, meta: Meta) -> Meta:
        """Write one array (`count` is None), or `count` arrays of one shape one behind the other along a new axis.

        Args:
            key: Name of the entry.
            arrays: The array or arrays.
            count: How many there are.
            meta: What else the sidecar should hold; read after the last array.

        Returns:
            What the sidecar holds.

        Raises:
            CacheError: The disk is full, or the folder can't be written.
        """
        checksum, layout = 0, Meta()
        with _in_one_step(self.array_path(key)) as file:
            for array in arrays:
                if not layout:
                    layout = {
                        "dtype": array.dtype.str,
                        "shape": array.shape if count is None else (count, *array.shape),
                    }
                    header = {"descr": layout["dtype"], "fortran_order": False, "shape": layout["shape"]}
                    start = io.BytesIO()
                    np.lib.format.write_array_header_1_0(start, header)
                    layout["offset"] = file.write(start.getvalue())
                    checksum = zlib.crc32(start.getvalue())
                content = array.tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            size = file.tell()
        meta = {**meta, **layout, "size": size}
        meta["checksum"] = _with_fields(checksum, meta)
        try:
            with _in_one_step(self.path / f"{key}.json") as file:
                file.write(json.dumps(meta).encode())
        except CacheError:
            self.array_path(key).unlink(missing_ok=True)  # worth nothing without its sidecar
            raise
        return meta

    def ls(self) -> list[CacheListing]:
        """What is whole in the folder, newest first."""
        found = []
        for path in self.path.glob("*.json"):
            if _OURS.fullmatch(path.name) and (meta := self.meta(path.stem)) is not None:
                age = (time.time() - path.stat().st_mtime) / 86400
                array = path.with_suffix(".npy")
                found.append(CacheListing(array, meta["source"], tuple(meta["shape"]), meta["size"], age))
        return sorted(found, key=lambda entry: entry.age_days)

    def verify(self) -> list[Path]:
        """Delete every entry whose content does not match its checksum or size; returns the deleted arrays' paths."""
        bad = []
        for path in self.path.glob("*.npy"):
            if not _OURS.fullmatch(path.name):
                continue
            meta = self.meta(path.stem)
            if meta is None or not self._is_sound(path.stem, meta):
                bad.append(path)
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
        return bad

    def clean(self, older_than_days: float | None = None, *, all: bool = False) -> int:  # noqa: A002
        """Delete what was made more than so many days ago, or all; and what killed writers left behind.

        Only files with the cache's own kind of name are touched.

        Returns:
            The bytes freed.
        """
        freed = 0
        for path in [p for p in self.path.glob("*") if _OURS.fullmatch(p.name)]:
            stat = path.stat()
            age = time.time() - stat.st_mtime
            old = all or (older_than_days is not None and age > older_than_days * 86400)
            if age > _ABANDONED_S if path.name.startswith(".tmp-") else old:
                freed += stat.st_size
                path.unlink(missing_ok=True)
        return freed


def _with_fields(checksum: int, meta: Meta) -> int:
    """The checksum of a file carried on over the other fields of its sidecar."""
    fields = {name: value for name, value in meta.items() if name != "checksum"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode(), checksum)


@contextmanager
def _in_one_step(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under another name and move it into place, or leave nothing behind.

    Raises:
        CacheError: Writing failed.
    """
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CacheError(
            "the disk is full: the cache can't be filled" if full else f"the cache can't be written: {error.strerror}",
            where=path.parent,
            fixes=(
                "free space there, for example by `xmkd cache clean`" if full else "make this folder writable",
                "put the cache elsewhere: set XMKD_CACHE=FOLDER, or data.cache=FOLDER",
            ),
        ) from error
    finally:
        with suppress(OSError):  # moved away already, or never made
            temporary.unlink()
