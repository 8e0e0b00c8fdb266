"""Oracles: closed forms for what is computed from measurements; a full count of the work; the quick runs themselves.

Catches a loop that is counted once instead of as often as it runs, a comparison of gradients that averages a bad layer
away, a target that is met by looking elsewhere, a benchmark that no longer runs, a page that loses a table.
"""

import json
import math

import jax
import numpy as np
import pytest

import epjax
from benchmarks import __main__ as command
from benchmarks import crash, field, gradients, upkeep, zoo
from benchmarks.fidelity import average, compare
from benchmarks.loops import count
from benchmarks.measure import compile_program, paired_times, shapes, total_flops
from benchmarks.methods import Method
from benchmarks.rows import at_least, at_most, find, text
from benchmarks.settings import at_initialisation
from epjax.runs.experiment import names

ZOO = ("mlp", "residual_mlp", "vgg5", "vgg10", "vgg10_skip", "resnet18", "resnet34", "resnet50", "vit", "gpt")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The result of a quick run, measured once."""
    folder, results = tmp_path_factory.mktemp("benchmarks"), {}

    def run(name):
        if name not in results:
            path = folder / "results" / f"{name}.json"
            usual = "standard" if name == "zoo" else "strict"  # flax's attention mixes dtypes
            with jax.numpy_dtype_promotion(usual):
                assert command.main([name, "--quick", "--json", str(path)]) == 0
            assert path.with_suffix(".png").stat().st_size > 10_000
            results[name] = json.loads(path.read_text())
        return results[name]["rows"]

    run.folder = folder
    return run


@pytest.mark.parametrize("name", command.NAMES)
def test_a_quick_run_says_all_that_a_row_must_say(name, quick):
    rows = quick(name)
    assert rows
    for row in rows:
        assert set(command.load(name).COLUMNS) <= set(row)
        assert name == "pipeline" or {"data", "precision", "repeats", "batch_size"} <= set(row)
    content = json.loads((quick.folder / "results" / f"{name}.json").read_text())
    assert content["quick"] is True
    assert {"processor", "cores", "jax", "jaxlib", "date"} <= set(content["machine"])
    assert name == "pipeline" or (content["data"] and content["dtype"])


def test_killed_runs_end_as_one_that_was_left_alone(quick):
    """SIGKILL as a checkpoint begins to be written, then after a step; the same command goes on after each."""
    rows = {row["measure"]: row for row in quick("upkeep")}
    assert [moment["kind"] for moment in rows[upkeep.KILLS]["moments"]] == ["save", "step"]
    assert (rows[upkeep.SAME]["value"], rows[upkeep.SAME]["differing"]) == (2, "")
    assert rows[upkeep.COLD]["value"] > 0.5
    assert rows[upkeep.LATE]["value"] >= rows[upkeep.EARLY]["value"] > 50


@pytest.mark.parametrize("steps", [[1, 2, 4], [1, 2, 2, 3, 4], [1, 2, 3], [2, 1, 3, 4]])
def test_a_gap_and_a_duplicate_are_seen(steps, tmp_path):
    def write(steps, evaluated):
        lines = [{"step": n, "cost": 1.0} for n in steps] + [{"step": n, "val_top1_error": 50.0} for n in evaluated]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return crash.is_complete(tmp_path, 4)

    assert not write(steps, [4])
    assert not write([1, 2, 3, 4], [4, 4])
    assert write([1, 2, 3, 4], [4])


def test_cost_on_a_narrow_vgg10(quick):
    rows = {row["name"]: row for row in quick("cost")}
    assert 1.8 < rows["sweep1/centered"]["flops_over_backprop"] <= 2.05
    assert 1.2 < rows["sweep1/random"]["flops_over_backprop"] <= 1.4
    for row in rows.values():
        assert row["seconds_over_backprop"] > 0.5
        assert 0.5 < row["memory_over_backprop"] < 2.5


def test_gradients_near_and_far(quick):
    rows = {(row["name"], row["precision"], row["beta"]): row for row in quick("gradients")}
    small = rows["sweep1/forward", "float32", 0.00005]
    assert small["relative_error"] < 1e-3 < rows["sweep1/forward", "float32", 0.05]["relative_error"]
    assert rows["sweep1/forward/recomputed", "float32", 0.00005]["relative_error"] > 10 * small["relative_error"]
    assert len(small["layers"]) == small["layers_count"]


def test_even_odd_is_exact_after_half_the_layers_only_with_carried_errors(quick):
    exact = {(r["errors"], r["iterations"]): r for r in quick("gradients") if r["precision"] == "float64"}
    assert exact["carried", 1]["relative_error"] > 0.1
    assert exact["carried", 2]["relative_error"] < 1e-6
    assert exact["recomputed", 2]["relative_error"] > 0.1
    assert exact["recomputed", 4]["relative_error"] < 1e-6


def test_depth_leaves_the_cost_of_a_sweep_alone(quick):
    centered = [row["flops_over_backprop"] for row in quick("depth") if row["name"] == "sweep1/centered"]
    assert max(centered) / min(centered) < 1.05
    assert all(row["cosine"] > 0.999 for row in quick("depth"))


def test_the_zoo_holds_every_network_and_its_command():
    """At its own size: parameters as the paper and flax have them; narrow ones are trained in the quick run."""
    assert [case.name for case in zoo.CASES] == [name for name in ZOO if name in epjax.models.__all__]
    assert set(epjax.models.__all__) == set(ZOO)
    for case in zoo.CASES:
        words = case.command.split()
        assert not words or (words[:2] == ["epjax", "train"] and words[2] in names())


def test_training_leaves_the_networks_of_the_zoo_near(quick):
    for row in quick("zoo"):
        assert min(row["initial_worst_cosine"], row["trained_worst_cosine"]) > 0.9999
        assert row["measured_parameters"] < row["parameters"]
    (gpt,) = [row for row in quick("zoo") if row["network"] == "gpt"]
    assert (gpt["parameters"], gpt["layers_count"]) == (112577, 6)


def test_stacked_blocks_are_the_network_block_by_block(quick):
    """The count of loops too: beside the blocks one by one a stacked block computes what is in it at most twice."""
    rows = [row for row in quick("repeat") if row["blocks"] == 4 and row["precision"] == "float32"]
    for stacked in (row for row in rows if row["stacked"]):
        single = [row for row in rows if not row["stacked"]]
        (single,) = [row for row in single if (row["network"], row["name"]) == (stacked["network"], stacked["name"])]
        assert abs(stacked["worst_layer_cosine"] - single["worst_layer_cosine"]) < 1e-5
        assert 0.95 < stacked["flops_over_backprop"] / single["flops_over_backprop"] < 1.3


def test_a_sweep_of_any_depth_costs_the_same_beside_even_odd(quick):
    """F of 4 and 8 layers; and that products of bfloat16 are those of every way, not of backpropagation alone."""
    rows = [row for row in quick("field") if row["study"] == "depth"]
    F = {
        (r["name"], r["layers_count"]): r["flops_over_backprop"]
        for r in find(rows, network="plain", precision="float32")
    }
    assert 1.2 < F["one sweep", 4] < F["one sweep", 8] < 2
    assert F["even/odd, K = L", 8] > 2.4 * F["even/odd, K = L", 4] > 7
    assert all(row["worst_layer_cosine"] > 0.9998 for row in find(rows, precision="float32"))
    for network, L in (("plain", 4), ("plain", 8), ("muPC", 8)):
        half = find(rows, network=network, layers_count=L, precision="bfloat16")
        far = {row["name"]: 1 - row["worst_layer_cosine"] for row in half}
        assert 1e-5 < far["one sweep"] < 1.1 * far["backpropagation"]
        assert 0.5 < far["even/odd, K = L"] / far["backpropagation"] < 1.5


def test_a_smaller_beta_is_nearer_in_a_plain_network(quick):
    far = {row["beta"]: 1 - row["worst_layer_cosine"] for row in quick("field") if row["study"] == "beta"}
    assert far[5e-7] < 1e-9 < far[5e-5] < far[5e-4] < far[5e-3]


def field_count(net, function):
    x, y = np.zeros((field.BATCH, 28, 28, 1), np.float32), np.zeros(field.BATCH, np.int32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x.shape[1:]))
    return count(function, params, x, y, jax.random.key(0))


@pytest.mark.parametrize("kind", [field.PLAIN, field.MUPC])
def test_short_networks_say_what_deep_ones_cost(kind):
    (way,) = (way for way in field.WAYS if way.name == field.ALL)
    net = field.network(kind, 8)
    expected = field_count(net, way.build(net, 8)).running(8)
    assert field._flops(kind, 8, way, stacked=False) == pytest.approx(expected, rel=0.01)


def test_the_body_of_a_loop_is_what_one_more_iteration_costs():
    """Laid out; the first iterations, of signals that are zero, and the last, whose signals nobody takes, fall away."""
    net, method = field.network(field.PLAIN, 4), Method("async", 9, skip_unreached=False)
    short, long = (method.build(net, equilibration=epjax.Async(K, skip_unreached=False, unroll=K)) for K in (6, 9))
    assert field_count(net, short).bodies == 0
    one_more = (field_count(net, long).once - field_count(net, short).once) / 3
    assert field_count(net, method.build(net)).bodies == pytest.approx(one_more, rel=0.03)


def test_a_second_sweep_settles(quick):
    rows = {row["iterations"]: row for row in quick("equilibration") if row["sign"] == "+"}
    assert rows[2]["relative_residual"] < 0.01 * rows[1]["relative_residual"]
    assert rows[2]["energy_difference"] < 0


def test_precision_orders_the_errors(quick):
    rows = [r for r in quick("precision") if r["errors"] == "carried" and r["beta"] == 0.0005]
    error = {row["precision"]: row["relative_error"] for row in rows}
    assert error["float32"] < error["tf32"] < error["bfloat16"] < 0.1


def test_the_page_shows_every_result_there_is(quick, tmp_path, capsys):
    for name in command.NAMES:
        quick(name)
    assert command.main(["all", "--from-results", "--out", str(quick.folder)]) == 0
    page = (quick.folder / "RESULTS.md").read_text()
    assert "quick run" in page
    for name in command.NAMES:
        assert f"## {name}" in page
        assert f"results/{name}.png" in page
    assert command.main(["all", "--from-results", "--out", str(tmp_path)]) == 1
    assert "no results" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["cost", "--peers", "x"], "--peers is an option of peers, got it with cost"),
        (["all", "--minutes", "3"], "--minutes is an option of peers and gpu, got it with all"),
        (["peers", "--data", "x"], "--data is an option of gpu, got it with peers"),
    ],
)
def test_an_option_of_another_benchmark_is_refused(argv, sentence, capsys):
    assert command.main(argv) == 1
    assert sentence in capsys.readouterr().err


def test_an_unknown_name_lists_the_names(capsys):
    assert command.main(["costs"]) == 2
    message = capsys.readouterr().err
    assert "'costs'" in message
    assert all(name in message for name in (*command.NAMES, "all"))


@pytest.mark.parametrize("method", [Method(iterations=4), Method("async", 6, scheme="random")])
def test_a_loop_is_counted_as_often_as_it_runs(method):
    """Against the same program with everything laid out; the loop's last iteration computes signals nobody takes."""
    setting = at_initialisation("mlp", epjax.models.mlp([128, 128, 128, 10]), "mnist", 28, 4, "gain 1")
    args = shapes(setting)
    program = compile_program(method.build(setting.net), *args)
    laid_out = method.build(setting.net, equilibration=method.equilibration(unroll=method.iterations))
    ratio = total_flops(method, program, setting, args) / compile_program(laid_out, *args).flops
    assert 0.97 < ratio < 1.12


