"""Tables of a figure, and the page for a reader of the paper: claim, figure, what was found, at what size."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from epjax.runs.markdown import markdown
from experiments.reproduce.cell import Result
from experiments.reproduce.figure import Figure, Finding, error, size, written

INTRODUCTION = """# The paper's claims, tested at a size that one machine can run

Kerjan, Scellier and Hoier, [arXiv:2606.03584](https://arxiv.org/abs/2606.03584). Each section is one figure, made by
the command above it as it stands; its JSON holds every run with its configuration, seed, curve and machine. The
networks are narrow, the data are subsets and the runs last a few epochs: the errors are far from the paper's, the
comparisons are those of the paper. "(ours)" marks what the paper does not claim. CIFAR-10's images were re-encoded as
JPEG of quality 75. The minutes are summed over the runs; where several runs shared the cores, less time went by.
"""


def table(results: Sequence[Result]) -> list[str]:
    """One row a cell, in Markdown."""
    names = list(dict.fromkeys(name for r in results for name in r["place"]))
    rows = []
    for r in results:
        measured = r["diverged"] or (r["evaluations"] and "val_top1_error" in r["evaluations"][-1])
        value = written(error(r)) if measured else "-"
        rows.append((*(str(r["place"].get(name, "")) for name in names), value, f"{r['seconds']:.0f}"))
    return markdown((*names, "top-1 error", "seconds"), rows, "l" * len(names) + "rr")


def verdicts(found: Sequence[Finding]) -> list[str]:
    """One row a claim."""
    return markdown(("claim", "verdict", "evidence"), ((f.claim, f"**{f.verdict}**", f.evidence) for f in found))


def summary(found: Mapping[str, Sequence[Finding]]) -> list[str]:
    """Every claim with its verdict, beside the title of the section that shows it."""
    rows = ((f.claim, f"**{f.verdict}**", f"[{t}](#{anchor(t)})") for t, fs in found.items() for f in fs)
    return markdown(("claim", "verdict", "shown by"), rows)


def anchor(title: str) -> str:
    """What a heading is linked by on GitHub."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def judge(figure: Figure, results: Sequence[Result], total: int) -> list[Finding]:
    """The figure's findings, once all its cells are finished: a verdict from a part would be one on what is missing."""
    return figure.findings(results) if len(results) == total else []


def section(figure: Figure, results: Sequence[Result], total: int) -> list[str]:
    """A figure's part of the page."""
    machines = sorted({_machine(r["machine"]) for r in results})
    minutes = sum(r["seconds"] for r in results) / 60
    what = f"{size(results)}. " if {"train_images", "width"} <= set(results[0]["config"]) else ""
    if len(results) == total:
        shown = [f"![{figure.TITLE}]({figure.NAME}.png)", "", *verdicts(judge(figure, results, total))]
    else:
        shown = [f"{len(results)} of {total} cells are finished: no picture and no verdict yet."]
    return [
        f"## {figure.TITLE}",
        "",
        f"`python -m experiments.reproduce {figure.NAME}`",
        "",
        f"{what}{len(results)} cells, {minutes:.0f} minutes on {'; '.join(machines)}.",
        "",
        *shown,
        "",
        "<details><summary>every run</summary>",
        "",
        *table(results),
        "",
        "</details>",
        "",
    ]


def _machine(facts: Mapping[str, str]) -> str:
    return f"{facts['processor']}, {facts['cores']} cores, jax {facts['jax']}"


def write(figures: Sequence[Figure], out: Path) -> None:
    """README.md in `out`, from the figures' JSON files that lie there."""
    found, sections = {}, []
    for figure in figures:
        path = out / f"{figure.NAME}.json"
        if path.exists():
            content = json.loads(path.read_text())
            found[figure.TITLE] = judge(figure, content["cells"], content["total"])
            sections += ["", *section(figure, content["cells"], content["total"])]
    lines = [*INTRODUCTION.splitlines(), "", *summary(found), *sections]
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n")
