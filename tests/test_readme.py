"""Oracle: the README. Its Python runs as it stands, its commands name modules that exist, its pictures are there.

Catches an example that an API change has broken, a command that was renamed.
"""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_python_runs():
    """All blocks in one namespace, in order, under jax's usual promotion."""
    import jax

    names: dict[str, object] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(block, names)
    assert names["cost"] > 0


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:epjax|experiments|benchmarks)[\w.]*)", TEXT))))
def test_the_commands_exist(module):
    assert importlib.util.find_spec(module)


def test_the_pictures_and_files_exist():
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT):
        assert (ROOT / path).exists(), path
