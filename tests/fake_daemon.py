"""`python -m tests.fake_daemon [--worker=FLAGS] ...`: the command line as it is, but the worker is the one without a
model, started with these flags of tests.fake_worker."""

from __future__ import annotations

import shlex
import sys
from functools import partial

from vision_server import cli, daemon

FAKE_WORKER = (sys.executable, "-m", "tests.fake_worker", "--slots", "2")
_FLAGS = "--worker="

if __name__ == "__main__":
    words = sys.argv[1:]
    flags = shlex.split(words.pop(0).removeprefix(_FLAGS)) if words and words[0].startswith(_FLAGS) else []
    daemon.main = partial(daemon.main, worker_command=(*FAKE_WORKER, *flags))
    sys.exit(cli.main(words))
