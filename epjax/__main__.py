"""`python -m epjax`: the command `epjax`."""

import sys

try:
    from epjax.runs.cli import main
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed; the command needs: pip install 'epjax[train]'")

if __name__ == "__main__":
    sys.exit(main())
