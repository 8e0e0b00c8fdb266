"""Sizes that every network takes, checked."""

from collections.abc import Sequence


def scaled(channels: Sequence[int], width: float) -> list[int]:
    """`channels` times `width`, at least 1 each. Raises ValueError for a width that is not positive."""
    if not width > 0:
        raise ValueError(f"width must be a positive multiplier, got {width}")
    return [max(1, round(c * width)) for c in channels]


def classes(num_classes: int) -> int:
    """Raises ValueError below 1."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return num_classes
