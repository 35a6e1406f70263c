"""Writing files so that nobody ever sees half of one, and so that a full disk is a message rather than a traceback."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from xmkd.errors import RunError


@contextmanager
def writing(place: Path, elsewhere: str = "runs=FOLDER") -> Iterator[None]:
    """Around anything that writes to `place`.

    Args:
        place: The file or folder.
        elsewhere: What the user gives to write to another place.

    Raises:
        RunError: The disk is full, or the place can't be written.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RunError(
            "the disk is full" if full else f"this can't be written ({error.strerror or error})",
            where=place,
            fixes=(
                "free space there; the same command then goes on" if full else "make it writable",
                f"write elsewhere: {elsewhere}",
            ),
        ) from error


@contextmanager
def in_one_step(path: Path, elsewhere: str = "runs=FOLDER") -> Iterator[Path]:
    """A file to write beside `path`; it takes its place in the end, or is gone if anything went wrong.

    Args:
        path: The file.
        elsewhere: As `writing`.

    Raises:
        RunError: As `writing`.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    with writing(path.parent, elsewhere):
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one step."""
    with in_one_step(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file in one step."""
    with in_one_step(path) as unfinished:
        table.to_csv(unfinished, index=False)
