"""Train ResNet-18 with GroupNorm on CIFAR-10 and other images of 32x32 by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/resnet18.py`; this is its command.

    python -m experiments.resnet18 --workdir DIR ...
    epjax train resnet18 --workdir DIR ...
"""

import sys

from epjax.recipes.resnet18 import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
