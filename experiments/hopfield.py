"""Train a deep Hopfield network by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/hopfield.py`; this is its command.

    python -m experiments.hopfield --workdir DIR ...
    epjax train hopfield --workdir DIR ...
"""

import sys

from epjax.recipes.hopfield import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
