"""Oracle: the README and docs/. Their Python runs as it stands, their commands name modules that exist, their pictures
are there, the reference has every module.

Catches an example that an API change has broken, a command that was renamed, a page or a module that the site leaves
out, a table in a docstring that the site would set as running text.
"""

import ast
import importlib.util
import json
import re
from math import floor
from pathlib import Path
from typing import get_args

import pytest

import epjax
from benchmarks import field, zoo
from benchmarks.rows import find, only
from epjax import models
from epjax.diagnosis.report import Verdict
from epjax.recipes import imagenet_vgg10
from experiments.figures import front
from experiments.reproduce.figure import errors, mean_spread
from experiments.reproduce.figures import defaults, demo, guard, hardware, parity, systems, text

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
TEXT = "\n".join(PAGES.values())
README = PAGES[Path("README.md")]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=str)
def test_the_python_runs(page):
    """All blocks of a page in one namespace, in order, under jax's usual promotion."""
    import jax

    names: dict[str, object] = {"__name__": "page"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number, block in enumerate(blocks(page), start=1):
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    assert names.get("cost", 1) > 0


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:epjax|experiments|benchmarks)[\w.]*)", TEXT))))
def test_the_commands_exist(module):
    assert importlib.util.find_spec(module)


def test_the_pictures_and_files_exist():
    for page, words in PAGES.items():
        for path in re.findall(r"\]\(((?!http)[^)#]+)\)", words):
            assert (ROOT / page.parent / path).exists(), (page, path)


def test_the_site_has_every_page_and_every_module():
    site = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert page.name == "README.md" or f": {page.relative_to('docs')}\n" in site, page
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "epjax").rglob("*.py")}
    shown = {module.removesuffix(".__init__") for module in modules} & set(
        re.findall(r"^::: (\S+)$", TEXT, re.MULTILINE)
    )
    inside = (
        "epjax.data.",
        "epjax.models.",
        "epjax.runs.",
        "epjax.recipes",
        "epjax.extras",
        "epjax.__main__",
        "epjax.network.nnx",
    )
    rooms = {"epjax", "epjax.network", "epjax.diagnosis", "epjax.training", "epjax.runs", "epjax.systems.pcn"}
    hidden = {m for m in modules if m.startswith(inside)} | {f"{room}.__init__" for room in rooms} | {"epjax.__init__"}
    missing = {m for m in modules - hidden if m.removesuffix(".__init__") not in shown}
    assert missing == set()


def test_every_notebook_has_its_page():
    site = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "experiments" / "notebooks").glob("*.ipynb"):
        assert f": notebooks/{path.stem}.md\n" in site, path


def test_the_page_on_citing_says_what_the_citation_file_says():
    """Title, version and source, in docs/cite.md as in CITATION.cff and the package."""
    page, file = PAGES[Path("docs/cite.md")], (ROOT / "CITATION.cff").read_text()
    version = re.search(r"^version: (\S+)$", file, re.MULTILINE)[1]
    assert version == epjax.__version__
    assert f"version = {{{version}}}" in page
    for title in re.findall(r'^ *-? *title: "?([^"\n]+)', file, re.MULTILINE):
        assert f"{{{title}}}" in page
    assert re.search(r"arXiv:\d+\.\d+", file)[0] in page


