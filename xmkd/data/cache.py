"""Prepared arrays on disk, read through memory maps.

An entry is two files in the cache folder: `<key>.npy` and, written last, `<key>.json` with its shape, geometry and
checksum. The key hashes the source file's path, size and time together with the settings and the code's version, so an
entry is never stale: whatever changes leads to another key. Files are written beside their place under another name
and moved there in one step, so readers and writers in other processes never see half an entry.

Streams of many small images of one shape are read from a pack: all their arrays in one file, opened once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from xmkd.data.preprocess import Prep, Prepared, prepare, prepare_mask, spec_hash
from xmkd.errors import CacheError, XmkdError

Array = NDArray[np.generic]


@dataclass(frozen=True)
class CacheItem:
    """One array to be had: an image, or, with `mask`, the mask that belongs to it on the image's prepared grid."""

    source: Path
    prep: Prep
    modality: str | None = None
    mask: Path | None = None


@dataclass
class CacheReport:
    """What filling the cache did: arrays made, arrays found, and the message of each source that failed."""

    made: int = 0
    found: int = 0
    errors: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CacheListing:
    """One entry or pack on disk."""

    path: Path
    source: str
    shape: tuple[int, ...]
    nbytes: int
    age_days: float


@dataclass(frozen=True)
class PackedArray:
    """The arrays of many items in one memory map.

    Attributes:
        array: `(N, C, H, W)` or `(N, C, T, H, W)`, read-only.
        rows: For each item its row in `array`, int64; -1 where the item could not be read and was skipped.
        spacing_mm: For each row its spacing, None where unknown.
        errors: The message of each skipped source.
    """

    array: Array
    rows: NDArray[np.int64]
    spacing_mm: list[tuple[float, ...] | None]
    errors: dict[Path, str]


