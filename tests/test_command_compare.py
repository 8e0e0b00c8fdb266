"""Oracle: runs written by hand. Comparison and report name them, order their numbers, and draw them.

Catches a run whose numbers stand in another's row, a picture that is not written, a folder that is no run, a page that
needs the network, a run that has not got far and stops the report of the others.
"""

import json
from functools import partial
from html.parser import HTMLParser

import pytest

from epjax.diagnosis.report import Diagnosis, LayerReport
from epjax.recipes.imagenet_vgg10 import EXPERIMENT
from epjax.runs import markdown, report
from epjax.runs.compare import main
from epjax.runs.config import Run, flat
from epjax.runs.metrics import MetricsLog, diagnosis_line
from epjax.runs.records import read
from epjax.runs.seeds import band, grouped, read_all
from epjax.style import looks

pytestmark = pytest.mark.fast


def write(directory, error, **changes):
    directory.mkdir()
    facts = {"data_name": "toys", "train_images": 1000, "classes": 10, "val_images": 100}
    (directory / "config.json").write_text(json.dumps(flat(EXPERIMENT.config(Run(directory))) | facts | changes))
    lines = [
        {"step": s, "epoch": s // 10, "val_top1_error": e, "val_top5_error": e / 2, "val_cost": 1.0, "seconds": 6.0 * s}
        for s, e in ((10, 90.0), (20, error))
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_two_runs(tmp_path, capsys):
    write(tmp_path / "ep", 40.0)
    write(tmp_path / "bp", 44.0, algorithm="bp")
    picture = tmp_path / "compared.png"
    assert main([str(tmp_path / "ep"), str(tmp_path / "bp"), "--out", str(picture)]) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    stored = json.loads(picture.with_suffix(".json").read_text())
    assert [run["evaluations"][-1]["val_top1_error"] for run in stored] == [40.0, 44.0]
    assert str(tmp_path) not in picture.with_suffix(".json").read_text()
    shown = capsys.readouterr().out
    assert "toys, 1,000 images, 224x224, width 1, batch 256, seed 0" in shown
    assert "top-5" not in shown  # of ten classes half are among the first five by chance
    ep, bp = shown.splitlines()[-2:]
    assert ep.startswith("| EP centered, async mod_pgd")
    assert "| 0 | 2 | 40.00% | 1.000 | 2:00 |" in ep
    assert bp.startswith("| backpropagation")
    assert "44.00%" in bp


def test_seeds_are_one_row_with_their_spread(tmp_path, capsys):
    """The folder of several seeds stands for its runs; what differs in more than the seed stays apart."""
    (tmp_path / "ep").mkdir()
    for seed, error in enumerate((40.0, 42.0, 44.0)):
        write(tmp_path / "ep" / f"seed-{seed}", error, seed=seed, workdir=f"there/{seed}", classes=100)
    write(tmp_path / "wide", 30.0, width=2.0, classes=100)
    picture = tmp_path / "compared.png"
    assert main([str(tmp_path / "ep"), str(tmp_path / "wide"), "--out", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "seeds 0, 1, 2" in shown
    narrow, wide = shown.splitlines()[-2:]
    assert narrow.partition("|")[2].startswith(" EP centered, async mod_pgd")
    assert "width 1 |" in narrow
    assert "width 2 |" in wide
    assert "| 0 to 2 | 2 | 42.00% ± 2.00 | 21.00% ± 1.00 | 1.000 ± 0.000 | 2:00 |" in narrow
    assert "| 0 | 2 | 30.00% | 15.00% | 1.000 | 2:00 |" in wide
    out = tmp_path / "report.html"
    assert report.main([str(tmp_path / "ep"), str(tmp_path / "wide"), "--out", str(out)]) == 0
    rows = {row[0].split("  ")[0].strip().split(" EP")[0]: row[1:] for row in Page(out.read_text()).rows}
    assert rows["ep"][:6] == ["2", "42.00% ± 2.00", "–", "42.00% ± 2.00", "21.00% ± 1.00", "1.0000 ± 0.0000"]
    assert rows["seed 1"][:4] == ["2 of 50", "42.00%", "2", "42.00%"]
    assert rows["wide"][3] == "30.00%"
    assert rows["width"] == ["1", "2"]
    assert rows["seed"] == ["0 to 2", "0"]
    assert "2 configurations, 4 runs" in out.read_text()


def test_seeds_that_have_got_to_different_epochs_are_compared_where_all_have_been(tmp_path):
    for seed, errors in enumerate(((90.0, 40.0), (80.0,))):
        write(tmp_path / f"seed-{seed}", errors[-1], seed=seed)
        lines = (tmp_path / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        kept = [json.loads(line) | {"val_top1_error": e} for line, e in zip(lines, errors, strict=False)]
        (tmp_path / f"seed-{seed}" / "metrics.jsonl").write_text("".join(json.dumps(k) + "\n" for k in kept))
    (group,) = grouped(read_all([tmp_path]))
    assert [line["val_top1_error"] for line in group.last] == [90.0, 80.0]
    assert group.told("val_top1_error", ".1f", "%") == "85.0% ± 7.1"
    assert band(group.runs, "epoch", "val_top1_error") == [(1, 85.0, pytest.approx(50**0.5))]


def test_the_look_of_algorithms():
    """One colour and line for each, wherever it stands; several kinds of EP are told apart, as are unknown names."""
    ep, bp = looks(["ep", "bp"])
    assert looks(["bp", "ep"]) == [bp, ep]
    assert (ep.line, bp.line) == ("-", "--")
    several = looks(["ep", "ep", "bp", "bp", "mine", "other"])
    assert len({(one.colour, one.line) for one in several}) == 6
    assert all(one.line == "-" for one in several[:2])
    assert looks(["EP, one-sided", "backpropagation", "exact gradient"]) == [*looks(["ep", "bp"]), *looks(["exact"])]


def test_a_folder_that_is_no_run(tmp_path, capsys):
    write(tmp_path / "young", 40.0)
    (tmp_path / "young" / "metrics.jsonl").unlink()
    for folder, message in ((tmp_path, "is not the work directory of a run"), (tmp_path / "young", "no evaluation")):
        assert main([str(folder), "--out", str(tmp_path / "x.png")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_bar_stays_in_its_cell():
    assert markdown.markdown(("", "x"), [("a", "1 | 2")], "lr") == [
        "|  | x |",
        "|---|--:|",
        "| a | 1 \\| 2 |",
    ]


class Page(HTMLParser):
    """The rows of all tables, the number of pictures, and every reference to something outside of the page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.pictures, self.references = [], [], 0, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "br":
            self.rows[-1][-1] += " "
        self.pictures += tag == "svg"
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_report_holds_every_run_and_needs_nothing_else(tmp_path, capsys):
    write(tmp_path / "ep", 40.0, data="<b>here</b>")
    write(tmp_path / "bp", 94.0, algorithm="bp")
    (tmp_path / "ep" / "machine.json").write_text('{"processor": "an abacus"}')
    write(tmp_path / "young", 0.0, seed=1, width=0.5)
    first = {"step": 1, "epoch": 0.1, "cost": 2.0, "images_per_second": 50.0, "waiting": 0.25, "seconds": 6.0}
    (tmp_path / "young" / "metrics.jsonl").write_text(json.dumps(first) + '\n{"step": 2, "epo')
    out = tmp_path / "report.html"
    assert report.main([*(str(tmp_path / name) for name in ("ep", "bp", "young")), "--out", str(out)]) == 0
    text = out.read_text()
    page = Page(text)
    rows = {row[0].split()[0]: row[1:] for row in page.rows if row[0].strip()}
    assert rows["ep"][:6] == ["2 of 50", "40.00%", "2", "40.00%", "1.0000", "2:00"]
    assert rows["bp"][:4] == ["2 of 50", "90.00%", "1", "94.00%"]
    assert rows["young"] == ["0.1 of 50", *"––––", "0:06", "50", "25%"]
    assert "Not evaluated yet: young." in text
    assert rows["algorithm"] == ["ep", "bp", "ep"]
    assert rows["seed"] == ["0", "0", "1"]
    assert rows["data"][0] == "<b>here</b>"
    assert rows["processor"] == ["an abacus", "–", "–"]
    assert rows["epochs"] == ["50"]
    assert page.pictures == 5
    assert all(reference.startswith("#") for reference in page.references)
    assert "url(http" not in text
    assert "@import" not in text


def test_the_report_shows_diagnoses(tmp_path):
    """The last of each run that has some, and a curve; other readers of the lines do not see them."""
    write(tmp_path / "ep", 40.0)
    write(tmp_path / "other", 41.0)
    layers = (LayerReport(0.9, 1.1, 1e-3, 0.02), LayerReport(None, None, 1e-2, 0.0))
    report_of = partial(Diagnosis, advice="lower <beta>", beta=0.5, norm_ratio=1.2, layers=layers, rounding=1e-7)
    found = [
        report_of("good", cosine=0.999, residuals=(1.0, 1e-3)),
        report_of("beta too large", cosine=0.95, residuals=(1.0, float("inf"))),
    ]
    log = MetricsLog(tmp_path / "ep" / "metrics.jsonl", 20)
    for step, one in zip((20, 20), found, strict=True):
        log.write({"step": step, "epoch": 2} | diagnosis_line(one) | {"seconds": 130.0})
    log.close()
    assert report.main([*(str(tmp_path / name) for name in ("ep", "other")), "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    rows = {tuple(cell.strip() for cell in row) for row in Page(text).rows}
    assert ("ep", "2", "beta too large", "0.9500", "1", "0.9000", "1.200", "–", "2.00%", "1 of 2") in rows
    assert "lower &lt;beta&gt;" in text
    assert "cosine of the worst layer" in text
    assert len(read(tmp_path / "ep").evaluations) == 2
    assert not read(tmp_path / "ep").training


def test_a_report_of_what_is_no_run_is_one_sentence(tmp_path, capsys):
    out = tmp_path / "report.html"
    write(tmp_path / "cut", 40.0)
    (tmp_path / "cut" / "config.json").write_text('{"epochs": 5')
    wrong = {
        (): "at least one work directory",
        (str(tmp_path),): "is not the work directory of a run: it holds no config.json",
        (str(tmp_path / "cut"),): "config.json cannot be read",
    }
    for folders, message in wrong.items():
        assert report.main([*folders, "--out", str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not out.exists()
