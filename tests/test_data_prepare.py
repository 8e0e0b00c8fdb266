"""Would catch: a command that cannot prepare ImageNet with the real builder, or leaves a person without a next step.

The real run installs tensorflow (2 GB, some minutes): it runs where EPJAX_TEST_TENSORFLOW=1.
"""

import os
import shutil

import pytest
from data_forms import few_images, tiny_imagenet

from epjax.data import open_dataset
from experiments import prepare_imagenet

pytestmark = pytest.mark.fast


def test_missing_tars(tmp_path, capsys):
    assert prepare_imagenet.command([str(tmp_path), str(tmp_path / "out")]) == 1
    assert f"{tmp_path}/ILSVRC2012_img_train.tar is missing" in capsys.readouterr().err.replace("\n", "")


def test_full_disk(tmp_path, capsys, monkeypatch):
    tars = tiny_imagenet(val=1).ilsvrc_tars(tmp_path / "tars")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert prepare_imagenet.command([str(tars), str(tmp_path / "out")]) == 1
    assert "has 0 GB free, but needs about" in capsys.readouterr().err


def test_prepared_already(tmp_path, capsys):
    few_images().array_record(tmp_path)
    assert prepare_imagenet.command([str(tmp_path), str(tmp_path)]) == 0
    assert "is prepared already" in capsys.readouterr().err


def test_interpreter_that_cannot_install(tmp_path, capsys):
    tars = tiny_imagenet(val=1).ilsvrc_tars(tmp_path / "tars")
    rest = tmp_path / "out" / "imagenet2012" / "incomplete.ABC_5.1.0"
    rest.mkdir(parents=True)
    assert prepare_imagenet.command([str(tars), str(tmp_path / "out"), "--python", "/bin/false"]) == 1
    assert "tensorflow could not be installed for /bin/false" in capsys.readouterr().err
    assert not rest.exists()


@pytest.mark.skipif(
    os.environ.get("EPJAX_TEST_TENSORFLOW") != "1", reason="installs tensorflow: EPJAX_TEST_TENSORFLOW=1"
)
def test_the_real_builder_writes_what_the_tars_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tars, out = tiny_imagenet(train=2).ilsvrc_tars(tmp_path / "tars"), tmp_path / "out"
    assert prepare_imagenet.command([str(tars), str(out)]) == 0
    ours, theirs = open_dataset(f"tar:{tars}"), open_dataset(f"tfds:imagenet2012@{out}")
    assert ours.classes == theirs.classes
    for a, b in ((ours.train, theirs.train), (ours.val, theirs.val)):
        assert len(a) == len(b)
        assert all(a[i][:2] == b[i][:2] for i in range(len(a)))
