"""Oracle: jaxtyping's own check. Shapes in signatures are looked at in every test, and are nothing for users.

Catches an import hook that checks nothing, a signature that says what is not so, a cost for those without jaxtyping.
"""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

import epjax
from epjax.training.evaluation import rank_of_label
from tests.pairs import ROOT

pytestmark = pytest.mark.fast


def test_a_wrong_shape_is_noticed():
    with pytest.raises(TypeCheckError):
        rank_of_label(jnp.zeros((3, 4)), jnp.zeros((2,), jnp.int32))
    with pytest.raises(TypeCheckError):
        epjax.activation.relu.error(jnp.zeros((3,)), jnp.zeros((4,)), "pgd")


def test_without_jaxtyping_the_names_are_arrays():
    code = (
        "import sys; sys.modules['jaxtyping'] = None; from epjax.shapes import Float, Array; "
        "assert Float[Array, 'batch'] is Array; import epjax.cost"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
