"""A run that is stopped by a signal while it trains."""

import os
import signal
from contextlib import contextmanager

from epjax.runs.progress import Reporter


@contextmanager
def stopped_at(monkeypatch, step):
    """In here a run gets SIGTERM when it reports that step."""
    update = Reporter.update

    def update_and_signal(self, status):
        update(self, status)
        if status.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "update", update_and_signal)
        yield
