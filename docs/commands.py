"""Gives the site the page of commands: what each says of itself when it is asked for help."""

import contextlib
import io
import os
import textwrap
from typing import Any

from epjax.runs import cli
from epjax.runs.experiment import names

PAGE, COLUMNS = "commands.md", "84"
WHOLE = "imagenet_vgg10"
"""The experiment whose every option is shown; the others differ in the network's and the images'."""


def help_of(*words: str) -> str:
    """What `epjax WORDS` prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        cli.main(words)
    return "\n".join(line.rstrip() for line in told.getvalue().strip("\n").splitlines())


def page() -> str:
    """Markdown: the command line's own words, nothing else."""
    parts = [
        "# Commands",
        "`python -m experiments.NAME` and `epjax train NAME` are the same command. Exit codes: 0 done, 1 an error in"
        " one sentence, 2 unknown words, 75 stopped by a signal (the same command goes on), 130 Ctrl-C twice.",
        _shown("epjax", help_of("--help")),
        "## Train",
        *(f"### {name}\n\n{_shown(f'epjax train {name}', help_of('train', name, '--help'))}" for name in names()),
        f"### Every option\n\nOf `{WHOLE}`; the other experiments have their own network and images.",
        _shown(f"epjax train {WHOLE}", help_of("train", WHOLE, "--help-all"), "--help-all"),
        "## Look at what was trained",
    ]
    others = list(cli.MODULES)
    parts += [f"### {name}\n\n{_shown(f'epjax {name}', help_of(name, '--help'))}" for name in others]
    return "\n\n".join(parts) + "\n"


def _shown(command: str, text: str, option: str = "--help") -> str:
    return f"```console\n$ {command} {option}\n{textwrap.dedent(text)}\n```"


def on_files(files: Any, config: Any) -> Any:
    """One more page."""
    from mkdocs.structure.files import File  # the page itself is made, and tested, where there is no mkdocs

    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), COLUMNS
    try:
        files.append(File.generated(config, PAGE, content=page()))
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return files
