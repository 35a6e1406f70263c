"""The rules of the house: who may import whom, and what must answer at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "xmkd"


def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def breaches(folder: str, *forbidden: str, but: tuple[str, ...] = ()) -> list[str]:
    """Imports of forbidden modules (or what lies in them) in a folder, except those below `but`."""

    def below(name: str, roots: tuple[str, ...]) -> bool:
        return any(name == root or name.startswith(f"{root}.") for root in roots)

    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files, folder
    return [f"{f.name}: {n}" for f in files for n in imported(f) if below(n, forbidden) and not below(n, but)]


def test_who_may_import_whom() -> None:
    assert not [b for b in breaches("nets", "xmkd", but=("xmkd.nets",)) if not b.endswith(": xmkd")]
    assert not [b for b in breaches("losses", "xmkd", but=("xmkd.losses",)) if not b.endswith(": xmkd")]
    assert not breaches("data", "xmkd.methods", "xmkd.training", "xmkd.runs", "xmkd.evaluation")
    assert not breaches("evaluation", "lightning", "pytorch_lightning", "xmkd.methods", "xmkd.training")
    training = ("lightning", "xmkd.methods", "xmkd.training", "xmkd.runs", "xmkd.nets", "xmkd.losses", "xmkd.config")
    assert not breaches("simulate", *training)
    methods = {f"xmkd.methods.{f.stem}" for f in (PACKAGE / "methods").glob("*.py")} - {"xmkd.methods.__init__"}
    shared = {"xmkd.methods.base", "xmkd.methods.optim"}
    files = [f for f in (PACKAGE / "methods").glob("*.py") if f.name != "__init__.py"]
    assert not [f"{f.name}: {n}" for f in files for n in imported(f) & (methods - shared)]


def test_the_check_itself_sees_a_breach() -> None:
    assert breaches("data", "torch")
    assert breaches("methods", "xmkd.methods", but=("xmkd.methods.optim",))


def test_the_base_of_all_methods_stays_small() -> None:
    lines = (PACKAGE / "methods" / "base.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 130


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["simulate", "--help"], ["cache", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    call = [sys.executable, "-m", "xmkd", *words]
    done = subprocess.run(call, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"torch", "lightning", "pandas", "scipy", "sklearn", "timm", "monai", "SimpleITK", "matplotlib"}
