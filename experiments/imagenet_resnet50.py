"""Train ResNet-50 with GroupNorm on ImageNet by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/imagenet_resnet50.py`; this is its command.

    python -m experiments.imagenet_resnet50 --workdir DIR ...
    epjax train imagenet_resnet50 --workdir DIR ...
"""

import sys

from epjax.recipes.imagenet_resnet50 import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
