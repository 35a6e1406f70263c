"""Prepared arrays on disk, read through memory maps.

An entry is two files in the cache folder: `<key>.npy` and, written last, `<key>.json` with its geometry, size and
checksum. The key hashes path, size and time of every file of the source together with the settings and our own code: a
change of any of them leads to another key (docs/data.md says what that can't notice). A file is written beside its
place under another name and moved there in one step, so other processes never see half an entry.

A stream of many small arrays of one shape is read from a pack: all of them in one file, opened once. Checksums are
compared when an entry goes into a pack, and once in each process that opens a pack.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xmkd.data.cachefiles import CacheListing, Folder, Meta
from xmkd.data.preprocess import Prep, Prepared, mask_classes, prepare, prepare_mask, spec_hash
from xmkd.errors import CacheError, ReadError, XmkdError

Array = NDArray[np.generic]
OnError = Literal["raise", "skip"]

_FORMAT = "3"  # of the files; raise it when the sidecar changes
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)(.*)$", re.MULTILINE | re.IGNORECASE)
_ALONE = 64  # arrays that one process makes before a pool of processes would have started


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


@dataclass(frozen=True, eq=False)
class PackedArray:
    """The arrays of many items in one memory map.

    Attributes:
        path: The file.
        rows: For each item its row in `array`, int64 `(items,)`; -1 where the item could not be read and was skipped.
        spacing_mm: For each row its spacing, None where unknown.
        errors: The message of each skipped source.
        array: `(N, C, H, W)` or `(N, C, T, H, W)`, read-only.
    """

    path: Path
    rows: NDArray[np.int64]
    spacing_mm: list[tuple[float, ...] | None]
    errors: dict[Path, str]
    array: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", np.load(self.path, mmap_mode="r"))

    def __reduce__(self) -> tuple[object, ...]:
        """To another process goes the name of the file, not its content."""
        return PackedArray, (self.path, self.rows, self.spacing_mm, self.errors)


class ArrayCache:
    """Prepared arrays by source and settings.

    Args:
        folder: Where the arrays lie; by default `$XMKD_CACHE`, else `.cache/xmkd` under the current folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.files = Folder(Path(folder or os.environ.get("XMKD_CACHE") or Path(".cache", "xmkd")).absolute())

    @property
    def folder(self) -> Path:
        """Where the arrays lie."""
        return self.files.path

    def ls(self) -> list[CacheListing]:
        """What the cache holds, newest first."""
        return self.files.ls()

    def verify(self) -> list[Path]:
        """Delete entries whose content is damaged, so that they are made again; returns their paths."""
        return self.files.verify()

    def clean(self, older_than_days: float | None = None, *, all: bool = False) -> int:  # noqa: A002
        """Delete what was made more than so many days ago, or all; returns the bytes freed."""
        return self.files.clean(older_than_days, all=all)

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
        self, items: Sequence[CacheItem], workers: int | None = None, *, on_error: OnError = "raise"
    ) -> CacheReport:
        """Make every array that is missing, under a progress bar.

        Args:
            items: What to make.
            workers: Processes; by default one for each core where there is enough to do. 0 works in this process.
            on_error: Whether a source that can't be read stops everything or is listed in the report.

        Raises:
            XmkdError: The first source that failed, unless `on_error` is "skip".
        """
        missing = [item for item in items if self.files.meta(_key(item)) is None]
        report = CacheReport(found=len(items) - len(missing))
        for item, error in zip(missing, self._make_all(missing, workers), strict=True):
            if error is None:
                report.made += 1
            elif on_error == "raise" or isinstance(error, CacheError):
                raise error
            else:
                report.errors[item.source] = str(error)
        return report

    def pack(
        self, items: Sequence[CacheItem], workers: int | None = None, *, on_error: OnError = "raise"
    ) -> PackedArray:
        """All items in one memory map; they must share shape and type.

        What was skipped is tried again on every call, since a missing codec or a lost disk may be back. A pack is named
        after the items in it, so that one with other items never takes the place of one that is in use.

        Raises:
            XmkdError: A source failed and `on_error` is "raise", all failed, or the shapes differ.
        """
        key, errors = _pack_key(items), dict[Path, str]()
        meta = self.files.checked(key)
        if meta is None:
            errors = self.warm(items, workers, on_error=on_error).errors
            readable = [item for item in items if item.source not in errors]
            if errors and readable:
                key = _pack_key(readable)
                meta = self.files.checked(key)
            if not readable:
                raise ReadError("none of the files can be read: " + next(iter(errors.values()), "the list is empty"))
            meta = meta or self._pack(key, readable)
        good = np.array([item.source not in errors for item in items])
        return PackedArray(
            self.files.array_path(key),
            np.where(good, np.cumsum(good) - 1, -1),
            [None if s is None else tuple(s) for s in meta["spacing_mm"]],
            errors,
        )

    def _pack(self, key: str, items: Sequence[CacheItem]) -> Meta:
        spacings: list[tuple[float, ...] | None] = []
        shape: list[tuple[int, ...]] = []

        def arrays() -> Iterator[Array]:
            for item in items:
                entry_key = _key(item)
                entry = self._open(entry_key, check=True) or self._make(entry_key, item)
                shape.append(entry.array.shape)
                if shape[-1] != shape[0]:
                    raise ReadError(
                        f"the prepared array has shape {shape[-1]}, others have {shape[0]}",
                        where=item.source,
                        fixes=("set the preprocessing's size (and frames, for clips)", "keep stills and clips apart"),
                    )
                spacings.append(entry.spacing_mm)
                yield entry.array

        meta = {"source": f"pack of {len(items)}", "spacing_mm": spacings}  # filled while the arrays are written
        return self.files.write(key, arrays(), len(items), meta)

    def _make_all(self, items: Sequence[CacheItem], workers: int | None) -> Iterable[XmkdError | None]:
        """Make these arrays; for each None or what went wrong."""
        from rich.progress import track

        if workers is None:
            workers = min(len(items) // _ALONE, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        if workers <= 1:
            yield from track(map(self._try, items), "preparing", len(items), disable=not items)
            return
        pool = ProcessPoolExecutor(workers)
        try:
            yield from track(pool.map(self._try, items, chunksize=4), "preparing", len(items))
        except BrokenProcessPool:
            raise CacheError(
                "a process that prepared arrays was killed, most likely for want of memory",
                where=self.files.path,
                fixes=("run the command again: it goes on where it stopped", "free memory, or use a larger machine"),
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the rest need not be made

    def _try(self, item: CacheItem) -> XmkdError | None:
        try:
            self._make(_key(item), item)
        except XmkdError as error:
            return error
        return None

    def _make(self, key: str, item: CacheItem) -> Prepared:
        try:
            made = self._prepare(item)
        except XmkdError as error:
            if error.where is None:  # the steps see arrays, not files
                error = type(error)(error.what, where=item.mask or item.source, fixes=error.fixes)
            raise error from None
        meta = {
            "source": str(item.mask or item.source),
            "spacing_mm": made.spacing_mm,
            "affine": None if made.affine is None else made.affine.tolist(),
            "to_source": made.to_source.tolist(),
        }
        self.files.write(key, [made.array], None, meta)
        return made

    def _prepare(self, item: CacheItem) -> Prepared:
        from xmkd.data.readers import read

        if item.mask is None:
            return prepare(read(item.source, modality=item.modality), item.prep)
        image = self.entry(CacheItem(item.source, item.prep, item.modality))
        stored = read(item.mask).array  # (C, ...); of a colour mask all that has a colour counts, not what has red
        one: Array = np.any(stored, axis=0) if (stored != stored[:1]).any() else stored[0]
        mask = prepare_mask(mask_classes(one), image)
        return Prepared(mask, image.spacing_mm, image.affine, image.to_source)

    def _open(self, key: str, *, check: bool = False) -> Prepared | None:
        meta = self.files.checked(key) if check else self.files.meta(key)
        if meta is None:
            return None
        spacing = None if meta["spacing_mm"] is None else tuple(meta["spacing_mm"])
        affine = None if meta["affine"] is None else np.array(meta["affine"])
        return Prepared(self.files.open(key, meta), spacing, affine, np.array(meta["to_source"]))


def _key(item: CacheItem) -> str:
    mask = "" if item.mask is None else _fingerprint(item.mask)
    return _digest("|".join([_FORMAT, str(item.modality), spec_hash(item.prep), _fingerprint(item.source), mask]))


def _pack_key(items: Sequence[CacheItem]) -> str:
    return "pack-" + _digest("".join(_key(item) for item in items))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _fingerprint(source: Path) -> str:
    """Path, size and time of every file that reading this source may open."""
    if source.is_dir():
        return f"{source}/" + _stats(source.rglob("*"))
    if source.name.upper() == "DICOMDIR":  # an index of the files below its folder
        return _stats(source.parent.rglob("*"))
    if source.suffix.lower() in (".mhd", ".mha", ".nhdr", ".nrrd"):
        return _stats([source, *_data_files(source)])
    return _stat(source)


def _stats(paths: Iterable[Path]) -> str:
    return ";".join(_stat(path) for path in sorted(paths) if not path.is_dir())


def _stat(path: Path) -> str:
    try:
        stat = os.stat(path)  # noqa: PTH116 - called for every sample; twice as fast as Path.stat
    except OSError:
        return f"{path}?"
    return f"{os.path.abspath(path)}?{stat.st_size}?{stat.st_mtime_ns}"  # noqa: PTH100


def _data_files(header: Path) -> list[Path]:
    """The files beside a MetaImage or NRRD header that hold its voxels; none where they follow in the same file.

    Either format names one file, a pattern such as `slice%03d.raw 1 20 1`, or LIST with one name on each further line
    (itk.org, MetaIO; teem.sourceforge.net/nrrd/format.html, section 4).
    """
    try:
        with header.open("rb") as file:
            start = file.read(1 << 16)
            found = _DATA_FILE.search(start)
            named = "" if found is None else found[1].decode(errors="replace").strip()
            first = named.split(" ")[0]
            if found is None or first.upper() == "LOCAL":
                return []
            if first.upper() == "LIST":
                lines = (start[found.end() :] + file.read()).decode(errors="replace").splitlines()
                return [header.parent / line.strip() for line in lines if line.strip()]
    except OSError:
        return []
    if "%" in first:
        pattern = re.sub(r"%\d*d", "*", glob.escape(str(header.parent / first)))
        return [Path(path) for path in glob.glob(pattern)]  # noqa: PTH207 - the pattern may be absolute
    return [header.parent / named]