def test_tables_in_docstrings_are_indented():
    for path in (ROOT / "epjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for line in (ast.get_docstring(node) or "").splitlines():
                    assert line.startswith(" ") or "   " not in line, (path, line)


def test_the_runs_at_the_edge_of_stability_are_counted():
    """What docs/results.md says of the study of defaults, from the study's own files."""
    dead, runs = {"bp": 0, "ep": 0}, {"bp": 0, "ep": 0}
    for path in (ROOT / "experiments" / "results" / "defaults").glob("*rate_0.04*float32*.json"):
        found = json.loads(path.read_text())
        kind = "bp" if found["place"]["method"] == "bp" else "ep"
        runs[kind] += 1
        dead[kind] += defaults.is_dead(found)
    words = f"{dead['bp']} of {runs['bp']} runs by backpropagation and {dead['ep']} of {runs['ep']} by EP"
    for page in ("docs/results.md", "docs/training.md"):
        assert words in " ".join(PAGES[Path(page)].split())
    safe = [json.loads(p.read_text()) for p in (ROOT / "experiments/results/defaults").glob("*rate_0.02*.json")]
    assert not any(map(defaults.is_dead, safe))
    assert f"none of {len(safe)} did" in " ".join(PAGES[Path("docs/training.md")].split())


def test_a_diagnosis_is_shown_as_it_is_printed(capsys):
    """The example of docs/training.md prints what stands below it, but for rounding; every verdict has its line."""
    page = PAGES[Path("docs/training.md")]
    (code, shown), *_ = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/training.md", "exec"), {})
    printed = capsys.readouterr().out
    for found, expected in zip(printed.split(), shown.split(), strict=True):
        digits = [re.sub(r"[^\d.e+-]", "", word) for word in (found, expected)]
        try:
            assert abs(float(digits[0]) - float(digits[1])) < 0.02 * abs(float(digits[1])) + 0.02
        except ValueError:
            assert found == expected
    table = page.partition("| verdict |")[2].partition("\n\n")[0]
    assert all(verdict in table for verdict in get_args(Verdict))


def test_what_the_guard_does_is_quoted_as_it_was_measured():
    """The numbers of docs/training.md, from the study's own runs."""
    cells = json.loads((ROOT / "experiments" / "results" / "guard.json").read_text())["cells"]
    page = " ".join(PAGES[Path("docs/training.md")].split())

    def told(**place):
        return "{:.1f} ± {:.1f}%".format(*mean_spread(errors(cells, **place)))

    large, small = ([told(method=m, beta=b) for m in guard.GUARDS] for b in (guard.BETAS[-1], guard.BETAS[0]))
    limit = told(method=guard.BACKPROPAGATION)
    assert f"{large[0]} without the guard and of {large[1]} with it, where backpropagation ends at {limit}" in page
    assert f"the errors are {small[0]} and {small[1]}" in page


PEERS = (
    ("epjax", "random", "epjax, one-sided, one sweep"),
    ("epjax", "centered", "epjax, centered, one sweep"),
    ("epjax", "even/odd", "epjax, even/odd, K = L"),
    ("Dual Propagation", "Lagrangian", "Dual Propagation"),
    ("FabricPC", "ePC", "FabricPC, ePC"),
    ("jpc", "ePC", "jpc, ePC"),
    ("jpc", "state PC", "jpc, state PC"),
    ("pcx", "PC", "pcx, PC"),
    ("error_based_PC", "ePC", "error_based_PC, ePC"),
)


def test_peers_are_quoted_as_they_were_measured():
    """Every row of docs/results.md's table, and that a network a peer cannot express is a dash with a reason."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())["rows"]
    networks, page = list(dict.fromkeys(r["network"] for r in rows)), PAGES[Path("docs/results.md")]
    assert f"| | {' | '.join(networks)} |" in page
    shown = 0
    for peer, begins, name in PEERS:
        cells = []
        for network in networks:
            found = [r for r in find(rows, network=network, peer=peer) if r["why"] or r["method"].startswith(begins)]
            (row,) = found
            shown += row["why"] is None
            quantities = ("flops_over_backprop", "seconds_over_backprop", "worst_layer_cosine")
            flops, seconds, worst = (row[name] for name in quantities)
            cells.append("-" if row["why"] else f"{flops:.2f} / {seconds:.1f} / {floor(1e4 * worst) / 1e4:.4f}")
        assert f"| {name} {row['version']} | {' | '.join(cells)} |" in page
    assert shown == len(find(rows, why=None))


FIELD = {
    field.ONE: "one sweep, centered, beta 0.0005",
    field.SMALL: "one sweep, centered, beta 5e-06",
    field.RANDOM: "one sweep, random sign, beta 0.0005",
    field.TEN: "even/odd, centered, K = 10, beta 0.0005",
    field.ALL: "even/odd, centered, K = L, beta 0.0005",
    field.IL: "inference learning, T = 20",
    field.EPC: "ePC, T = 5",
}


def test_the_field_is_quoted_as_it_was_measured():
    """Every row of docs/results.md's table over depth, and the sentences on beta and on bfloat16."""
    found = json.loads((ROOT / "benchmarks" / "results" / "field.json").read_text())
    page, rows = PAGES[Path("docs/results.md")], find(found["rows"], study="depth")
    words = " ".join(page.split())

    def worst(kind, L, name, precision="float32"):
        (row,) = find(rows, network=kind, layers_count=L, name=name, precision=precision)
        return row["worst_layer_cosine"]

    def cut(cosine):
        return "-" if cosine is None else f"{floor(1e4 * cosine) / 1e4:.4f}"

    for name, told in FIELD.items():
        cosines = [worst(kind, L, name) for kind in (field.PLAIN, field.MUPC) for L in field.SHOWN]
        (deep,) = find(rows, network=field.PLAIN, layers_count=256, name=name, precision="float32")
        (shallow,) = find(rows, network=field.PLAIN, layers_count=4, name=name, precision="float32")
        F = [f"{row['flops_over_backprop']:.2f}" for row in (shallow, deep)]
        assert f"| {told} | {' | '.join([*F, *map(cut, cosines)])} |" in page

    def at(kind, beta):
        (row,) = find(found["rows"], study="beta", network=kind, beta=beta)
        return row

    convolutions, plain = at(field.CONVOLUTIONS, 5e-4), at(field.PLAIN, 5e-4)
    least = cut(convolutions["least_worst_layer_cosine"])
    assert f"{cut(convolutions['worst_layer_cosine'])} at beta 0.0005 ({least} in the worst draw)" in words
    assert f"of 64 plain dense layers {cut(plain['worst_layer_cosine'])}." in words
    small = [cut(at(kind, 5e-6)["worst_layer_cosine"]) for kind in (field.CONVOLUTIONS, field.PLAIN)]
    assert "{} and {} at 5e-06".format(*small) in words
    smooth, relu = (f"{1 - at(kind, 5e-4)['worst_layer_cosine']:.0e}" for kind in (field.MUPC, field.MUPC_RELU))
    assert f"at 0.0005 and 64 layers they are {smooth} from 1, and {relu} with ReLU" in words
    half = [
        cut(worst(kind, L, name, "bfloat16"))
        for kind, L in ((field.PLAIN, 64), (field.MUPC, 256))
        for name in (field.ONE, field.BACKPROP)
    ]
    assert "for 64 plain layers is far: {} and {}; for 256 residual ones {} and {}".format(*half) in words
    middle, deep, residual = (
        only(rows, network=kind, layers_count=L, name=field.ONE, precision="float32")
        for kind, L in ((field.PLAIN, 32), (field.PLAIN, 256), (field.MUPC, 256))
    )
    F = [row["flops_over_backprop"] for row in (middle, deep, residual)]
    assert f"from 32 to 256 layers F grows by {F[1] / F[0] - 1:.0%}. Of 256 residual layers it is {F[2]:.2f}" in words
    stacked = [row["stacked_flops_over_backprop"] for row in (deep, residual)]
    assert "256 plain layers take {:.2f} F".format(*stacked) in words
    assert f"and residual ones {stacked[1]:.2f}" in words


def test_depth_is_quoted_as_it_was_measured():
    """The numbers of docs/results.md, from the rows of two benchmarks."""
    page = " ".join(PAGES[Path("docs/results.md")].split())
    rows = {
        n: json.loads((ROOT / "benchmarks" / "results" / f"{n}.json").read_text())["rows"] for n in ("depth", "repeat")
    }
    plain = find(rows["depth"], name="sweep1/centered", layers_count=64)
    large, small = (next(r for r in plain if r["beta"] == beta)["worst_layer_cosine"] for beta in (5e-4, 5e-6))
    assert f"cosine is {large:.4f} by one sweep at beta 0.0005, and {small:.4f} at 5e-06" in page

    def of(name, blocks=1024, precision="float32", network="muPC"):
        (row,) = find(rows["repeat"], network=network, blocks=blocks, name=name, precision=precision, stacked=True)
        return row

    centered, random = of("sweep1/centered"), of("sweep1/random")
    told = [f"{1 - r['worst_layer_cosine']:.0e}" for r in (centered, random)]
    assert f"{told[0]} from a cosine of 1 by centered EP at {centered['flops_over_backprop']:.2f} F" in page
    assert f"{told[1]} by one-sided EP at {random['flops_over_backprop']:.2f} F" in page
    half = [1 - of(n, precision="bfloat16")["worst_layer_cosine"] for n in ("sweep1/centered", "backpropagation")]
    assert "in bfloat16 {:.4f}, as far as backpropagation's own {:.4f}".format(*half) in page
    seconds = [of("sweep1/centered", blocks)["compile_seconds"] for blocks in (1024, 16)]
    assert "of 1,024 compiles in {:.2f} s where one of 16 takes {:.2f} s".format(*seconds) in page
    blocks = [
        of(n, network=k)["flops_over_backprop"] for n in ("sweep1/centered", "sweep1/random") for k in ("MLP", "conv")
    ]
    assert "{:.1f} to {:.1f} F and {:.1f} F".format(*blocks) in page
    convolutions = find(rows["repeat"], network="conv", name="sweep1/centered", stacked=True, precision="float32")
    memory = max(r["memory_over_backprop"] for r in convolutions)
    assert f"up to {memory:.1f} times backpropagation's memory" in page


def test_the_systems_are_quoted_as_they_were_measured():
    """Every row of docs/systems.md's table, the feedforward network, and the numbers on Fashion-MNIST."""
    cells = json.loads((ROOT / "experiments" / "results" / "systems.json").read_text())["cells"]
    page = PAGES[Path("docs/systems.md")]

    def told(**place):
        mean, spread = mean_spread(errors(cells, **place))
        return mean, f"{mean:.2f} ± {spread:.2f}"

    limit, line = told(dataset="mnist", system="feedforward")
    assert f"| feedforward, backpropagation | | | {line} |" in README
    assert f"The feedforward network has {line} by backpropagation" in " ".join(page.split())
    for system in systems.CENTERED:
        found = {method: told(dataset="mnist", system=system, method=method) for method in systems.METHODS}
        exact = found["exact"][0]
        mine, its = min(found["one-sided"][0], found["centered"][0]) - exact, exact - limit
        row = " | ".join(line for _, line in found.values())
        assert f"| {system} | {row} | {mine:+.2f} | {its:+.2f} |".replace("+0.00", "0.00") in page
        assert f"| {system} | {row} |" in README
        assert f"{told(dataset='fashion_mnist', system=system)[0]:.2f} ({system})" in page
    assert f"backpropagation {told(dataset='fashion_mnist', system='feedforward')[0]:.2f}." in page


def test_the_demo_is_quoted_as_it_was_measured():
    """By the mean and range of five seeds, in the README and in the recipe; no demo command is worse than promised."""
    cells = json.loads((ROOT / "experiments" / "results" / "demo.json").read_text())["cells"]
    for network in demo.EXPERIMENTS:
        found = errors(cells, network=network, method=demo.RECIPE)
        assert len(found) == len(demo.SEEDS)
        assert max(found) < demo.LIMIT
    found = errors(cells, network="VGG10", method=demo.RECIPE)
    told = f"{mean_spread(found)[0]:.1f}% top-1 error"
    span = f"({min(found):.1f} to {max(found):.1f};"
    for words in (README, imagenet_vgg10.__doc__ or ""):
        assert told in " ".join(words.split())
        assert span in " ".join(words.split())


def test_the_front_page_is_short():
    """Eight hundred words and two pictures: what a stranger reads in a minute."""
    assert len(README.split()) <= 800
    assert README.count("![") <= 2


def test_the_front_page_quotes_what_was_measured():
    """The costs of its first sentence and picture, its row of MNIST, and that four data sets agree."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "cost.json").read_text())["rows"]
    rows = find(rows, network="VGG10", image_size=224, batch_size=4, precision="float32")
    names = ("sweep1/random", "sweep1/centered/shared signals", "sweep1/centered", "async10/centered/all layers")
    costs = {row["name"]: row["flops_over_backprop"] for row in rows if row["name"] in names}
    assert set(costs) == set(names)
    shown = {cost for name, cost in costs.items() if name.startswith("sweep1")}
    assert f"at {min(shown):.1f} to {max(shown):.1g} times" in " ".join(README.split())
    ours = [flops for name, flops, _ in front.beside_peers() if name in ("EP, one-sided", "EP, centered")]
    assert f"{min(ours):.1f} to {max(ours):.1g}" == f"{min(shown):.1f} to {max(shown):.1g}"  # the picture's title
    lines = json.loads((ROOT / "experiments" / "results" / "mnist_vgg5.json").read_text())
    found = {
        line["config"]["algorithm"]: line["evaluations"][-1]["val_top1_error"]
        for line in lines
        if line["config"]["cost"] == "squared_error"
    }
    assert f"| MNIST, VGG5 | width 1/8, 3 epochs | {found['ep']:.2f}% | {found['bp']:.2f}% | 1 |" in README
    cells = json.loads((ROOT / "experiments" / "results" / "parity.json").read_text())["cells"]
    assert {finding.verdict for finding in parity.findings(cells)} == {"confirmed"}


def test_the_study_of_hardware_is_quoted_as_it_was_measured():
    """Mismatch, the noise that resistive networks bear, and what the budget's beta loses, in docs/hardware.md."""
    cells = json.loads((ROOT / "experiments" / "results" / "hardware.json").read_text())["cells"]
    page = " ".join(PAGES[Path("docs/hardware.md")].split())
    mean = {
        (system, way): mean_spread(errors(cells, system=system, fault="mismatch", level=1.0, way=way))[0]
        for system in hardware.SYSTEMS
        for way in ("EP", "moved")
    }
    told = ", ".join(f"{s} {mean[s, 'EP']:.1f} against {mean[s, 'moved']:.1f}" for s in hardware.SYSTEMS)
    assert told in page
    for dataset in ("mnist", "fashion_mnist"):
        power, borne = hardware.slope(cells, "resistive", dataset)
        assert ", ".join(borne) in page
        assert 0.8 < power < 1.2
    verdicts = {finding.claim: finding.verdict for finding in hardware.findings(cells)}
    assert [claim for claim, verdict in verdicts.items() if verdict != "confirmed"] == [
        "The budget, measured before training, names a beta that trains as well as the best (ours)"
    ]


def test_the_costs_of_a_gradient_are_quoted_as_they_were_measured():
    """Every row of docs/results.md's table, from the benchmark's own file."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "cost.json").read_text())["rows"]
    size = {"network": "VGG10", "image_size": 224, "batch_size": 4, "precision": "float32"}
    found = {row["name"]: row for row in rows if all(row[name] == value for name, value in size.items())}
    page = PAGES[Path("docs/results.md")]
    for name in (
        "sweep1/random",
        "sweep1/centered/shared signals",
        "sweep1/centered",
        "sweep1/centered/own products",
        "async10/centered",
        "async10/centered/all layers",
    ):
        row = found[name]
        seconds = "" if row["seconds_over_backprop"] is None else f"{row['seconds_over_backprop']:.2f}"
        cells = f"| {row['flops_over_backprop']:.2f} | {seconds} | {row['memory_over_backprop']:.2f} |"
        assert cells.replace("|  |", "| |") in page, name


def test_the_zoo_is_written_from_what_was_measured():
    """Every network of `epjax.models`, by the benchmark's own file."""
    found = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())
    assert not found["quick"]
    assert {row["network"] for row in found["rows"]} == set(models.__all__)
    assert PAGES[Path("docs/zoo.md")] == zoo.page(found["rows"], found["machine"])


