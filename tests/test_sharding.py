"""One device against eight, and two processes with four each: the same training, to rounding, wherever the arrays live.

Would catch: gradients summed instead of averaged over devices, signs drawn per device instead of per
example, a rule that does not divide large parameters, a batch that is silently dropped or repeated, devices
that wait for each other in an equilibration.
"""

import math
import pickle
import re
from collections import Counter
from functools import cache

import jax
import mesh_cases
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from pairs import Pair, free_address

from epjax.network.activation import tanh
from epjax.training import sharding
from epjax.training.optimiser import OPTIMISERS, averaged, named
from epjax.training.step import initial_state

eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def test_mesh_axes():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "model": 1}
    with pytest.raises(ValueError, match="model_parallel must divide the number of devices, 1, but is 3"):
        sharding.make_mesh(3, devices=jax.devices()[:1])


@eight
def test_one_rule_divides_large_parameters_and_copies_small_ones():
    mesh = sharding.make_mesh(2)
    assert sharding.parameter_sharding(mesh, (256, 512)).spec == P(None, "model")
    assert sharding.parameter_sharding(mesh, (513, 512)).spec == P(None, "model")
    assert sharding.parameter_sharding(mesh, (3, 3, 64, 63)).spec == P(None, None, "model", None)
    assert sharding.parameter_sharding(mesh, (512,)).spec == P()
    assert sharding.parameter_sharding(mesh, (513, 511)).spec == P()
    assert sharding.parameter_sharding(sharding.make_mesh(1), (256, 512)).spec == P()


@eight
def test_parameters_are_born_divided():
    mesh = sharding.make_mesh(4)

    def make(key):
        return {"w": jax.random.normal(key, (64, 512))}

    made = sharding.born_sharded(make, mesh)(jax.random.key(0))
    assert {shard.data.shape for shard in made["w"].addressable_shards} == {(64, 128)}
    np.testing.assert_array_equal(made["w"], jax.random.normal(jax.random.key(0), (64, 512)))


@eight
def test_batch_is_divided_over_all_devices():
    mesh = sharding.make_mesh(2)
    image = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    placed = sharding.put_batch(mesh)({"image": image})["image"]
    np.testing.assert_array_equal(placed, image)
    assert len({shard.index[0].start for shard in placed.addressable_shards}) == 8
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of devices, 8, but is 12"):
        sharding.check_batch_size(12, mesh)


@eight
@pytest.mark.parametrize("case", mesh_cases.CASES)
def test_one_device_equals_eight(case):
    mesh_cases.assert_same_training(trained(case, devices=8), trained(case, devices=1))


@eight
def test_parameters_in_slices_train_as_copies_do():
    case = mesh_cases.SLICED
    mesh_cases.assert_same_training(trained(case, devices=8, model=2), trained(case, devices=1))


@eight
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_trains_in_slices_as_on_one_device(name):
    """Its state is kept where the parameters are, is born there, and the norm to be clipped is that of all slices."""
    rate = 0.05 if name == "sgd" else 1e-3
    optimiser = averaged(named(name, rate, 1e-3, clip_norm=0.5), 0.9)
    meshes = [sharding.make_mesh(model, devices=jax.devices()[:count]) for model, count in ((2, 8), (1, 1))]

    def make(key):
        return initial_state(mesh_cases.network(tanh).init(key, (8, 8, 3)), optimiser)

    born = sharding.born_sharded(make, meshes[0])(jax.random.key(0))
    large = [leaf for leaf in jax.tree.leaves(born) if leaf.size >= sharding.SMALLEST_SHARDED_SIZE]
    assert len(large) == 2 + {"adam": 2, "adamw": 2}.get(name, 1)  # the parameter, its average, its moments
    assert {leaf.sharding.spec for leaf in large} == {P(None, "model")}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int
        mesh_cases.assert_same_training(*(mesh_cases.train("bp", mesh, optimiser=optimiser) for mesh in meshes))


@cache
def trained(case, devices, model=1):
    return mesh_cases.train(case, sharding.make_mesh(model, devices=jax.devices()[:devices]))


