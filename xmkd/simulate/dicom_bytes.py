"""DICOM files whose headers are the same but for a few elements: the rest is encoded once.

pydicom takes about a millisecond to write a file; a series of 24 slices would cost a tenth of the time of rendering it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

_WRITER = "2.25.57356586632671498265103285617826607155"  # Implementation Class UID, drawn once
_PIXELS = 0x7FE00010


class DicomFiles:
    """Files of one header in explicit VR little endian (PS3.10, chapter 7).

    Args:
        header: What all have in common, without pixels, SOP class and instance.
        sop_class: The kind of image.
        varying: Keywords of the elements that differ; all of them text.
    """

    def __init__(self, header: Dataset, sop_class: str, varying: Sequence[str] = ()) -> None:
        header.SOPClassUID = sop_class
        self._varying = sorted((_tag(keyword), keyword) for keyword in ("SOPInstanceUID", *varying))
        tags = [tag for tag, _ in self._varying]
        # What lies before, between and after the elements that differ, which come in the order of their tags.
        self._parts = [_encode(header[a:b]) for a, b in zip([None, *tags], [*tags, None], strict=True)]
        self._class = sop_class

    def file(self, values: Mapping[str, str], pixels: np.ndarray) -> bytes:
        """One file.

        Args:
            values: Of each element that differs.
            pixels: uint8 or int16, as they are to be stored.
        """
        body = [self._parts[0]]
        for (tag, keyword), part in zip(self._varying, self._parts[1:], strict=True):
            body += [_element(tag, values[keyword]), part]
        data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
        data += b"\0" * (len(data) % 2)
        kind = b"OB" if pixels.itemsize == 1 else b"OW"
        body.append(struct.pack("<HH2s2xI", _PIXELS >> 16, _PIXELS & 0xFFFF, kind, len(data)))
        return b"".join([self._preamble(values["SOPInstanceUID"]), *body, data])

    def _preamble(self, instance: str) -> bytes:
        """Preamble and file meta information (PS3.10, 7.1)."""
        meta = b"".join(
            [
                struct.pack("<HH2s2xI", 2, 1, b"OB", 2) + b"\0\1",
                _element(0x00020002, self._class),
                _element(0x00020003, instance),
                _element(0x00020010, ExplicitVRLittleEndian),
                _element(0x00020012, _WRITER),
                _element(0x00020013, "XMKD"),
            ]
        )
        return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword!r} is no DICOM keyword")
    return tag


def _element(tag: int, value: str) -> bytes:
    """A text element in explicit VR with a two-byte length (PS3.5, 7.1.2), padded to even length."""
    kind = dictionary_VR(tag).encode()
    text = value.encode()
    text += (b"\0" if kind == b"UI" else b" ") * (len(text) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind, len(text)) + text


def _encode(elements: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, elements)
    return buffer.getvalue()
