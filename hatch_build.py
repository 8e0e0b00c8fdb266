"""The long description of a release: README.md with absolute links, for an index shows it without the files."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"(!\[[^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


class LongDescription(MetadataHookInterface):
    """Reads the project's one address from pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`."""
        home = metadata["urls"]["Homepage"]
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, home)}


def absolute(text: str, home: str) -> str:
    """`text` with what it links to relative to it found below `home`: pictures as files, the rest as pages."""
    text = PICTURE.sub(rf"\1]({home}/raw/main/\2)", text)
    return LINK.sub(rf"]({home}/blob/main/\1)", text)
