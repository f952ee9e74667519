"""The first file of a method of one's own, and its test: both run as they are."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from ctvr_bench import methods
from ctvr_bench.bench.records.record import write_text
from ctvr_bench.bench.suite.plugins import all_methods
from ctvr_bench.features.errors import InputError

_TEMPLATES = Path(__file__).parent / "templates"
_NAMES = ("new_method.py.txt", "test_new_method.py.txt")


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write FOLDER/NAME.py and FOLDER/test_NAME.py and return their paths; nothing is overwritten.

    A file that holds what would be written is taken as it is: an earlier try may have been cut off after it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"a method's name has lower-case letters, digits and _ only, as in my_method; got {name!r}")
    if keyword.iskeyword(name):
        raise InputError(f"{name!r} is a word of Python's own, which no file can be imported by; choose another name")
    if name in all_methods():
        raise InputError(f"a method is called {name!r} already ('methods {name}' shows it); choose another name")
    if folder.resolve() in [Path(own).resolve() for own in methods.__path__]:
        raise InputError(
            f"{folder}: holds the suite's own methods; choose a folder of yours, methods run from anywhere"
        )
    paths = (folder / f"{name}.py", folder / f"test_{name}.py")
    texts = [(_TEMPLATES / template).read_text(encoding="utf-8") for template in _NAMES]
    texts = [text.replace("my_method", name).replace("MyMethod", class_name(name)) for text in texts]
    for path, text in zip(paths, texts, strict=True):
        if path.exists() and not _holds(path, text):
            raise InputError(f"{path}: is there already and stays as it is; choose another name or --folder")
    for path, text in zip(paths, texts, strict=True):
        if not path.exists():
            write_text(path, text)
    return paths


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def class_name(name: str) -> str:
    """The class of a method.

    >>> class_name("my_method")
    'MyMethod'
    """
    return "".join(part.capitalize() for part in name.split("_"))
