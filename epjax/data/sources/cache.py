"""Arrays in the user's cache: what a first look at data found, for the next start."""

import hashlib
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np


def load(stem: str, key: str) -> dict[str, np.ndarray]:
    """The arrays that were kept under `key`, by name; none where there are none, or where they cannot be read."""
    with suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), open(_file(stem, key), "rb") as file:
        return dict(np.load(file))
    return {}


def save(stem: str, key: str, columns: dict[str, np.ndarray]) -> None:
    """Keep arrays under `key`, whole or not at all. A cache that cannot be written costs the next start a look."""
    path = _file(stem, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, **columns)  # type: ignore[arg-type]
        os.replace(file.name, path)


def _file(stem: str, key: str) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epjax"
    return root / f"{stem}-{hashlib.md5(key.encode(errors='surrogateescape')).hexdigest()}.npz"
