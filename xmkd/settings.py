"""Settings files: YAML with at most one `base:`, and `key.sub=value` words that change them.

They give a plain tree; `binding.bind` turns it into dataclasses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmkd.binding import nearest
from xmkd.errors import ConfigError

Tree = dict[str, Any]


def read(path: str | Path, overrides: list[str] | None = None, *, what: str, home: str, sections: str) -> Tree:
    """Read a file, follow its `base:` and apply overrides.

    Args:
        path: YAML file.
        overrides: `key.sub=value` words.
        what: What the file is, for messages: "experiment".
        home: The folder that holds such files, for messages.
        sections: What such a file is made of, for messages.

    Raises:
        ConfigError: The file is missing or no YAML, bases go round in a circle, or a word has another form.
    """
    file = Path(path)
    return _override(_with_bases(file, (), what, home, sections), overrides or [], file)


def _with_bases(file: Path, seen: tuple[Path, ...], what: str, home: str, sections: str) -> Tree:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if file.resolve() in seen:
        raise ConfigError(
            f"{what} files name each other as base",
            where=file,
            fixes=("remove one `base:`", "copy its keys instead"),
        )
    if not file.is_file():
        known = sorted(p.name for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise ConfigError(
            f"there is no such {what} file" + nearest(file.name, known),
            where=file,
            fixes=(f"name a file in {home}", f"call from the folder that holds {home}"),
        )
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        fixes = ("correct the line named", f"start from a copy of another file in {home}")
        raise ConfigError(f"can't read the {what} as YAML: {error}", where=file, fixes=fixes) from error
    if not isinstance(loaded, dict):
        fixes = (f"write {sections}", "name another file")
        raise ConfigError(f"no {what} file: it holds no keys and values", where=file, fixes=fixes)
    tree = {str(k): v for k, v in loaded.items()}
    base = tree.pop("base", None)
    if base is None:
        return tree
    below = _with_bases(file.parent / str(base), (*seen, file.resolve()), what, home, sections)
    return _merge(below, tree)


def _merge(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(tree: Tree, words: list[str], file: Path) -> Tree:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    wrong = [word for word in words if "=" not in word or word.startswith("=")]
    if wrong:
        raise ConfigError(
            f"overrides have the form key.sub=value; got {', '.join(wrong)}",
            where=file,
            fixes=("write them as in seed=1", "put the value into the file"),
        )
    words = [word.removeprefix("--") for word in words]
    try:
        changes = OmegaConf.to_container(OmegaConf.from_dotlist(words), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"an override can't be read: {' '.join(str(error).split())}",
            where=" ".join(words),
            fixes=("put values with brackets or $ in quotes", "put the value into the file"),
        ) from error
    return _merge(tree, {str(k): v for k, v in changes.items()}) if isinstance(changes, dict) else tree
