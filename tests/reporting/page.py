"""A report as a reader sees it: its text, its tables, its pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """A parsed report; `problems` lists what is no proper HTML.

    Attributes:
        source: The file's text.
        rows: Cells of every table row.
        text: All that can be read.
        images: `src` and `alt` of every picture.
        links: Targets of the links.
        ids: Elements that a link can point to.
        captions: Text of each figure's caption.
        headings: Text of each section's heading.
    """

    source: str
    rows: list[list[str]] = field(default_factory=list)
    text: str = ""
    images: list[tuple[str, str]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.text = " ".join(self.text.replace("\xa0", " ").split())
        if self._open:
            self.problems.append(f"never closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag == "figcaption":
            self.captions.append("")
        if tag == "h2":
            self.headings.append("")
        if tag == "img":
            self.images.append((values["src"], values["alt"]))
        if tag == "a":
            self.links.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += f" {data}"
        data = data.replace("\xa0", " ")
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
        if "figcaption" in self._open:
            self.captions[-1] += data
        if "h2" in self._open:
            self.headings[-1] += data

    def row(self, name: str) -> list[str]:
        """The first table row that begins with this name."""
        return next(row for row in self.rows if row and row[0] == name)

    def confusion(self) -> list[list[int]]:
        """Counts of the confusion matrix."""
        start = next(i for i, row in enumerate(self.rows) if row and row[0].startswith("truth"))
        size = len(self.rows[start]) - 1
        return [[int(cell.split()[0]) for cell in row[1:]] for row in self.rows[start + 1 : start + 1 + size]]

    @property
    def readable(self) -> str:
        """The file without the content of its pictures."""
        return re.sub(r"data:[^\"]+", "data:", self.source)


def load(folder: Path) -> Page:
    """The report in a run folder."""
    return Page((folder / "report.html").read_text(encoding="utf-8"))
