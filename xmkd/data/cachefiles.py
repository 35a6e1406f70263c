"""The files of the cache: an npy file and its JSON sidecar, each put in place in one step, and their upkeep."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time
import uuid
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
_ABANDONED_S = 3600.0  # a temporary file this old has lost its writer


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
        checksum, layout = hashlib.blake2b(digest_size=16), Meta()
        with _in_one_step(self.array_path(key)) as file:
            for array in arrays:
                if not layout:
                    layout = {
                        "dtype": array.dtype.str,
                        "shape": array.shape if count is None else (count, *array.shape),
                    }
                    header = {"descr": layout["dtype"], "fortran_order": False, "shape": layout["shape"]}
                    np.lib.format.write_array_header_1_0(file, header)
                    layout["offset"] = file.tell()
                content = array.tobytes()
                checksum.update(content)
                file.write(content)
            size = file.tell()
        meta = {**meta, **layout, "size": size, "checksum": checksum.hexdigest()}
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
            if meta is None or _checksum(self.open(path.stem, meta)) != meta["checksum"]:
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


def _checksum(array: Array) -> str:
    checksum = hashlib.blake2b(digest_size=16)
    for part in array:  # one row at a time: a pack may be larger than the memory
        checksum.update(part.tobytes())
    return checksum.hexdigest()


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
