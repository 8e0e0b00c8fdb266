"""Training: steps, optimiser, evaluation, devices, processes, checkpoints, the plan of a run."""
