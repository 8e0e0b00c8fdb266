"""What --help says: the five options that matter first and an example; --help-all has every option."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

ASKED, ALL = ("-h", "--help"), "--help-all"
FIRST = {
    "workdir": ("DIR", "what it writes; the same command goes on there"),
    "data": ("DATA", "auto, demo, a folder, tar:, idx:, cifar:, tfds:"),
    "recipe": ("NAME", "a named set of options; quick: done in minutes"),
    "algorithm": ("NAME", "ep, or what it is compared with: bp, exact, il, ..."),
    "epochs": ("INT", "length of the run"),
}

WIDTH = 80
"""Columns of a terminal."""


def is_asked(argv: Sequence[str]) -> bool:
    """Whether the short help is."""
    return any(word in ASKED for word in argv)


def short_help(prog: str, about: str, options: Mapping[str, Any]) -> str:
    """Usage, what it does, the first options with the defaults that hold for the data asked for, and an example."""
    rows = []
    for name, (kind, words) in FIRST.items():
        if name in options:
            default = "" if name == "workdir" else f" [{options[name]}]"
            rows.append(f"  --{name} {kind}".ljust(20) + words + default)
    example = f"  {prog} --workdir runs/first" + (" --data demo" if "data" in options else "")
    told = "\n".join(textwrap.fill(line, WIDTH) for line in about.splitlines() if line.strip())
    parts = (
        f"usage: {prog} --workdir DIR [OPTIONS]",
        told,
        "\n".join(rows),
        f"For example:\n{example}",
        f"Every option, with its default:\n  {prog} {ALL}",
    )
    return "\n\n".join(parts)
