"""Train VGG10 on ImageNet by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/imagenet_vgg10.py`; this is its command.

    python -m experiments.imagenet_vgg10 --workdir DIR ...
    epjax train imagenet_vgg10 --workdir DIR ...
"""

import sys

from epjax.recipes.imagenet_vgg10 import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