class ArrayCache:
    """Prepared arrays by source and settings.

    Args:
        folder: Where the arrays lie; by default `$XMKD_CACHE`, else `.cache/xmkd` under the current folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(folder or os.environ.get("XMKD_CACHE") or Path(".cache", "xmkd"))

    def get(self, source: Path, prep: Prep, *, modality: str | None = None) -> Array:
        """The prepared array of a file or series folder, as a read-only memory map; made if it isn't there yet."""
        return self.entry(CacheItem(source, prep, modality)).array

    def entry(self, item: CacheItem) -> Prepared:
        """The prepared array with its geometry.

        Raises:
            ReadError: The source can't be read or prepared.
            CacheError: The cache folder can't be written.
        """
        key = _key(item)
        return self._open(key) or self._make(key, item)

    def warm(
        self, items: Sequence[CacheItem], workers: int = 0, *, on_error: Literal["raise", "skip"] = "raise"
    ) -> CacheReport:
        """Make every array that is missing, in `workers` processes, under a progress bar.

        Raises:
            XmkdError: The first source that failed, unless `on_error` is "skip".
        """
        from rich.progress import track

        report = CacheReport()
        for item, (made, error) in zip(items, track(self._fill(items, workers), "caching", len(items)), strict=True):
            if error is not None:
                if on_error == "raise" or isinstance(error, CacheError):
                    raise error
                report.errors[item.source] = str(error)
            elif made:
                report.made += 1
            else:
                report.found += 1
        return report

    def pack(
        self, items: Sequence[CacheItem], workers: int = 0, *, on_error: Literal["raise", "skip"] = "raise"
    ) -> PackedArray:
        """All items in one memory map; they must share shape and type.

        Raises:
            XmkdError: A source failed and `on_error` is "raise", or the shapes differ.
        """
        key = hashlib.blake2b("".join(_key(i) for i in items).encode(), digest_size=16).hexdigest()
        meta = self._read_meta(f"pack-{key}")
        if meta is None:
            report = self.warm(items, workers, on_error=on_error)
            good = [i for i in items if i.source not in report.errors]
            entries = [self.entry(i) for i in good]
            shapes = {e.array.shape for e in entries}
            if len(shapes) != 1:
                raise CacheError(f"a pack needs arrays of one shape, not {sorted(shapes)}", where=items[0].source)
            rows, n = [], 0
            for item in items:
                rows.append(-1 if item.source in report.errors else n)
                n += rows[-1] >= 0
            meta = {
                "rows": rows,
                "spacings": [e.spacing_mm for e in entries],
                "errors": {str(k): v for k, v in report.errors.items()},
            }
            self._write(f"pack-{key}", np.stack([e.array for e in entries]), meta)
        spacings = [None if s is None else tuple(s) for s in meta["spacings"]]
        array = np.load(self.folder / f"pack-{key}.npy", mmap_mode="r")
        errors = {Path(k): v for k, v in meta["errors"].items()}
        return PackedArray(array, np.array(meta["rows"], np.int64), spacings, errors)

    def ls(self) -> list[CacheListing]:
        """What the cache holds, newest first."""
        found = []
        for path in self.folder.glob("*.json"):
            meta = self._read_meta(path.stem)
            if meta is not None:
                age = (time.time() - path.stat().st_mtime) / 86400
                found.append(
                    CacheListing(
                        path.with_suffix(".npy"), str(meta.get("source", "")), tuple(meta["shape"]), meta["size"], age
                    )
                )
        return sorted(found, key=lambda e: e.age_days)

    def clean(self, older_than_days: float | None = None, all: bool = False) -> int:  # noqa: A002
        """Delete entries made more than so many days ago, or all; returns the bytes freed."""
        freed = 0
        for path in list(self.folder.glob("*")):
            age = (time.time() - path.stat().st_mtime) / 86400
            if all or (older_than_days is not None and age > older_than_days):
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed

    def _fill(self, items: Sequence[CacheItem], workers: int) -> Iterator[tuple[bool, XmkdError | None]]:
        if workers == 0:
            yield from map(self._fill_one, items)
            return
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(self._fill_one, items, chunksize=8)

    def _fill_one(self, item: CacheItem) -> tuple[bool, XmkdError | None]:
        try:
            key = _key(item)
            if self._open(key) is not None:
                return False, None
            self._make(key, item)
        except XmkdError as error:
            return False, error
        return True, None

    def _open(self, key: str) -> Prepared | None:
        meta = self._read_meta(key)
        if meta is None:
            return None
        array = np.load(self.folder / f"{key}.npy", mmap_mode="r")
        spacing = None if meta["spacing_mm"] is None else tuple(meta["spacing_mm"])
        affine = None if meta["affine"] is None else np.array(meta["affine"])
        return Prepared(array, spacing, affine, np.array(meta["to_source"]))

    def _read_meta(self, key: str):  # type: ignore[no-untyped-def]
        try:
            meta = json.loads((self.folder / f"{key}.json").read_bytes())
            whole = (self.folder / f"{key}.npy").stat().st_size == meta["size"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return meta if whole else None

    def _make(self, key: str, item: CacheItem) -> Prepared:
        from xmkd.data.readers import read

        try:
            if item.mask is None:
                made = prepare(read(item.source), item.prep)
            else:
                image = self.entry(CacheItem(item.source, item.prep, item.modality))
                mask = read(item.mask).array[0]
                made = Prepared(
                    prepare_mask((mask > 0).astype(np.uint8), image), image.spacing_mm, image.affine, image.to_source
                )
        except XmkdError as error:
            if error.where is None:
                raise type(error)(error.what, where=item.source, fixes=error.fixes) from None
            raise
        meta = {
            "source": str(item.source),
            "spacing_mm": made.spacing_mm,
            "affine": None if made.affine is None else made.affine.tolist(),
            "to_source": made.to_source.tolist(),
        }
        self._write(key, made.array, meta)
        opened = self._open(key)
        if opened is None:
            raise CacheError("an array that was just written can't be read back", where=self.folder / f"{key}.npy")
        return opened

    def _write(self, key: str, array: Array, meta: dict[str, object]) -> None:
        array = np.ascontiguousarray(array)
        with _in_one_step(self.folder / f"{key}.npy") as file:
            np.save(file, array)
            size = file.tell()
        checksum = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
        meta = {**meta, "shape": array.shape, "size": size, "checksum": checksum}
        with _in_one_step(self.folder / f"{key}.json") as file:
            file.write(json.dumps(meta).encode())


@contextmanager
def _in_one_step(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under another name and move it into place, or leave nothing behind."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp-", delete=False) as file:
            temporary = Path(file.name)
            yield file
        temporary.replace(path)
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"can't write ({error.strerror})"
        raise CacheError(
            f"the cache could not be filled: {what}",
            where=path.parent,
            fixes=("free space there, for example with `xmkd cache clean`", "put it elsewhere: set XMKD_CACHE=FOLDER"),
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _key(item: CacheItem) -> str:
    parts = [str(item.modality), spec_hash(item.prep), _fingerprint(item.source)]
    if item.mask is not None:
        parts.append(_fingerprint(item.mask))
    return hashlib.blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


def _fingerprint(source: Path) -> str:
    """Path, size and time of a file, or of every file in a folder."""
    if source.is_dir():
        return ";".join(_fingerprint(p) for p in sorted(source.rglob("*")) if p.is_file())
    try:
        stat = source.stat()
    except OSError:
        return f"{source.absolute()}|missing"
    return f"{source.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
