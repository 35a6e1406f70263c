"""Keyed hashes that stand for patient ids in manifests and in the provenance of runs.

A plain hash of a hospital number is undone by hashing every possible number; a keyed one (HMAC-SHA256, RFC 2104)
is not, as long as the key stays secret. There is one key, called the salt, per project: two runs can be compared for
shared patients only when they used the same salt, which `fingerprint` tells without giving it away.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from xmkd.errors import ConfigError
from xmkd.files import writing

SALT_VARIABLE = "XMKD_SALT"
SALT_FILE = ".xmkd_salt"
_MIN_CHARACTERS = 16  # patient numbers are short, so the salt alone stands between a hash and a guess


def salt(runs_root: Path | str) -> bytes:
    """Return the project's secret, making it on first use.

    Args:
        runs_root: Folder that holds the runs; the secret lies there in a git-ignored file that only its owner can read.

    Returns:
        The value of `XMKD_SALT` where it is set, else the content of `<runs_root>/.xmkd_salt`.

    Raises:
        ConfigError: The secret is too short to protect anything.
        RunError: It can't be written.
    """
    named = os.environ.get(SALT_VARIABLE, "")
    if named:
        return _checked(named, f"environment variable {SALT_VARIABLE}")
    path = Path(runs_root) / SALT_FILE
    if not path.exists():
        _make(path)
    return _checked(path.read_text(encoding="utf-8").strip(), str(path))


def fingerprint(secret: bytes) -> str:
    """Return 12 characters that tell two salts apart and give neither away."""
    return _keyed(secret, "fingerprint", "")[:12]


def pseudonym(secret: bytes, patient_id: str) -> str:
    """Return the stand-in of a patient: `p` and 16 hexadecimal digits (64 bits)."""
    return "p" + _keyed(secret, "patient", patient_id)[:16]


def sample_pseudonym(secret: bytes, sample_id: str) -> str:
    """Return the stand-in of a sample id, which often holds the patient's: `s` and 16 hexadecimal digits."""
    return "s" + _keyed(secret, "sample", sample_id)[:16]


def _keyed(secret: bytes, kind: str, text: str) -> str:
    # The kind keeps a patient and a sample of the same name, or the fingerprint itself, from sharing a hash.
    return hmac.new(secret, f"{kind}\0{text}".encode(), "sha256").hexdigest()


def _checked(text: str, where: str) -> bytes:
    if len(text) < _MIN_CHARACTERS:
        raise ConfigError(
            f"the secret for patient pseudonyms has {len(text)} characters; at least {_MIN_CHARACTERS} are needed",
            where=where,
            fixes=(
                f"make one: export {SALT_VARIABLE}=\"$(python -c 'import secrets; print(secrets.token_hex())')\"",
                f"unset {SALT_VARIABLE} and delete {SALT_FILE}; a new secret is then made in the runs folder",
            ),
        )
    return text.encode()


def _make(path: Path) -> None:
    """Write a new secret that appears at once and only if there is none: several processes may start together."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp gives mode 600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(32) + "\n")
            with contextlib.suppress(FileExistsError):  # another process was first: its secret counts
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
