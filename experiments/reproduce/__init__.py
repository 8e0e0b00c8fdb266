"""The paper's figures at a size that one machine can run: `python -m experiments.reproduce FIGURE`."""
