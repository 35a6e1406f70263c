"""Other file formats, bulk reading and bad paths: geometry survives, and whatever is wrong has a name."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image as Pillow

from xmkd.data.readers import Image, read, read_many, write_nifti
from xmkd.errors import ReadError

from . import dicom_files as make
from .dicom_files import assert_same_place, volume

TOLERANCE_MM = 1e-3
XMKD_DATA = Path(os.environ.get("XMKD_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])

rng = np.random.default_rng(0)


# --- NIfTI, MetaImage, NRRD


@pytest.mark.parametrize("angles", [(0, 0, 0), (0.3, -0.2, 0.5), (np.pi / 2, 0, 0.1)])
def test_nifti_survives_from_dicom_to_nibabel_and_back(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    voxels, affine = volume(9, 12, 10), make.oblique_affine(angles=angles)
    make.write_series(make.mr_slices(voxels, affine), tmp_path / "dicom")
    path = tmp_path / "new" / "image.nii.gz"
    write_nifti(read(tmp_path / "dicom"), path)
    again = read(path, modality="mri")
    assert_same_place(again, affine)
    assert again.modality == "mri"
    np.testing.assert_array_equal(again.array[0], voxels)
    reference = nibabel.nifti1.load(path)  # an independent reader: index (w, h, d), RAS
    ras = LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]
    assert reference.affine is not None
    np.testing.assert_allclose(reference.affine, ras, atol=TOLERANCE_MM)
    np.testing.assert_array_equal(np.asarray(reference.dataobj), voxels.T)
    assert [p.name for p in path.parent.iterdir()] == ["image.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_volume_formats_keep_geometry_and_values(tmp_path: Path, suffix: str) -> None:
    voxels, affine = volume(6, 5, 7), make.oblique_affine()
    path = tmp_path / f"image{suffix}"
    SimpleITK.WriteImage(with_affine(voxels, affine), str(path))
    image = read(path)
    assert_same_place(image, affine)
    np.testing.assert_array_equal(image.array[0], voxels)


def with_affine(voxels: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(voxels)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_cut_volumes_are_named_errors(tmp_path: Path, suffix: str, compress: bool, share: float) -> None:
    path = tmp_path / f"image{suffix}"
    SimpleITK.WriteImage(with_affine(volume(12, 20, 20), make.oblique_affine()), str(path), useCompression=compress)
    largest = max(tmp_path.iterdir(), key=lambda p: p.stat().st_size)  # the data of .mhd and .nhdr lie beside them
    largest.write_bytes(largest.read_bytes()[: int(share * largest.stat().st_size)])
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.where == str(path)


def test_gzip_in_several_members_is_whole(tmp_path: Path) -> None:
    path, voxels = tmp_path / "image.nii", volume(6, 5, 7)
    SimpleITK.WriteImage(with_affine(voxels, make.oblique_affine()), str(path))
    raw = path.read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]))
    np.testing.assert_array_equal(read(tmp_path / "image.nii.gz").array[0], voxels)


def test_nifti_without_geometry(tmp_path: Path) -> None:
    def save(zooms: tuple[float, float, float]) -> Path:
        file = nibabel.nifti1.Nifti1Image(volume(5, 6, 7), None)
        file.header.set_zooms(zooms)
        nibabel.nifti1.save(file, tmp_path / "a.nii")
        return tmp_path / "a.nii"

    with pytest.raises(ReadError, match="without geometry"):
        read(save((1, 1, 1)))
    image = read(save((0.5, 0.6, 3)))  # a voxel size, but no orientation
    assert image.affine is None
    assert image.spacing_mm == pytest.approx((3, 0.6, 0.5))
    assert image.metadata["orientation"] == "unknown"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mha", "ObjectType = Image\nNDims = 3\nDimSize = 3 3 3\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 3 3\nencoding: raw\n\n"),
    ],
)
def test_volume_text_headers_without_geometry(tmp_path: Path, name: str, header: str) -> None:
    (tmp_path / name).write_bytes(header.encode() + bytes(27))
    with pytest.raises(ReadError, match="without geometry"):
        read(tmp_path / name)


def test_fourth_axis_counts_as_channels(tmp_path: Path) -> None:
    voxels = rng.normal(size=(7, 6, 5, 2)).astype(np.float32)  # (w, h, d, channel)
    nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(voxels, np.diag([1.0, 1, 2, 1])), tmp_path / "a.nii.gz")
    image = read(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.array, np.transpose(voxels, (3, 2, 1, 0)))
    write_nifti(image, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "b.nii.gz").array, image.array)


def test_nan_and_complex_values(tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[1, 2, 3] = np.nan
    affine = make.oblique_affine()
    SimpleITK.WriteImage(with_affine(voxels, affine), str(tmp_path / "a.mha"))
    # SimpleITK replaces NaN by zero when it writes or reads NIfTI, so these are written by nibabel.
    for order in "<>":
        for name in ("a.nii", "a.nii.gz"):
            header = nibabel.nifti1.Nifti1Header(endianness=order)
            nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(voxels.T, affine, header), tmp_path / (order + name))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ReadError, match="1 of 120 values are NaN"):
            read(path)
    SimpleITK.WriteImage(
        SimpleITK.Cast(with_affine(np.zeros((4, 5, 6), np.float32), np.eye(4)), SimpleITK.sitkComplexFloat32),
        str(tmp_path / "b.nii"),
    )
    with pytest.raises(ReadError, match="complex"):
        read(tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_that_does_not_fit_on_the_disk_is_no_file(tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands for the full disk; in a process of its own, since it can't be taken back."""
    code = """if True:
        import resource, signal, sys, numpy as np
        from xmkd.data.readers import Image, write_nifti
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        noise = np.random.default_rng(0).random((1, 32, 32, 32)).astype("float32")
        try:
            write_nifti(Image(noise, "volume", (1.0, 1.0, 1.0)), sys.argv[1])
        except Exception as error:
            print(type(error).__name__, error)
        """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ReadError the volume could not be written whole")
    assert not (tmp_path / name).exists()


