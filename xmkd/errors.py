"""The errors that a user can cause; the command line prints them as one message and exits with code 2.

Each says what is wrong, where (file, row, key, value) and, where possible, two ways out.
"""

from __future__ import annotations


class XmkdError(Exception):
    """Base of every error whose cause is the user's input rather than a defect of xmkd.

    Args:
        what: What is wrong, in one sentence.
        where: The file, row, key or value it was found at.
        fixes: Ways out, each an imperative sentence.
    """

    def __init__(self, what: str, *, where: object = None, fixes: tuple[str, ...] = ()) -> None:
        super().__init__(what, where, fixes)  # all of it, so that the error survives pickling between processes
        self.what = what
        self.where = None if where is None else str(where)
        self.fixes = fixes

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fixes)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        lines.extend(f"  {'either' if i == 0 else 'or'}: {fix}" for i, fix in enumerate(self.fixes))
        return "\n".join(lines)


def _rebuild(kind: type[XmkdError], what: str, where: str | None, fixes: tuple[str, ...]) -> XmkdError:
    return kind(what, where=where, fixes=fixes)


class ConfigError(XmkdError):
    """An experiment file or an override is wrong."""


class ManifestError(XmkdError):
    """A manifest, a card or a label table is wrong."""


class DataMissingError(XmkdError):
    """A data set is not where its card says it should be."""


class ReadError(XmkdError):
    """A file can't be read as an image: damaged, empty, encrypted, of another modality or without geometry."""


class CacheError(XmkdError):
    """The cache can't be written or read."""


class LeakageError(XmkdError):
    """Patients that a model was fitted on are about to be used to evaluate it."""


class EvaluationError(XmkdError):
    """A statistic can't be computed from what was given, such as an AUROC of a single class."""


class RunError(XmkdError):
    """A run folder is missing, unfinished, damaged or of another experiment."""


class Interrupted(Exception):  # noqa: N818  # nobody erred
    """Training was stopped by a signal; the same command goes on from the last checkpoint."""
