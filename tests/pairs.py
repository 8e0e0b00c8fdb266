"""Two processes of their own, with four devices each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_address():
    """An address of this machine where nobody listens."""
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def environment():
    """That of a process with four devices. Its programs are compiled in haste: each runs a few times."""
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


class Pair:
    """The same interpreter with each of two lists of arguments."""

    def __init__(self, commands, more_environment=()):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environ = environment() | dict(more_environment)
        self._runs = [subprocess.Popen([sys.executable, *argv], cwd=ROOT, env=environ, **streams) for argv in commands]

    def end(self, patience=480):
        """The exit codes, the outputs and the errors; both must end in time."""
        try:
            told = [run.communicate(timeout=patience) for run in self._runs]
        finally:
            for run in self._runs:
                run.kill()
        outputs, errors = zip(*told, strict=True)
        return [run.returncode for run in self._runs], outputs, errors