def test_write_nifti_refuses_what_it_would_spoil(tmp_path: Path) -> None:
    clip = Image(np.zeros((1, 2, 4, 4), np.uint8), "clip")
    sheared = make.oblique_affine()
    sheared[:3, 0] += sheared[:3, 1]
    tilted = Image(np.zeros((1, 2, 4, 4), np.uint8), "volume", (3, 1, 1), sheared)
    for image in (clip, tilted):
        with pytest.raises(ReadError, match="can't be written"):
            write_nifti(image, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


# --- pictures and arrays


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [("L", (1, 6, 8), "uint8"), ("RGB", (3, 6, 8), "uint8"), ("I;16", (1, 6, 8), "uint16")],
)
def test_png_values(tmp_path: Path, mode: str, shape: tuple[int, ...], dtype: str) -> None:
    pixels = rng.integers(0, np.iinfo(dtype).max, (*shape[1:], shape[0])).astype(dtype)
    Pillow.fromarray(pixels if shape[0] == 3 else pixels[..., 0]).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png", modality="tvus")
    assert image.array.dtype == dtype
    assert (image.kind, image.modality, image.spacing_mm) == ("image", "us", None)
    np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1), pixels)
    assert image.array.flags.writeable


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3), ("1", 1), ("CMYK", 3)])
def test_other_picture_modes(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Pillow.fromarray(np.full((6, 8, 3), 255, np.uint8)).convert(mode).save(path)
    image = read(path)
    assert image.array.shape == (channels, 6, 8)
    assert image.array.min() == 255


def test_jpeg_equals_pillow_whatever_its_name(tmp_path: Path) -> None:
    pixels = np.tile(np.arange(0, 240, 5).astype(np.uint8), (32, 1))
    Pillow.fromarray(pixels).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert image.metadata["format"] == "jpeg"
    np.testing.assert_array_equal(image.array[0], np.asarray(Pillow.open(tmp_path / "a.png")))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_cut_pictures_are_named_errors(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    Pillow.fromarray(rng.integers(0, 255, (60, 80), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.where == str(path)


def test_picture_of_several_pages(tmp_path: Path) -> None:
    pages = [Pillow.new("L", (8, 6)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ReadError, match="3 pages"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize(("shape", "expected"), [((5, 6, 8), (1, 5, 6, 8)), ((5, 6, 8, 3), (3, 5, 6, 8))])
def test_numpy_clips(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    frames = rng.integers(0, 255, shape, np.uint8)
    np.savez(tmp_path / "a.npz", frames=frames, spacing_mm=[0.3, 0.2], frame_time_ms=40.0)
    np.save(tmp_path / "a.npy", frames.astype(">u2"))
    clip = read(tmp_path / "a.npz", modality="us")
    assert (clip.kind, clip.array.shape, clip.spacing_mm, clip.frame_time_ms) == ("clip", expected, (0.3, 0.2), 40.0)
    np.testing.assert_array_equal(clip.array, np.moveaxis(frames.reshape(5, 6, 8, -1), -1, 0))
    plain = read(tmp_path / "a.npy")
    assert plain.array.dtype.isnative
    np.testing.assert_array_equal(plain.array, clip.array)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"clip": np.zeros((3, 4, 5))}, "no array named frames, only clip"),
        ({"frames": np.zeros((16, 16, 3))}, "shape .* is no clip"),
        ({"frames": np.zeros((4, 8, 8, 2))}, "shape .* is no clip"),
        ({"frames": np.zeros((0, 8, 8))}, "without pixels"),
        ({"frames": np.array(["a", "b"])}, "values of type"),
        ({"frames": np.array([None, {}], dtype=object)}, "can't be decoded"),
    ],
)
def test_numpy_files_that_are_no_clip(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(ReadError, match=message):
        read(tmp_path / "a.npz")


def test_cut_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", frames=volume(4, 8, 8))
    whole = (tmp_path / "a.npz").read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.npz").write_bytes(whole[:keep])
        with pytest.raises(ReadError):
            read(tmp_path / "a.npz")


# --- any path


def test_paths_that_hold_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a" * 500)
    (tmp_path / "fake.dcm").write_text("a" * 500)
    (tmp_path / "secret.png").write_bytes(b"Salted__" + bytes(500))
    os.mkfifo(tmp_path / "pipe.dcm")  # reading it would wait for ever
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    expected = {
        "absent.png": "no such file",
        "gone.png": "no such file",
        "notes.txt": "not an image file",
        "fake.dcm": "no DICOM content",
        "secret.png": "encrypted",
        "pipe.dcm": "neither a file nor a folder",
    }
    for name, message in expected.items():
        with pytest.raises(ReadError, match=message) as caught:
            read(tmp_path / name)
        assert len(caught.value.fixes) == 2
    (tmp_path / "fake.dcm").unlink()
    with pytest.raises(ReadError, match="no DICOM image here"):
        read(tmp_path)


def test_series_means_nothing_for_other_formats(tmp_path: Path) -> None:
    Pillow.new("L", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match="series="):
        read(tmp_path / "a.png", series="1.2.3")


def test_bulk_reading_lists_all_errors(tmp_path: Path) -> None:
    for name in "abc":
        Pillow.new("L", (8, 6)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in "axbyczuvwts"]
    images, report = read_many(paths, on_error="skip", modality="us")
    assert [path.name for path, _ in images] == ["a.png", "b.png", "c.png"]
    assert report.images == 3
    assert list(report.table().columns) == ["path", "error"]
    assert report.table()["path"].tolist() == [str(p) for p in paths if not p.exists()]

    images, report = read_many(paths)
    with pytest.raises(ReadError, match="8 of 11 files can't be read") as caught:
        list(images)
    assert str(paths[1]) in str(caught.value)
    assert "and 3 more" in str(caught.value)
    assert len(report.errors) == 8

    images, report = read_many(paths[:1])
    assert len(list(images)) == 1
    assert report.table().empty


def test_importing_the_readers_loads_no_image_library() -> None:
    heavy = "{'pydicom', 'SimpleITK', 'PIL', 'pandas', 'torch'}"
    code = f"import sys, xmkd.data.readers; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.skipif(not XMKD_DATA.is_dir(), reason="XMKD_DATA is not there")
@pytest.mark.parametrize(
    ("pattern", "kind", "geometry"),
    [
        ("mmotu_tvus/images/0001.jpg", "image", False),
        ("hc18_fetal_head_us/masks/*.png", "image", False),
        ("pocus_lung_clips/clip_000.npz", "clip", False),
        ("tcia_prostate_mri/*.nii.gz", "volume", True),
        ("open_ms_brain/*.nii.gz", "volume", True),
        ("msd_hippocampus/images/*.nii.gz", "volume", True),
    ],
)
def test_real_files(pattern: str, kind: str, geometry: bool) -> None:
    files = sorted(XMKD_DATA.glob(pattern))[:25]
    assert files
    for file in files:
        image = read(file)
        assert image.kind == kind
        assert (image.affine is not None) == geometry
