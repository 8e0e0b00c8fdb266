"""Train a causal transformer on a text by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/char_lm.py`; this is its command.

    python -m experiments.char_lm --workdir DIR ...
    epjax train char_lm --workdir DIR ...
"""

import sys

from epjax.recipes.char_lm import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
