"""Train a deep resistive network by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/resistive.py`; this is its command.

    python -m experiments.resistive --workdir DIR ...
    epjax train resistive --workdir DIR ...
"""

import sys

from epjax.recipes.resistive import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
