"""Train a multilayer perceptron by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/perceptron.py`; this is its command.

    python -m experiments.perceptron --workdir DIR ...
    epjax train perceptron --workdir DIR ...
"""

import sys

from epjax.recipes.perceptron import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