def test_compare_is_plain_geometry():
    reference = ({"w": np.array([3.0, 0.0])}, {"w": np.array([[0.0, 4.0]])})
    gradient = ({"w": np.array([3.0, 3.0])}, {"w": np.array([[0.0, 4.0]])})
    found = compare(gradient, reference)
    assert found["cosine"] == pytest.approx(25 / math.sqrt(34 * 25))
    assert found["relative_error"] == pytest.approx(3 / 5)
    assert found["norm_ratio"] == pytest.approx(math.sqrt(34) / 5)
    assert (found["worst_layer"], found["worst_layer_cosine"]) == (1, pytest.approx(math.sqrt(0.5)))
    assert found["layers"][1]["relative_error"] == 0


def test_the_least_of_the_repeats_is_kept():
    layer = [{"cosine": 1.0, "relative_error": 0.0, "norm_ratio": 1.0}]
    one = {"cosine": 0.9, "relative_error": 0.2, "norm_ratio": 1.0, "worst_layer_cosine": 0.5, "worst_layer": 1}
    other = {**one, "cosine": 0.7, "worst_layer_cosine": 0.3}
    found = average([{**one, "layers": layer}, {**other, "layers": layer}])
    assert found["cosine"] == pytest.approx(0.8)
    assert (found["least_cosine"], found["least_worst_layer_cosine"], found["repeats"]) == (0.7, 0.3, 2)


