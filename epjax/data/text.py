"""Text from a file, as windows of tokens: characters, or bytes. The first 90% are for training, the rest to validate.

    x_t = token_{s+t},    y_t = token_{s+t+1},    t = 0..T-1    for the window of T tokens that starts at s

In an epoch each window of the training text comes once, moved by 0..T-1 tokens, another number in each epoch; those to
validate lie one after the other. Targets of one are the input of the next, so that every token but the first is
predicted once.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from epjax.data import demo
from epjax.data.source import Dataset, Example, Stats

Tokens = Literal["characters", "bytes"]

TRAIN_SHARE = 0.9
BYTES = tuple(f"{byte:#04x}" for byte in range(256))
"""Names of the 256 bytes."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their names: a character is its own, and of bytes there are all 256."""

    tokens: Tokens
    names: tuple[str, ...]

    def encode(self, text: str, what: str = "text") -> np.ndarray:
        """int32 [N]. Raises ValueError that calls the text `what` and names the first character which is unknown."""
        if self.tokens == "bytes":
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        unknown = next((character for character in text if character not in self._numbers), None)
        if unknown is not None:
            raise ValueError(
                f"{what} must be made of the {len(self.names)} characters that the network knows, got {unknown!r}"
            )
        return np.array([self._numbers[character] for character in text], np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens [N]; bytes that are no UTF-8 become the replacement character."""
        if self.tokens == "bytes":
            return bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")
        return "".join(self.names[int(token)] for token in tokens)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


@dataclass(frozen=True)
class Passages:
    """Passage i: `size` tokens from i * step on, as an Example whose label its window will say."""

    codes: np.ndarray
    step: int
    size: int

    def __len__(self) -> int:
        """How many fit, 0 for a text that is too short."""
        return max(0, (len(self.codes) - self.size) // self.step + 1)

    def __getitem__(self, index: int) -> Example:
        """Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.step
        return Example(self.codes[start : start + self.size], 0, f"the passage from token {start} on")


@dataclass(frozen=True)
class Window:
    """A passage to (x, y), int32 [length] each; `moved`: by so many tokens as its generator says, up to length - 1."""

    length: int
    moved: bool = False

    dtype: ClassVar[type] = np.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """Of x, and of y."""
        return (self.length,)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A next token for each."""
        return (self.length,)

    def __call__(self, example: Example, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cut."""
        start = int(rng.integers(self.length)) if self.moved else 0
        tokens = np.asarray(example.image[start : start + self.length + 1], np.int32)
        return tokens[:-1], tokens[1:]


def open_text(spec: str, context: int, tokens: Tokens = "characters") -> Dataset:
    """The text that `spec` names, text:PATH, PATH or demo, as windows of `context` tokens; PATH.gz is unpacked.

    `classes` of the result are the names of its vocabulary: with characters all that the text has, by code point.
    Raises ValueError for an empty file, one that is no UTF-8 where characters are asked for, and one too short for a
    window in either part; FileNotFoundError where there is none.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    embedded = spec in ("auto", "demo")
    path = demo.TEXT if embedded else Path(spec.removeprefix("text:")).expanduser()
    content = _read(path)
    codes, vocabulary = _tokens(content, path, tokens)
    cut = int(TRAIN_SHARE * len(codes))
    train = Passages(codes[:cut], context, 2 * context)
    val = Passages(codes[cut:], context, context + 1)
    if not (len(train) and len(val)):
        least = max(-(-20 * context // 9), 10 * (context + 1))
        raise ValueError(
            f"the text {path} must have some {least} {tokens} for windows of {context}: two in its first 90% and one in"
            f" the rest, but has {len(codes)}"
        )
    what = "the embedded demo (Shakespeare's Coriolanus)" if embedded else f"text in {path}"
    origin = f"{what}, {len(codes):,} {tokens}, in windows of {context}"
    name = "demo text" if embedded else path.name
    token = tokens.removesuffix("s")
    known = hashlib.sha256(content).hexdigest()[:16]
    return Dataset(
        name, train, val, vocabulary.names, origin, Stats((), ()), "none", context, sha256=known, token=token
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"the text {path} is not a file")
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"the text {path} cannot be unpacked: {error}") from None
    if not content:
        raise ValueError(f"the text {path} is empty")
    return content


def _tokens(content: bytes, path: Path, tokens: Tokens) -> tuple[np.ndarray, Vocabulary]:
    """Codes [N] in as few bits as hold them, and what they mean."""
    if tokens == "bytes":
        return np.frombuffer(content, np.uint8), Vocabulary(tokens, BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is {content[error.start]:#04x}"
        raise ValueError(f"the text {path} must be UTF-8, but {where}: --tokens bytes takes any file") from None
    known, codes = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    names = tuple(map(chr, known.tolist()))
    return codes.astype(np.min_scalar_type(len(names) - 1)), Vocabulary(tokens, names)
