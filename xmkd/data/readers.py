"""Read any image, clip or volume: `read(path) -> Image`.

DICOM files, folders and DICOMDIR sets, NIfTI, MetaImage, NRRD, PNG and JPEG (also BMP and TIFF), and NumPy clips.
Whatever is wrong with a file becomes a ReadError with its path and two ways out. The libraries of a format are imported
when a file of it is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xmkd.data.image import SKIP, Image, Kind, check_finite, decoding
from xmkd.errors import ReadError

if TYPE_CHECKING:
    import pandas as pd

    from xmkd.data.dicom_series import Series

__all__ = ["Image", "Kind", "Report", "list_series", "read", "read_all", "read_many", "write_nifti"]

_SHOWN = 5  # errors quoted in full where many files fail

# How encrypted files start: OpenSSL, PGP, and DICOM's secure files (a CMS envelope, PS3.15 annex D).
_ENCRYPTED = (b"Salted__", b"-----BEGIN PGP", b"-----BEGIN PKCS7", b"-----BEGIN CMS")
_CMS_ENVELOPE = bytes.fromhex("06092a864886f70d010703")  # object identifier 1.2.840.113549.1.7.3

_BY_CONTENT = {b"\x89PNG": "picture", b"\xff\xd8\xff": "picture"}
_BY_NAME = {
    ".nii": "volume", ".nii.gz": "volume", ".mha": "volume", ".mhd": "volume", ".nrrd": "volume", ".nhdr": "volume",
    ".png": "picture", ".jpg": "picture", ".jpeg": "picture", ".bmp": "picture", ".tif": "picture", ".tiff": "picture",
    ".npz": "array", ".npy": "array",
}  # fmt: skip


def read(path: str | os.PathLike[str], *, modality: str | None = None, series: str | None = None) -> Image:
    """Read an image, a clip or a volume.

    Args:
        path: A file, a folder with the slices of one DICOM series, or a DICOMDIR.
        modality: What the caller expects, such as "us", "tvus" or "mri"; a file that says otherwise is an error, and
            one that does not say takes it on.
        series: Series Instance UID, to choose one where a folder holds several.

    Raises:
        ReadError: The file is missing, empty, damaged, encrypted, no image, of another modality, of a volume without
            geometry, or holds NaN or infinite values.
    """
    path = Path(path)
    with decoding(path):
        image = _reader_of(path, series)(path, modality, series)
        _check_values(image, path)
    return image


def read_all(path: str | os.PathLike[str]) -> list[Image]:
    """Read every series of a folder or DICOMDIR: volumes of slices, and each still or clip on its own.

    Raises:
        ReadError: As `read`; the first file or series that can't be read stops it.
    """
    path = Path(path)
    with decoding(path):
        if path.is_file() and _reader_of(path, None) is not _read_series:
            return [read(path)]
        from xmkd.data import dicom_series

        _check_exists(path)
        images = dicom_series.read_all(path)
        for image in images:
            _check_values(image, path)
    return images


def list_series(path: str | os.PathLike[str]) -> list[Series]:
    """The DICOM image series in a folder (with its sub-folders) or DICOMDIR, by series number.

    Raises:
        ReadError: There is none, or a DICOM file is damaged.
    """
    path = Path(path)
    with decoding(path):
        from xmkd.data import dicom_series

        _check_exists(path)
        return dicom_series.list_series(path)


@dataclass
class Report:
    """What could not be read in bulk: one `(path, error)` per file, filled while the images are taken."""

    errors: list[tuple[Path, ReadError]] = field(default_factory=list)
    images: int = 0

    def table(self) -> pd.DataFrame:
        """One row per file that could not be read: `path`, `error` (what is wrong, one line)."""
        import pandas as pd

        rows = [(str(path), error.what) for path, error in self.errors]
        return pd.DataFrame(rows, columns=["path", "error"])


def read_many(
    paths: Iterable[str | os.PathLike[str]],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    modality: str | None = None,
) -> tuple[Iterator[tuple[Path, Image]], Report]:
    """Read many files one after the other, keeping one in memory at a time.

    Args:
        paths: What `read` takes.
        on_error: "raise" reads all and then raises one error that sums up; "skip" leaves bad files out.
        modality: As in `read`.

    Returns:
        The images with their paths, and the report, complete once the images are used up.

    Raises:
        ReadError: At the end of the iteration, if any file failed and `on_error` is "raise".
    """
    report = Report()

    def images() -> Iterator[tuple[Path, Image]]:
        for path in map(Path, paths):
            try:
                image = read(path, modality=modality)
            except ReadError as error:
                report.errors.append((path, error))
                continue
            report.images += 1
            yield path, image
        if report.errors and on_error == "raise":
            raise _summary(report)

    return images(), report


def write_nifti(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a volume (or image) with its geometry, for example a prediction in the space of the MRI it was made for.

    Args:
        image: `(C, D, H, W)` or `(C, H, W)`; several channels become vector components.
        path: `.nii` or `.nii.gz`; replaced in one step, so never half-written.

    Raises:
        ReadError: A clip, or a sheared affine, which NIfTI readers refuse.
    """
    from xmkd.data import volumes

    volumes.write_nifti(image, Path(path))


