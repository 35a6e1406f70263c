from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image as Pillow

from xmkd.data import cache as cache_module
from xmkd.data import preprocess
from xmkd.data.cache import ArrayCache, CacheItem
from xmkd.data.image import Image
from xmkd.data.preprocess import MriPrep, UltrasoundPrep, prepare
from xmkd.data.readers import read
from xmkd.errors import CacheError, ReadError

PREP = UltrasoundPrep(size=(32, 32))


def make_image(path: Path, seed: int = 0) -> Path:
    Pillow.fromarray(np.random.default_rng(seed).integers(20, 200, (48, 64), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [make_image(tmp_path / f"{i}.png", seed=i) for i in range(6)]


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


def count_preparations(monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    seen: list[Image] = []

    def counting(image: Image, prep: preprocess.Prep) -> preprocess.Prepared:
        seen.append(image)
        return prepare(image, prep)

    monkeypatch.setattr(cache_module, "prepare", counting)
    return seen


def test_an_array_is_prepared_once_and_read_back_equal(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_preparations(monkeypatch)
    expected = prepare(read(images[0]), PREP)
    for _ in range(3):
        entry = cache.entry(CacheItem(images[0], PREP))
        np.testing.assert_array_equal(entry.array, expected.array)
        np.testing.assert_array_equal(entry.to_source, expected.to_source)
        assert entry.spacing_mm == expected.spacing_mm
    assert len(seen) == 1
    again = cache.get(images[0], PREP)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable


def test_another_source_setting_or_code_leads_to_another_entry(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_preparations(monkeypatch)
    before = np.array(cache.get(images[0], PREP))
    cache.get(images[0], UltrasoundPrep(size=(32, 32), crop_sector=False))
    assert len(seen) == 2
    monkeypatch.setattr(preprocess, "code_hash", lambda: "other code")
    cache.get(images[0], PREP)
    assert len(seen) == 3
    make_image(images[0], seed=99)
    assert not np.array_equal(cache.get(images[0], PREP), before)


def test_a_series_folder_is_made_anew_when_one_of_its_files_changes(
    cache: ArrayCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "series" / "deep").mkdir(parents=True)
    for name in ("series/1.dcm", "series/deep/2.dcm"):
        (tmp_path / name).write_bytes(b"slice")
    reads: list[Path] = []

    def fake_read(path: Path, modality: str | None = None) -> Image:
        reads.append(path)
        return Image(np.arange(4096, dtype=np.uint8).reshape(1, 64, 64), "image")

    monkeypatch.setattr("xmkd.data.readers.read", fake_read)
    cache.get(tmp_path / "series", PREP)
    cache.get(tmp_path / "series", PREP)
    assert len(reads) == 1
    (tmp_path / "series" / "deep" / "2.dcm").write_bytes(b"another slice")
    cache.get(tmp_path / "series", PREP)
    assert len(reads) == 2


METAIMAGE = "ObjectType = Image\nNDims = 3\nDimSize = 8 6 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 2\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 8 6 4\nspacings: 1 1 2\nencoding: raw\n"
DETACHED = [
    ("v.mhd", METAIMAGE + "ElementDataFile = the voxels.raw\n", ["the voxels.raw"]),
    ("v.mhd", METAIMAGE + "ElementDataFile = v%02d.raw 1 4 1\n", [f"v{i:02d}.raw" for i in (1, 2, 3, 4)]),
    ("v.mhd", METAIMAGE + "ElementDataFile = LIST\na.raw\nb.raw\nc.raw\nd.raw\n", ["a.raw", "b.raw", "c.raw", "d.raw"]),
    ("v.nhdr", NRRD + "data file: deep/voxels.raw\n", ["deep/voxels.raw"]),
    ("v.nhdr", NRRD + "data file: v%02d.raw 1 4 1 2\n", [f"v{i:02d}.raw" for i in (1, 2, 3, 4)]),
    ("v.nhdr", NRRD + "data file: LIST 2\na.raw\nb.raw\nc.raw\nd.raw\n", ["a.raw", "b.raw", "c.raw", "d.raw"]),
]


@pytest.mark.parametrize("name, header, parts", DETACHED)
def test_voxels_rewritten_beside_their_header_are_read_again(
    cache: ArrayCache, tmp_path: Path, name: str, header: str, parts: list[str]
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / name).write_text(header)

    def write_voxels(seed: int, wanted: list[str]) -> None:
        voxels = np.random.default_rng(seed).integers(0, 200, (len(parts), 192 // len(parts)), dtype=np.uint8)
        for part, values in zip(parts, voxels, strict=True):
            if part in wanted:
                (tmp_path / part).write_bytes(values.tobytes())
                os.utime(tmp_path / part, (seed, seed))

    write_voxels(1, parts)
    before = np.array(cache.get(tmp_path / name, MriPrep()))
    np.testing.assert_array_equal(cache.get(tmp_path / name, MriPrep()), before)
    assert len(cache.ls()) == 1
    write_voxels(2, parts[-1:])
    after = cache.get(tmp_path / name, MriPrep())
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, prepare(read(tmp_path / name), MriPrep()).array)


def test_a_dicomdir_is_read_again_when_a_file_it_lists_changes(
    cache: ArrayCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disc = tmp_path / "disc"
    (disc / "study").mkdir(parents=True)
    for name in ("DICOMDIR", "study/1"):
        (disc / name).write_bytes(b"something")
    ramp = Image(np.arange(4096, dtype=np.uint8).reshape(1, 64, 64), "image")
    monkeypatch.setattr("xmkd.data.readers.read", lambda path, modality=None: ramp)
    seen = count_preparations(monkeypatch)
    for _ in range(2):
        cache.get(disc / "DICOMDIR", PREP)
    assert len(seen) == 1
    (disc / "study" / "1").write_bytes(b"something else")
    cache.get(disc / "DICOMDIR", PREP)
    assert len(seen) == 2


def damage_sidecar(array: Path) -> None:
    array.with_suffix(".json").write_text('{"shape": [1, 32')


def cut_short(array: Path) -> None:
    os.truncate(array, array.stat().st_size // 2)


def lose_array(array: Path) -> None:
    array.unlink()


@pytest.mark.parametrize("harm", [damage_sidecar, cut_short, lose_array])
def test_a_damaged_entry_is_rebuilt(cache: ArrayCache, images: list[Path], harm: Any) -> None:
    expected = np.array(cache.get(images[0], PREP))
    harm(cache.ls()[0].path)
    np.testing.assert_array_equal(cache.get(images[0], PREP), expected)
    assert len(cache.ls()) == 1


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def flip_header(array: Path) -> None:
    flip(array, 20)


def flip_content(array: Path) -> None:
    flip(array, -5)


def change_sidecar(array: Path) -> None:
    sidecar = array.with_suffix(".json")
    sidecar.write_text(re.sub(r'("spacing_mm": \[?)null', r"\1[1.0, 1.0]", sidecar.read_text()))


FLIPS = [flip_header, flip_content, change_sidecar]


@pytest.mark.parametrize("harm", FLIPS)
def test_a_flipped_byte_in_an_entry_does_not_get_into_a_pack(cache: ArrayCache, images: list[Path], harm: Any) -> None:
    items = [CacheItem(p, PREP) for p in images]
    expected = np.stack([cache.get(p, PREP) for p in images])
    victim = cache.ls()[2].path
    harm(victim)
    with pytest.warns(UserWarning, match=f"{victim.name} is damaged"):
        pack = cache.pack(items)
    np.testing.assert_array_equal(pack.array, expected)
    assert pack.spacing_mm == [None] * len(items)
    assert cache.verify() == []  # the entry is mended too


@pytest.mark.parametrize("harm", FLIPS)
def test_a_flipped_byte_in_a_pack_is_mended(cache: ArrayCache, images: list[Path], harm: Any) -> None:
    items = [CacheItem(p, PREP) for p in images]
    pack = cache.pack(items)
    expected = np.array(pack.array)
    harm(pack.path)
    with pytest.warns(UserWarning, match=f"{pack.path.name} is damaged"):
        mended = cache.pack(items)
    np.testing.assert_array_equal(mended.array, expected)
    assert mended.spacing_mm == [None] * len(items)
    with warnings.catch_warnings(action="error"):
        assert cache.pack(items).path == mended.path


def test_a_process_reads_a_pack_through_once(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [CacheItem(p, PREP) for p in images]
    cache.pack(items)
    opened: list[str] = []
    plain_open = Path.open

    def spy(path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(path.name)
        return plain_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", spy)
    packs = [cache.pack(items) for _ in range(3)]
    assert opened.count(packs[0].path.name) == 1


def test_a_pack_too_large_to_be_read_through_is_left_to_verify(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [CacheItem(p, PREP) for p in images]
    pack = cache.pack(items)
    flip_content(pack.path)
    monkeypatch.setattr("xmkd.data.cachefiles._CHECKED_BYTES", pack.path.stat().st_size - 1)
    assert cache.pack(items).path == pack.path
    assert cache.verify() == [pack.path]


def test_verify_finds_a_flipped_byte(cache: ArrayCache, images: list[Path]) -> None:
    for path in images[:3]:
        cache.get(path, PREP)
    cache.pack([CacheItem(p, PREP) for p in images[:3]])
    assert cache.verify() == []
    victim = cache.ls()[1].path
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)
    assert cache.verify() == [victim]
    assert not victim.exists()
    assert len(cache.ls()) == 3


WRITER = """
import sys
from pathlib import Path
from xmkd.data.cache import ArrayCache, CacheItem
from xmkd.data.preprocess import UltrasoundPrep
cache = ArrayCache(Path(sys.argv[1]))
cache.pack([CacheItem(Path(p), UltrasoundPrep(size=(32, 32))) for p in sys.argv[2:]], workers=0)
"""


def test_processes_that_write_at_the_same_time_do_no_harm(cache: ArrayCache, tmp_path: Path) -> None:
    images = [make_image(tmp_path / f"{i}.png", seed=i) for i in range(40)]
    command = [sys.executable, "-c", WRITER, str(cache.folder), *map(str, images)]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert cache.verify() == []
    assert len(cache.ls()) == 41
    assert len(list(cache.folder.iterdir())) == 82  # no temporary files
    for path in images[::7]:
        np.testing.assert_array_equal(cache.get(path, PREP), prepare(read(path), PREP).array)


class FullDisk:
    """A file on a disk that fills up after some bytes."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def tell(self) -> int:
        return self.file.tell()

    def write(self, data: bytes) -> int:
        if self.file.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


@pytest.mark.parametrize("call", ["get", "warm", "pack"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_full_disk_is_one_clear_error_with_nothing_half_written(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch, call: str, on_error: Any
) -> None:
    plain_open = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = plain_open(path, mode, *args, **kwargs)
        return FullDisk(file, 600) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    items = [CacheItem(p, PREP) for p in images]
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: cache.get(images[0], PREP),
        "warm": lambda: cache.warm(items, workers=0, on_error=on_error),
        "pack": lambda: cache.pack(items, workers=0, on_error=on_error),
    }
    with pytest.raises(CacheError, match="disk is full") as caught:
        calls[call]()
    assert str(cache.folder) in str(caught.value)
    assert len(caught.value.fixes) == 2
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_a_clear_error(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="can't be written"):
        ArrayCache(tmp_path / "file" / "cache").get(images[0], PREP)


def test_what_a_killed_writer_leaves_is_no_entry_and_goes_with_clean(cache: ArrayCache, images: list[Path]) -> None:
    cache.get(images[0], PREP)
    orphan, fresh = (cache.folder / f".tmp-{c * 32}" for c in "ab")
    foreign = cache.folder / "thesis.npy"
    for path in (orphan, fresh, foreign):
        path.write_bytes(b"half")
    os.utime(orphan, (time.time() - 7200,) * 2)
    assert len(cache.ls()) == 1
    assert cache.clean() == 4
    assert not orphan.exists()
    assert fresh.exists()  # its writer may still be at work
    assert cache.clean(all=True) > 1024
    assert cache.ls() == []
    assert foreign.exists()


def test_clean_keeps_what_is_young(cache: ArrayCache, images: list[Path]) -> None:
    for path in images[:2]:
        cache.get(path, PREP)
    old = cache.ls()[0].path
    for path in (old, old.with_suffix(".json")):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    cache.clean(older_than_days=5)
    assert [entry.path == old for entry in cache.ls()] == [False]


def test_warm_reports_what_was_made_found_and_failed(cache: ArrayCache, images: list[Path]) -> None:
    images[2].write_bytes(b"not an image")
    items = [CacheItem(p, PREP) for p in images]
    cache.get(images[0], PREP)
    report = cache.warm(items, on_error="skip")
    assert (report.made, report.found, list(report.errors)) == (4, 1, [images[2]])
    assert str(images[2]) in report.errors[images[2]]
    with pytest.raises(ReadError, match=r"2\.png"):
        cache.warm(items)


def test_an_image_without_sense_is_named(cache: ArrayCache, tmp_path: Path) -> None:
    path = tmp_path / "blank.png"
    Pillow.fromarray(np.full((32, 32), 7, np.uint8)).save(path)
    with pytest.raises(ReadError, match="same value") as caught:
        cache.get(path, PREP)
    assert caught.value.where == str(path)


def test_worker_processes_make_the_same_arrays(cache: ArrayCache, images: list[Path], tmp_path: Path) -> None:
    items = [CacheItem(p, PREP) for p in images]
    alone = ArrayCache(tmp_path / "other").pack(items, workers=0)
    np.testing.assert_array_equal(cache.pack(items, workers=2).array, alone.array)
    images[1].write_bytes(b"")
    with pytest.raises(ReadError, match=r"1\.png"):
        cache.pack(items, workers=2)


def test_an_error_stops_the_workers_early(cache: ArrayCache, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    images = [make_image(tmp_path / f"{i}.png", seed=i) for i in range(200)]
    with pytest.raises(ReadError, match=r"bad\.png"):
        cache.warm([CacheItem(p, PREP) for p in [tmp_path / "bad.png", *images]], workers=2)
    assert len(cache.ls()) < 200


def test_a_pack_holds_every_readable_item_in_order(cache: ArrayCache, images: list[Path]) -> None:
    images[2].write_bytes(b"not an image")
    items = [CacheItem(p, PREP) for p in images]
    for _ in range(2):  # made, then found
        pack = cache.pack(items, on_error="skip")
        assert pack.array.shape == (5, 1, 32, 32)
        assert pack.array.dtype == np.uint8
        assert pack.rows.tolist() == [0, 1, -1, 2, 3, 4]
        assert list(pack.errors) == [images[2]]
        assert pack.spacing_mm == [None] * 5
        np.testing.assert_array_equal(pack.array[3], cache.get(images[4], PREP))
    with pytest.raises(ReadError, match=r"2\.png"):
        cache.pack(items)
    make_image(images[2])
    assert cache.pack(items).rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_was_skipped_is_tried_again_and_joins_once_it_can_be_read(
    cache: ArrayCache, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [CacheItem(p, PREP) for p in images]
    away = set(images[1:3])

    def flaky_read(path: Path, modality: str | None = None) -> Image:
        if path in away:
            raise ReadError("no codec", where=path)
        return read(path, modality=modality)

    monkeypatch.setattr("xmkd.data.readers.read", flaky_read)
    seen = count_preparations(monkeypatch)
    first = cache.pack(items, on_error="skip")
    again = cache.pack(items, on_error="skip")
    assert first.rows.tolist() == again.rows.tolist() == [0, -1, -1, 1, 2, 3]
    assert (first.path, list(again.errors)) == (again.path, images[1:3])
    assert len(seen) == 4
    away.remove(images[1])
    partly = cache.pack(items, on_error="skip")
    assert partly.rows.tolist() == [0, 1, -1, 2, 3, 4]
    away.clear()
    whole = cache.pack(items, on_error="skip")
    assert (whole.rows.tolist(), whole.errors) == ([0, 1, 2, 3, 4, 5], {})
    assert len(seen) == 6
    np.testing.assert_array_equal(whole.array, [cache.get(p, PREP) for p in images])
    # A run that still uses the first pack and opens it in another process finds its own rows there.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).array, whole.array[[0, 3, 4, 5]])


def test_a_pack_travels_to_another_process_by_name(cache: ArrayCache, images: list[Path]) -> None:
    pack = cache.pack([CacheItem(p, PREP) for p in images])
    sent = pickle.dumps(pack)
    assert len(sent) < 2000 < pack.array.nbytes
    np.testing.assert_array_equal(pickle.loads(sent).array, pack.array)


def test_a_pack_of_unequal_shapes_names_the_file(cache: ArrayCache, images: list[Path]) -> None:
    items = [CacheItem(images[0], PREP), CacheItem(images[1], UltrasoundPrep(size=(16, 16)))]
    with pytest.raises(ReadError, match=r"\(1, 16, 16\).*\(1, 32, 32\)") as caught:
        cache.pack(items)
    assert caught.value.where == str(images[1])
    assert len(list(cache.folder.glob("pack*"))) == 0


def test_a_pack_of_nothing_readable_is_an_error(cache: ArrayCache, images: list[Path]) -> None:
    images[0].write_bytes(b"")
    with pytest.raises(ReadError, match="none of the files"):
        cache.pack([CacheItem(images[0], PREP)], on_error="skip")


def test_a_mask_follows_its_image(cache: ArrayCache, tmp_path: Path) -> None:
    picture = np.zeros((100, 200), np.uint8)
    picture[20:80, 60:140] = np.random.default_rng(0).integers(60, 200, (60, 80))
    mask = np.zeros((100, 200), np.uint8)
    mask[20:50, 60:140] = 255
    Pillow.fromarray(picture).save(tmp_path / "image.png")
    Pillow.fromarray(mask).save(tmp_path / "mask.png")
    item = CacheItem(tmp_path / "image.png", PREP, mask=tmp_path / "mask.png")
    got = cache.entry(item).array
    assert got.shape == (32, 32)
    assert set(np.unique(got).tolist()) == {0, 1}
    image = cache.get(tmp_path / "image.png", PREP)[0]
    assert got[image > 60].mean() == pytest.approx(0.5, abs=0.05)


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMKD_CACHE", str(tmp_path / "there"))
    assert ArrayCache().folder == tmp_path / "there"
    assert ArrayCache(tmp_path / "here").folder == tmp_path / "here"
    monkeypatch.delenv("XMKD_CACHE")
    monkeypatch.chdir(tmp_path)
    assert ArrayCache().folder == tmp_path / ".cache" / "xmkd"


def test_the_sidecar_agrees_with_numpy(cache: ArrayCache, images: list[Path]) -> None:
    cache.get(images[0], PREP)
    entry = cache.ls()[0]
    plain = np.load(entry.path)
    meta = json.loads(entry.path.with_suffix(".json").read_text())
    assert plain.shape == entry.shape == tuple(meta["shape"])
    np.testing.assert_array_equal(plain, cache.get(images[0], PREP))
