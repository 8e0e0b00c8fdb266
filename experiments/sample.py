"""Go on with a text by a trained language model.

What it does is told in `epjax/runs/sample.py`; this is its command.

    python -m experiments.sample --workdir DIR --prompt TEXT [--length N --temperature T --seed S]
    epjax sample --workdir DIR --prompt TEXT ...
"""

import sys

from epjax.runs import sample


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return sample.main(argv, "python -m experiments.sample")


if __name__ == "__main__":
    sys.exit(main())