def test_the_study_of_text_is_quoted_as_it_was_measured():
    cells = json.loads((ROOT / "experiments" / "results" / "text.json").read_text())["cells"]
    page = " ".join(PAGES[Path("docs/results.md")].split())
    for method, words in {"EP one-sided": "one-sided EP", "EP centered": "centered EP"}.items():
        mean, spread = mean_spread(text.last(cells, method))
        assert f"{words} {mean:.3f} ± {spread:.3f}" in page
    (finding,) = text.findings(cells)
    assert finding.verdict == "confirmed"


def test_networks_of_blocks_are_quoted_as_they_were_measured():
    """The table of docs/results.md, and what pulls of one's own cost, from the benchmark's own file."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "residual.json").read_text())["rows"]
    found = {(row["network"], row["name"]): row for row in rows}
    page = PAGES[Path("docs/results.md")]
    table = page.split("<!-- residual -->")[1].split("<!-- end -->")[0]

    def cells(row):
        F = row["flops_at_full_width"] or row["flops_over_backprop"]
        costs = (F, row["seconds_over_backprop"], row["temporaries_over_backprop"])
        return " | ".join([f"{1 - row['worst_layer_cosine']:.0e}", *(f"{cost:.2f}" for cost in costs)])

    for name in dict.fromkeys(row["network"] for row in rows):
        centered, one_sided = (cells(found[name, f"sweep1/{scheme}"]) for scheme in ("centered", "forward"))
        assert f"| {name} | {centered} | {one_sided} |" in table
    own = found["ResNet-18", "sweep1/centered/own pulls"]
    off = 1 - own["worst_layer_cosine"]
    assert f"ResNet-18 takes {own['flops_at_full_width']:.2f} F and its worst layer is {off:.0e} from 1" in page
