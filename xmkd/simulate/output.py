"""Where simulated files go: each is written in one step, and errors name the option that chooses the place."""

from __future__ import annotations

from pathlib import Path

from xmkd.files import in_one_step, writing

OTHER_PLACE = "--out FOLDER"


def write_file(path: Path, content: bytes) -> None:
    """Write a file, replaced in one step; its folder is made.

    Raises:
        RunError: The disk is full, or the place can't be written.
    """
    with writing(path.parent, OTHER_PLACE):
        path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path, OTHER_PLACE) as unfinished:
        unfinished.write_bytes(content)
