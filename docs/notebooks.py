"""Gives the site the notebooks, as they were run: text, code, and what each cell printed or drew."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
FOLDER = "notebooks"


def pages() -> dict[str, str | bytes]:
    """Files of the site by their place: a page a notebook, and its pictures."""
    found: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb")):
        at = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        text, resources = MarkdownExporter().from_filename(str(path), at)
        found[f"{FOLDER}/{path.stem}.md"] = text
        found |= {f"{FOLDER}/{name}": content for name, content in resources["outputs"].items()}
    return found


def on_files(files: Any, config: Any) -> Any:
    """The pages of docs/, and the notebooks."""
    for place, content in pages().items():
        files.append(File.generated(config, place, content=content))
    return files