def test_targets_are_judged_by_the_least_and_only_on_the_promised_network():
    row = {"network": "VGG10", "data": "imagenet_sample", "precision": "float32", "state": "gain 1"}
    row |= {"name": "sweep1/centered", "beta": 0.0005, "cosine": 0.9999, "worst_layer_cosine": 0.9999}
    row |= {"least_cosine": 0.9979, "least_worst_layer_cosine": 0.991, "relative_error": 0.1}
    assert [target.met for target in gradients.targets([row])] == [False, True]
    assert gradients.targets([{**row, "network": "VGG10 width 1/4"}]) == []
    assert [at_most("", 2.0, 2.0).met, at_most("", 2.1, 2.0).met, at_least("", 0.9, 0.95).met] == [True, False, False]


def test_pairs_take_turns():
    """One that does twice the work takes about twice the time, whatever else runs."""
    work = jax.jit(lambda x: x @ x)
    x = jax.random.normal(jax.random.key(0), (256, 256))
    times = paired_times(lambda: (work(x), work(x)), lambda: work(x), repeats=7, least_seconds=0.02)
    assert 1.3 < times.cpu_ratio < 3.0
    assert times.quartiles[0] <= times.ratio <= times.quartiles[1]


def test_numbers_keep_what_matters():
    assert [text(v) for v in (0.99973, 0.99999, 2.3258, 1e-9, 0.0, math.nan, None, True, "x")] == [
        *("0.99973", "0.9999900", "2.33", "1e-9", "0", "nan", "-", "yes", "x")
    ]
