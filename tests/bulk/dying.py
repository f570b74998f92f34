"""Engines that die as soon as they are started, on the cluster at the address that is the first word. Not a test.

Prints what ends the run.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from vision_server.bulk import cluster
from vision_server.bulk.asking import asked
from vision_server.bulk.ledger import Limits
from vision_server.bulk.pools import Pool
from vision_server.bulk.samples import Rules
from vision_server.bulk.sources import File, Piece, Wanted
from vision_server.errors import VisionError
from vision_server.worker.protocol import Options


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def main() -> None:
    picture = Path(__file__)
    wanted = Wanted(File("picture", "a.png", str(picture), None), (0,))
    pool = Pool(engines=1, device="cpu", cpus=1, gpus=0, threads=1, decoders=1, batch=8)
    with cluster.running(sys.argv[1], 1, 0, None):
        book = cluster.RemoteBook(Limits(in_a_row=2))
        pieces = [Piece(str(picture.parent), "part-a", (wanted,))]
        try:
            for _ in cluster.answers(
                pieces, Rules(1, 8, 1 << 20), die, asked(["CAPTION"], "", (), Options()), pool, book
            ):
                pass
        except VisionError as error:
            sys.stdout.write(f"ended: {error} {book.deaths()} deaths\n")


if __name__ == "__main__":
    main()