_Reader = Callable[[Path, str | None, str | None], Image]


def _reader_of(path: Path, series: str | None) -> _Reader:
    """Choose by content where it is telling, else by name."""
    _check_exists(path)
    if path.is_dir():
        return _read_series
    with path.open("rb") as file:
        start = file.read(132)
    if not start:
        raise ReadError("the file is empty", where=path, fixes=("copy or export it again", SKIP))
    if start.startswith(_ENCRYPTED) or (start[:1] == b"\x30" and _CMS_ENVELOPE in start[:64]):
        raise ReadError("the file is encrypted", where=path, fixes=("decrypt it first", SKIP))
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    kind = _BY_NAME.get(suffix)
    kind = next((k for mark, k in _BY_CONTENT.items() if start.startswith(mark)), kind)
    if start[128:] == b"DICM" or kind is None:
        return _dicom_reader(path, suffix)
    if series is not None:
        raise ReadError(
            "series= chooses within a DICOM folder, but this is a single file of another format",
            where=path,
            fixes=("leave out series=", "name a DICOM folder"),
        )
    return {"volume": _read_volume, "picture": _read_picture, "array": _read_array}[kind]


def _dicom_reader(path: Path, suffix: str) -> _Reader:
    from xmkd.data import dicom_header, dicom_series

    if not dicom_header.is_dicom(path):
        known = ", ".join(["DICOM", *_BY_NAME])
        raise ReadError(
            f"not an image file that can be read{' (no DICOM content)' if suffix in ('.dcm', '.ima') else ''}",
            where=path,
            fixes=(f"convert it to one of these: {known}", SKIP),
        )
    return _read_series if dicom_series.is_dicomdir(path) else _read_dicom


def _read_series(path: Path, modality: str | None, series: str | None) -> Image:
    from xmkd.data import dicom_series

    return dicom_series.read_series(path, modality=modality, series=series)


def _read_dicom(path: Path, modality: str | None, series: str | None) -> Image:
    from xmkd.data import dicom

    return dicom.read_file(path, modality=modality, series=series)


def _read_volume(path: Path, modality: str | None, series: str | None) -> Image:
    from xmkd.data import volumes

    return volumes.read_volume(path, modality)


def _read_picture(path: Path, modality: str | None, series: str | None) -> Image:
    from xmkd.data import pictures

    return pictures.read_picture(path, modality)


def _read_array(path: Path, modality: str | None, series: str | None) -> Image:
    from xmkd.data import pictures

    return pictures.read_array(path, modality)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise ReadError("no such file or folder", where=path, fixes=("correct the path or the data root", SKIP))
    if not (path.is_file() or path.is_dir()):  # opening a pipe would wait for ever
        raise ReadError("neither a file nor a folder", where=path, fixes=("name an image file", SKIP))


def _check_values(image: Image, path: Path) -> None:
    if image.array.size == 0:
        raise ReadError(f"an image without pixels: {image.array.shape}", where=path, fixes=("export it again", SKIP))
    check_finite(image.array, path)


def _summary(report: Report) -> ReadError:
    total = len(report.errors) + report.images
    lines = [f"{path}: {error.what}" for path, error in report.errors[:_SHOWN]]
    more = len(report.errors) - len(lines)
    if more:
        lines.append(f"and {more} more")
    return ReadError(
        "\n    ".join([f"{len(report.errors)} of {total} files can't be read:", *lines]),
        fixes=("repair or remove these files", "leave them out with data.on_error=skip"),
    )
