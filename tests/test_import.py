"""Oracle: the interpreter's own list of modules and clock. What `import epjax` costs beside jax, flax and optax.

Catches a reader, a checkpointer or a plotter that moves to the top of a module which the package imports.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys, time
start = time.process_time()
import jax, flax, optax
before = time.process_time() - start
import epjax
print(json.dumps([before, time.process_time() - start, sorted(sys.modules)]))
"""
LATER = {"orbax", "grain", "tensorflow_datasets", "tensorflow", "matplotlib", "tensorboardX", "PIL"}


def test_import_epjax_is_light():
    """At most 1.3 times the import of what it stands on: the least processor time of each, in up to nine processes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    measured = []
    for _ in range(9):
        run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True)
        *seconds, modules = json.loads(run.stdout)
        assert {name.split(".")[0] for name in modules} & LATER == set()
        assert "flax.nnx" not in modules
        measured.append(seconds)
        below, whole = map(min, zip(*measured, strict=True))
        if len(measured) >= 3 and whole <= 1.3 * below:
            return
    raise AssertionError(f"{whole:.2f} s of processor time against {below:.2f} s")
