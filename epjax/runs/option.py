"""A field of a group of options, with what the machinery must know of it beside its default."""

from dataclasses import MISSING, field
from typing import Any

NUMBERS, EACH, BEFORE = "numbers", "each", "before"


def option(default: Any = MISSING, *, numbers: bool = True, each: bool = False, before: Any = MISSING) -> Any:
    """A field of a group of options, with what the machinery must know of it beside its default.

    * `numbers` False: it does not touch a run's numbers, so that a run may go on with another value.
    * `each`: the processes of one run may have different values, for it says what lies where.
    * `before`: the value that leaves the numbers what they were before epjax knew the option; a run from then goes on.
      A function of all options by name where it depends on them.
    """
    known = {NUMBERS: numbers, EACH: each} | ({} if before is MISSING else {BEFORE: before})
    return field(metadata=known) if default is MISSING else field(default=default, metadata=known)