def test_one_device_equals_two_processes_with_four_each(tmp_path):
    """The same numbers in both processes, and the collectives of one process with eight devices."""
    address, out = free_address(), [tmp_path / "0", tmp_path / "1"]
    pair = Pair([[mesh_cases.__file__, address, "2", str(number), str(file)] for number, file in enumerate(out)])
    names = [name for name in mesh_cases.CASES if name != "relu"]
    alone = {name: trained(name, devices=1) for name in names}  # while the two are on their way
    alone["in slices"] = alone[mesh_cases.SLICED]
    codes, _, errors = pair.end()
    assert codes == [0, 0], errors
    of_0, of_1 = (pickle.loads(file.read_bytes()) for file in out)
    assert of_0.keys() == of_1.keys() == alone.keys()
    for name, trainings in of_0.items():
        params, metrics, program = trainings
        mesh_cases.assert_same_training(mesh_cases.Trained(*trainings), alone[name])
        for a, b in zip(params, of_1[name][0], strict=True):
            np.testing.assert_array_equal(a, b)
        assert metrics == of_1[name][1]
        found = collectives(program)
        assert not [computation for computation, *_ in found if computation in in_loops(program)], name
        assert sum(kind == "all-reduce" and size > 1 for _, kind, size in found) <= mesh_cases.LEAVES, name
        assert {kind for _, kind, _ in found} == (
            {"all-reduce", "all-gather", "reduce-scatter"} if name == "in slices" else {"all-reduce"}
        )


def collectives(program):
    """[(computation, operation, elements of its largest operand)] of a compiled program."""
    found, computation = [], ""
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = start[1]
        kinds = "all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute|collective-broadcast"
        if operation := re.search(rf" = (.*?) ({kinds})(?:-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", operation[1])
            sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
            found.append((computation, operation[2], max(sizes)))
    return found


def in_loops(program):
    """The computations that some loop runs, directly or through others."""
    bodies = {}
    for block in re.split(r"\n(?=\S)", program):
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) ", block):
            bodies[start[1]] = block
    called = "body|condition|calls|to_apply|true_computation|false_computation"
    inside = set(re.findall(r"(?:body|condition)=%?([\w.-]+)", program))
    reached = set()
    while inside:
        name = inside.pop()
        reached.add(name)
        inside |= set(re.findall(rf"(?:{called})=%?([\w.-]+)", bodies.get(name, ""))) - reached
    return reached


@eight
@pytest.mark.parametrize("case", ["bp", "sweep-centered", "sweep-random", "async-centered"])
def test_the_gradient_is_reduced_once_and_nothing_in_a_loop(case):
    """bp and sweep-centered run a fixed number of sweeps, the other two stop by their tolerance."""
    program = trained(case, devices=8).program
    found = collectives(program)
    assert not [name for name, *_ in found if name in in_loops(program)]
    assert bool(re.search(r" while\(", program)) == (case in ("sweep-random", "async-centered"))
    # Parameters are copies: their gradients, and the scalars of the metrics, are summed and that is all.
    assert {kind for _, kind, _ in found} == {"all-reduce"}
    assert sum(size > 1 for *_, size in found) <= mesh_cases.LEAVES


@eight
def test_slices_are_gathered_before_the_equilibration_and_the_gradient_reduced_once():
    """The only parameter that is sliced: one gather, one reduction over its group, then over the groups."""
    program = trained("sweep-random", devices=8, model=2).program
    found = collectives(program)
    assert not [name for name, *_ in found if name in in_loops(program)]
    kinds = Counter(kind for _, kind, _ in found)
    assert (kinds["all-gather"], kinds["reduce-scatter"]) == (1, 1)
    assert kinds.keys() == {"all-gather", "reduce-scatter", "all-reduce"}
    assert sum(kind == "all-reduce" and size > 1 for _, kind, size in found) <= mesh_cases.LEAVES


@eight
def test_a_key_for_the_whole_batch_is_refused():
    mesh = sharding.make_mesh(1)
    net, gradient = mesh_cases.case("sweep-random")
    params = mesh_cases.initial_params(net)
    with pytest.raises(ValueError, match="key must be None or one key for each of 16 examples, got shape"):
        sharding.per_device(gradient, mesh)(params, np.zeros((16, 8, 8, 3)), np.zeros(16), jax.random.key(0))
