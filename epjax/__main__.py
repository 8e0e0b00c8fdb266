"""The command `epjax`, also as `python -m epjax`."""

import sys

from epjax.extras import extra


def command() -> int:
    """Run it; a missing extra is one sentence."""
    try:
        with extra("train"):
            from epjax.runs.cli import main
    except ModuleNotFoundError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return main()


if __name__ == "__main__":
    sys.exit(command())
