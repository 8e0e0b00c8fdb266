"""ImageNet's two tars to ArrayRecord files, by tensorflow-datasets' own builder.

    python -m experiments.prepare_imagenet MANUAL_DIR DATA_DIR
    python -m experiments.imagenet_vgg10 --workdir DIR --data tfds:imagenet2012@DATA_DIR

MANUAL_DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as downloaded. The builder needs tensorflow, which
nothing else here does: it is installed in a virtual environment that is deleted afterwards (about 2 GB meanwhile, in
the folder for temporary files). DATA_DIR needs about as much space as the tars, 150 GB. A run that was interrupted
leaves nothing that counts as prepared: the same command clears it away and starts again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
NAME = "imagenet2012"

BUILD = f"""
import sys
import tensorflow_datasets as tfds
manual_dir, data_dir = sys.argv[1:]
config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
builder = tfds.builder("{NAME}", data_dir=data_dir, file_format="array_record", try_gcs=False)
builder.download_and_prepare(download_config=config)
print("prepared", *(f"{{name}}: {{split.num_examples}} images" for name, split in builder.info.splits.items()))
"""


def prepare(manual_dir: Path, data_dir: Path, python: str, console: Console) -> Path:
    """The folder of the prepared data set; ValueError, FileNotFoundError or OSError say what is in the way."""
    from epjax.data.sources.arrayrecord import find_prepared

    done = find_prepared(data_dir, NAME)
    if done is not None:
        console.print(f"{done} is prepared already; delete it to prepare it again")
        return done
    _check(manual_dir, data_dir)
    for rest in (data_dir / NAME).glob("*incomplete*"):
        console.print(f"clearing away {rest}, which an interrupted run left")
        shutil.rmtree(rest)
    with tempfile.TemporaryDirectory(prefix="epjax-tensorflow-") as folder:
        with console.status("installing tensorflow in an environment of its own (a few minutes)"):
            interpreter = _environment(Path(folder), python)
        console.print("writing ArrayRecord files (hours for all of ImageNet; Ctrl-C is safe)")
        arguments = [str(interpreter), "-c", BUILD, str(manual_dir.resolve()), str(data_dir.resolve())]
        quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
        if subprocess.run(arguments, env=quiet).returncode:
            raise OSError(f"tensorflow-datasets could not prepare {manual_dir}: its own message stands above")
    found = find_prepared(data_dir, NAME)
    assert found is not None
    return found


def _check(manual_dir: Path, data_dir: Path) -> None:
    for tar in (manual_dir / name for name in TARS):
        if not tar.is_file():
            raise FileNotFoundError(f"{tar} is missing: MANUAL_DIR must hold {' and '.join(TARS)}")
    needed = sum((manual_dir / name).stat().st_size for name in TARS)
    data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(data_dir).free
    if free < 1.1 * needed:
        raise OSError(f"{data_dir} has {free / 1e9:.0f} GB free, but needs about {1.1 * needed / 1e9:.0f} GB")


def _environment(folder: Path, python: str) -> Path:
    """The interpreter of a new virtual environment with tensorflow and this environment's tensorflow-datasets."""
    packages = ["tensorflow", "importlib_resources", "array_record"]
    packages.append(f"tensorflow-datasets=={version('tensorflow-datasets')}")
    interpreter = folder / "bin" / "python"
    for arguments in (
        [python, "-m", "venv", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", "--no-cache-dir", *packages],
    ):
        done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(folder)})
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise OSError(
                f"tensorflow could not be installed for {python}: {' '.join(last)}; --python takes another one"
            )
    return interpreter


def main(
    manual_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANUAL_DIR")],
    data_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA_DIR")],
    python: Annotated[str, tyro.conf.arg(metavar="PATH")] = sys.executable,
) -> int:
    """Write ImageNet as ArrayRecord files, for --data tfds:imagenet2012@DATA_DIR.

    Args:
        manual_dir: Folder with the two tars as downloaded.
        data_dir: Folder to write to.
        python: Interpreter for which tensorflow can be installed.
    """
    console = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)
    try:
        folder = prepare(manual_dir, data_dir, python, console)
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted: the same command starts again")
        return 130
    console.print(f"{folder}\nuse it with --data tfds:{NAME}@{data_dir}")
    return 0


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return tyro.cli(main, prog="python -m experiments.prepare_imagenet", args=arguments)


if __name__ == "__main__":
    sys.exit(command())
