"""An environment of its own for a peer, and its adapter run there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.table import Peer

HERE = Path(__file__).parent
CACHE = Path("build") / "benchmarks" / "peers"
INSTALL_SECONDS, RUN_SECONDS = 900, 900


class NotToBeHad(Exception):
    """One sentence that says why."""


def python_of(peer: Peer, checkouts: Path | None) -> tuple[Path, Path]:
    """The environment's interpreter and the checkout, made where they are not there. Raises NotToBeHad."""
    folder = (CACHE / peer.adapter).absolute()
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = " ".join([peer.package or peer.commit, *peer.beside])
    checkout = checkouts / peer.name.replace(" ", "_") if checkouts else folder / "checkout"
    if not (done.exists() and done.read_text() == wanted):
        _call([sys.executable, "-m", "venv", "--clear", str(folder)])
        if not peer.package:
            _fetch(peer, checkout, checkouts is not None)
        _call([str(python), "-m", "pip", "install", "-q", *filter(None, (peer.package, *peer.beside))])
        if not (peer.package or peer.runs_from_checkout):
            _call([str(python), "-m", "pip", "install", "-q", "--no-deps", str(checkout)])
        done.write_text(wanted)
    return python, checkout


def _fetch(peer: Peer, checkout: Path, given: bool) -> None:
    if given:
        if not checkout.is_dir():
            raise NotToBeHad(f"there is no checkout of {peer.address} in the folder that was given")
        return
    _call(["git", "clone", "-q", f"https://{peer.address}", str(checkout)])
    _call(["git", "-C", str(checkout), "checkout", "-q", peer.commit])


def run(
    peer: Peer, case: Path, repeats: int, checkouts: Path | None, seconds: float = RUN_SECONDS
) -> list[dict[str, Any]]:
    """The rows of its adapter on a saved case, in that many seconds; one row with `why` where there are none."""
    if seconds <= 0:
        return [{"why": "left out: the minutes were over"}]
    try:
        python, checkout = python_of(peer, checkouts)
        return measured(python, HERE / f"{peer.adapter}.py", case, repeats, checkout, min(seconds, RUN_SECONDS))
    except NotToBeHad as error:
        return [{"why": str(error)}]


def measured(
    python: Path, adapter: Path, case: Path, repeats: int, checkout: Path, seconds: float = RUN_SECONDS
) -> list[dict[str, Any]]:
    """The rows that the harness writes in that interpreter. Raises NotToBeHad."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**kept, "JAX_PLATFORMS": "cpu", "PEER_CHECKOUT": str(checkout.absolute())}
    harness = str((HERE / "harness.py").absolute())
    arguments = [str(adapter.absolute()), str(case.absolute()), str(repeats)]
    last = _call([str(python), "-P", harness, *arguments], seconds, environment).splitlines()[-1]
    found = json.loads(last)
    return [{**row, "framework": found["framework"]} for row in found["rows"]]


def _call(command: list[str], seconds: float = INSTALL_SECONDS, environment: dict[str, str] | None = None) -> str:
    what = " ".join(Path(word).name for word in command[:4])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"`{what}` took more than {seconds:.0f} seconds") from None
    except OSError as error:
        raise NotToBeHad(f"`{what}` could not be started: {error.strerror}") from None
    if done.returncode:
        raise NotToBeHad(f"`{what}` failed: {_reason(done.stderr)}")
    return done.stdout


def _reason(stderr: str) -> str:
    """Its last line, without the paths of this machine."""
    lines = [line for line in stderr.strip().splitlines() if line.strip() and "notice" not in line]
    return re.sub(r"(?:/[^/\s]+)*/", "", lines[-1])[:200] if lines else "without a word"
