"""A command that is one function: its options from the command line, what a user can mend in one sentence."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from epjax.runs.stopping import sentence


def answer(function: Callable[..., Any], argv: Sequence[str] | None, prog: str) -> int:
    """Call it with what `argv` asks for, named `prog` in its help: exit code 0, or 1 after an error in one sentence."""
    try:
        tyro.cli(function, args=argv, prog=prog)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0
