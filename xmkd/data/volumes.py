"""NIfTI, MetaImage and NRRD through SimpleITK, whose space (LPS mm) is ours."""

from __future__ import annotations

import gzip
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK

from xmkd.data.image import SKIP, Image, Kind, check_finite, modality_name
from xmkd.data.slices import voxel_size
from xmkd.errors import ReadError

_FORMATS = {".mha": "metaimage", ".mhd": "metaimage", ".nrrd": "nrrd", ".nhdr": "nrrd"}
# Words of which one must stand in the text header for the voxel size to be known.
_SPACING_WORDS = {"metaimage": (b"ElementSpacing", b"ElementSize"), "nrrd": (b"space directions:", b"spacings:")}


def read_volume(path: Path, modality: str | None) -> Image:
    """Read a volume `(C, D, H, W)`, or an image `(C, H, W)` where the file has two axes.

    A fourth axis counts as channels, as in the Medical Segmentation Decathlon. Header texts are not passed on.

    Raises:
        ReadError: The data are cut short, or a volume has no voxel size.
    """
    form = _FORMATS.get(path.suffix.lower(), "nifti")
    with _quiet():
        found = SimpleITK.ReadImage(str(path))
    oriented, sized = True, True
    if form == "nifti":
        facts = {key: found.GetMetaData(key) for key in found.GetMetaDataKeys()}
        _check_complete(path, facts)
        _check_nifti_values(path, facts)
        # Codes of 0 mean that the file gives no orientation (nifti1.h, "method 1"); what nibabel writes for no affine.
        oriented = int(facts["qform_code"]) > 0 or int(facts["sform_code"]) > 0
        sized = oriented or any(float(facts[f"pixdim[{i}]"]) != 1 for i in (1, 2, 3))
    else:
        with path.open("rb") as file:
            start = file.read(8192)
        sized = any(word in start for word in _SPACING_WORDS[form])
    array, size, affine = _array_of(found, path)
    kind: Kind = "image" if affine is None else "volume"
    if kind == "volume" and not sized:
        raise ReadError(
            "a volume without geometry: the file gives neither voxel size nor orientation",
            where=path,
            fixes=("convert it again from the DICOM series", "set its affine, for example with nibabel's set_sform"),
        )
    metadata: dict[str, str | float | int] = {"format": form}
    if not oriented:
        metadata["orientation"] = "unknown"
    return Image(
        array, kind, size if sized else None, affine if oriented else None, modality_name(modality), None, metadata
    )


def write_nifti(image: Image, path: Path) -> None:
    """See `xmkd.data.readers.write_nifti`."""
    if image.kind == "clip" or not path.name.endswith((".nii", ".nii.gz")):
        what = "a clip" if image.kind == "clip" else f"a file named {path.name}"
        raise ReadError(f"{what} can't be written as NIfTI", where=path, fixes=("name it .nii.gz", "save it as .npz"))
    array = image.array if image.kind == "volume" else image.array[:, None]  # (C, D, H, W)
    array = array.astype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, array.dtype))
    vector = len(array) > 1
    volume = SimpleITK.GetImageFromArray(np.moveaxis(array, 0, -1) if vector else array[0], isVector=vector)
    if image.affine is not None:
        size = np.array(voxel_size(image.affine))
        axes = image.affine[:3, :3] / size  # columns: directions of d, h, w
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise ReadError(
                "a sheared volume (tilted gantry) can't be written as NIfTI",
                where=path,
                fixes=("resample it to right angles first", "keep it as .npy"),
            )
        volume.SetSpacing(size[::-1].tolist())
        volume.SetDirection(axes[:, ::-1].ravel().tolist())
        volume.SetOrigin(image.affine[:3, 3].tolist())
    elif image.spacing_mm is not None:
        volume.SetSpacing([*image.spacing_mm[::-1], 1.0][:3])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        SimpleITK.WriteImage(volume, str(unfinished), useCompression=True)
        if not _is_whole(unfinished, array.nbytes):  # on a full disk ITK prints a line and goes on
            raise ReadError(
                "the volume could not be written whole: the disk may be full",
                where=path,
                fixes=("free space there and run again", "write to another place"),
            )
        unfinished.replace(path)


def _is_whole(path: Path, least: int) -> bool:
    """Whether a written file holds that many bytes, uncompressed; ITK reads a cut file without a word."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            return sum(len(part) for part in iter(lambda: file.read(1 << 20), b"")) >= least
    except (OSError, EOFError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _array_of(found: SimpleITK.Image, path: Path) -> tuple[np.ndarray, tuple[float, ...], np.ndarray | None]:
    """Array with channels first, spacing and affine in array order; no affine for an image of two axes."""
    array = SimpleITK.GetArrayFromImage(found)  # axes reversed: (T, D, H, W, components)
    if array.dtype.kind == "c":
        raise ReadError("complex values", where=path, fixes=("write magnitude and phase as two files", SKIP))
    axes = found.GetDimension()
    if found.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    if axes == 4:
        array, axes = np.concatenate(list(array), axis=-1), 3  # (D, H, W, T * components)
    if axes not in (2, 3):
        raise ReadError(f"{axes} axes instead of 2 to 4", where=path, fixes=("split it into volumes", SKIP))
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    spacing = tuple(found.GetSpacing()[:axes][::-1])
    if axes == 2:
        return array, spacing, None
    columns = np.array(found.GetDirection()).reshape(found.GetDimension(), -1)[:3, :3] * found.GetSpacing()[:3]
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = found.GetOrigin()[:3]
    return array, spacing, affine


def _check_complete(path: Path, facts: dict[str, str]) -> None:
    """ITK fills what a cut NIfTI file lacks with zeros without a word: compare its length with the header."""
    count = math.prod(max(1, int(facts[f"dim[{i}]"])) for i in range(1, int(facts["dim[0]"]) + 1))
    expected = int(float(facts["vox_offset"])) + count * int(facts["bitpix"]) // 8
    compressed = _is_gzip(path)
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        # A gzip file ends with its content's length modulo 2^32 (RFC 1952); a cut one with something else.
        found = int.from_bytes(file.read(4), "little") if compressed else path.stat().st_size
    if compressed and found != expected % 2**32:
        found = _inflated_size(path)  # several members or padding: count; a cut file raises EOFError
    if found < expected % (2**32 if compressed else 2**63):
        raise ReadError(
            f"the file is cut short: {found} of {expected} bytes",
            where=path,
            fixes=("copy or convert it again", SKIP),
        )


def _check_nifti_values(path: Path, facts: dict[str, str]) -> None:
    """ITK turns NaN and infinity in NIfTI files into zeros without a word: look at the stored values themselves."""
    kind = {16: "f4", 64: "f8"}.get(int(facts["datatype"]))  # DT_FLOAT32 and DT_FLOAT64 of nifti1.h
    if kind is None:
        return
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        # The header starts with its own size, 348 bytes (NIfTI-1) or 540 (NIfTI-2), which tells the byte order.
        order = "<" if int.from_bytes(file.read(4), "little") in (348, 540) else ">"
        file.seek(int(float(facts["vox_offset"])))
        data = file.read()
    size = int(kind[1])
    check_finite(np.frombuffer(data[: len(data) // size * size], order + kind), path)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _inflated_size(path: Path) -> int:
    size = 0
    with gzip.open(path) as file:
        while part := file.read(1 << 20):
            size += len(part)
    return size
