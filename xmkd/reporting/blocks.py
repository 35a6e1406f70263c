"""What a report is made of. The template renders a block by its `kind`; Python decides what it says."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import ClassVar

ABSOLUTE_PATH = re.compile(r"(?<![\w./\\~])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\'\",;:<>()]+[\\/])+([^\s/\\'\",;:<>()]*)")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    items: list[str]


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row.

    Attributes:
        header: Names of the columns.
        rows: Cells as text.
        caption: What one sees.
        source: The file or files that the figures come from.
    """

    kind: ClassVar[str] = "table"
    header: list[str]
    rows: list[list[str]]
    caption: str
    source: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, rows = truth.

    Attributes:
        names: The classes.
        counts: Samples, by truth and prediction.
        caption: What one sees.
        source: The file.
    """

    kind: ClassVar[str] = "matrix"
    names: list[str]
    counts: list[list[int]]
    caption: str
    source: str

    def share(self, row: int, column: int) -> float:
        """Share of a true class that was called so."""
        return self.counts[row][column] / max(1, sum(self.counts[row]))


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        src: Its `data:` address.
        title: A few words above it.
        alt: What a reader who can't see it must know.
        caption: What one sees.
        source: The file.
    """

    kind: ClassVar[str] = "figure"
    src: str
    title: str
    alt: str
    caption: str
    source: str


@dataclass(frozen=True)
class Sheet(Figure):
    """A wide picture of many small ones."""

    kind: ClassVar[str] = "sheet"


@dataclass(frozen=True)
class Picture:
    """A sample that the model got wrong.

    Attributes:
        src: `data:` address of the picture as the model saw it.
        overlay: The same with the Grad-CAM map, or None.
        title: What kind of mistake.
        lines: Sample id, truth, score.
        wide: Whether the picture is several slices side by side.
    """

    src: str
    overlay: str | None
    title: str
    lines: list[str]
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: list[Picture]
    caption: str
    source: str


@dataclass(frozen=True)
class Flow:
    """Steps from the first to the last, each with what was left out on the way to it.

    Attributes:
        steps: Title, count, and what was left out before it (or "").
        ends: Title and lines of the boxes that the last step divides into.
        caption: What one sees.
        source: The file.
    """

    kind: ClassVar[str] = "flow"
    steps: list[tuple[str, str, str]]
    ends: list[tuple[str, list[str]]]
    caption: str
    source: str


@dataclass(frozen=True)
class Code:
    """Text to copy, as it is."""

    kind: ClassVar[str] = "code"
    text: str
    caption: str
    source: str


Block = Text | Points | Table | Matrix | Figure | Gallery | Flow | Code


@dataclass
class Section:
    """A part of the report with its place in the table of contents."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def data_uri(content: bytes, media_type: str) -> str:
    """An address that holds the content itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def public(text: str) -> str:
    """Text whose absolute paths are cut to their last part: they name users and machines, and help no reader."""
    return ABSOLUTE_PATH.sub(r"…/\1", text)
