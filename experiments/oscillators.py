"""Train a network of coupled phase oscillators by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/oscillators.py`; this is its command.

    python -m experiments.oscillators --workdir DIR ...
    epjax train oscillators --workdir DIR ...
"""

import sys

from epjax.recipes.oscillators import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
