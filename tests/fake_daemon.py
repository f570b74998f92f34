"""`python -m tests.fake_daemon ...`: the command line as it is, but the worker is the one without a model."""

from __future__ import annotations

import sys
from functools import partial

from vision_server import cli, daemon

FAKE_WORKER = (sys.executable, "-m", "tests.fake_worker", "--slots", "2")

if __name__ == "__main__":
    daemon.main = partial(daemon.main, worker_command=FAKE_WORKER)
    sys.exit(cli.main())
