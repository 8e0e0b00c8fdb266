"""The command `epjax`: train, and look at what was trained.

    epjax train imagenet_vgg10 --workdir runs/vgg10     the options of an experiment: epjax train NAME --help
    epjax train mine.py --workdir runs/mine             an experiment of your own
    epjax completion bash                               what to put into ~/.bashrc, so that names complete

Each command explains its options: epjax COMMAND --help.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import shtab

from epjax.runs.experiment import find, names
from epjax.runs.stopping import MENDABLE, sentence

COMMANDS = {
    "train": "train a network by equilibrium propagation, or by backpropagation to compare",
    "demo": "train a narrow VGG10 on the images that come with epjax, in minutes",
    "plan": "what a run will need, before it is started",
    "hardware": "whether hardware of some read noise can learn, and at which beta",
    "report": "runs on one HTML page",
    "compare": "runs side by side in one picture",
    "predict": "what a trained network sees in images",
    "sample": "a text that a trained language model goes on with",
    "diagnose": "what the EP gradient of a run is worth, layer by layer",
    "completion": "a script that completes names in a shell",
}
MODULES = {name: f"epjax.runs.{name}" for name in ("report", "compare", "predict", "sample", "diagnose")} | {
    "plan": "epjax.training.plan",
    "hardware": "epjax.hardware.__main__",
}
"""Commands that are modules with a `main(argv, prog)`, loaded when they are asked for."""


class _Parser(argparse.ArgumentParser):
    """One sentence for a name that is none, with those that are close."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """Commands and the experiments' names. What follows them is read by the command itself."""
    top = _Parser(prog="epjax", description="Train networks by equilibrium propagation.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, about in COMMANDS.items():
        one = commands.add_parser(name, help=about, add_help=False)
        if name == "train":
            one.add_argument("experiment", nargs="?", choices=names(), metavar="NAME", help="an experiment")
            one.add_argument("--list", action="store_true", help="what there is to train")
        elif name == "completion":
            one.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command: 0 done, 1 an error in one sentence, 2 unknown words, 75 stopped by a signal."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command not in COMMANDS:
        parser().parse_args(_explained(command))
        return 0
    if command == "train":
        return train(rest)
    if command == "demo":
        return find("imagenet_vgg10").main([*_with_workdir(rest), "--data", "demo"], "epjax demo")
    if command == "completion":
        asked = parser().parse_args([command, *rest])
        print(shtab.complete(parser(), asked.shell))
        return 0
    return int(importlib.import_module(MODULES[command]).main(rest, f"epjax {command}"))


def train(argv: Sequence[str]) -> int:
    """`epjax train NAME ...`, or the names."""
    if not argv or argv[0] in ("--list", "-h", "--help"):
        print(listing())
        return 0
    name, *rest = argv
    try:
        experiment = find(name)
    except MENDABLE as error:
        close = difflib.get_close_matches(name, names(), n=1)
        print(f"error: {sentence(error)}" + (f"; did you mean {close[0]}?" if close else ""), file=sys.stderr)
        return 2
    return experiment.main(rest, f"epjax train {name}")


def listing() -> str:
    """The experiments, a line each."""
    width = max(map(len, names()))
    lines = [f"  {name:<{width}}  {find(name).about.splitlines()[0]}" for name in names()]
    return "\n".join(["epjax train NAME --workdir DIR; NAME is a Python file with an EXPERIMENT, or one of", *lines])


def _with_workdir(argv: Sequence[str]) -> list[str]:
    asked = any(word.split("=")[0] == "--workdir" for word in argv)
    return list(argv) if asked or {"-h", "--help"} & set(argv) else ["--workdir", "runs/demo", *argv]


def _explained(command: str) -> list[str]:
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    if close:
        print(f"error: {command!r} is no command; did you mean epjax {close[0]}?", file=sys.stderr)
        raise SystemExit(2)
    return [command]


if __name__ == "__main__":
    sys.exit(main())
