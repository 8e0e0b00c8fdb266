"""Oracle: two finished runs written by hand. The comparison names them, orders their numbers, and draws them.

Catches a run whose numbers stand in another's row, a picture that is not written, a folder that is no run.
"""

import json

from experiments.compare import main
from experiments.config import Run, flat
from experiments.imagenet_vgg10 import VGG10Config


def write(directory, error, **changes):
    directory.mkdir()
    facts = {"data_name": "toys", "train_images": 1000, "classes": 10, "val_images": 100}
    (directory / "config.json").write_text(json.dumps(flat(VGG10Config(Run(directory))) | facts | changes))
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
    ep, bp = shown.splitlines()[-2:]
    assert ep.startswith("| EP centered, async mod_pgd")
    assert "| 2 | 40.00% | 20.00% | 1.000 | 2:00 |" in ep
    assert bp.startswith("| backpropagation")
    assert "44.00%" in bp


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    assert "holds no evaluation" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
