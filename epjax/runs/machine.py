"""What the numbers were measured on: machine, versions, date."""

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

PACKAGES = ("epjax", "jax", "jaxlib", "flax", "optax", "numpy")


def describe() -> dict[str, str]:
    """Processor, cores, memory, accelerator, load, versions, date: one short string each."""
    device = jax.devices()[0]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "jax device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "load before": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def unused_accelerator() -> str | None:
    """What seems to be here and jax does not use, with the extra that brings it; None: nothing, or it is used."""
    if jax.default_backend() != "cpu":
        return None
    if any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0"))):
        return "a TPU seems to be here, but jax was installed without it: pip install 'epjax[tpu]'"
    if shutil.which("nvidia-smi"):
        return "an NVIDIA GPU seems to be here, but jax was installed without it: pip install 'epjax[cuda]'"
    return None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _commit() -> str:
    """The commit of the library and of the benchmarks, with a plus where they were changed since.

    An installed package is of no commit, whatever repository its environment lies in.
    """
    root = Path(__file__).parents[2]

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "epjax/runs/machine.py")
        return git("rev-parse", "--short", "HEAD") + "+" * bool(
            git("status", "--porcelain", "epjax", "benchmarks/*.py")
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
