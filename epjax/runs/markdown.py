"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> list[str]:
    """The lines of a table; `align` has l or r for each column, none: all left. A bar in a cell stays in it."""
    rule = ["--:" if side == "r" else "---" for side in align or "l" * len(header)]
    body = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|", *(f"| {line} |" for line in body)]
