"""Options for a text, and what they open."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epjax.data import Dataset, Window, open_text
from epjax.data.text import Tokens
from epjax.runs.option import option


@dataclass(frozen=True)
class Text:
    """Which text, and in which pieces."""

    data: str = option("demo", numbers=False, each=True)
    """text:PATH or PATH, a file in UTF-8, as .gz too; demo: the text that comes with epjax."""
    context: int = 64
    """Tokens that the network sees at once."""
    tokens: Tokens = "characters"
    """A token is a character, of those that the text has, or one of the 256 bytes, of any file."""

    def recipe(self, recipes: Mapping[str, Any]) -> str:
        """The demo's for the demo, where it has one, else the first."""
        return "demo" if self.data in ("auto", "demo") and "demo" in recipes else next(iter(recipes))

    def open(self) -> Dataset:
        """The text in windows."""
        return open_text(self.data, self.context, self.tokens)

    def transforms(self, dataset: Dataset) -> tuple[Window, Window]:
        """Windows that move in training, and such that do not."""
        del dataset
        return Window(self.context, moved=True), Window(self.context)
