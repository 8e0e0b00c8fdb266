"""Train VGG5 on MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 or ImageNet32 by equilibrium propagation.

The paper, the recipe and the numbers stand in `epjax/recipes/vgg5.py`; this is its command.

    python -m experiments.vgg5 --workdir DIR ...
    epjax train vgg5 --workdir DIR ...
"""

import sys

from epjax.recipes.vgg5 import EXPERIMENT

main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
