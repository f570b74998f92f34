"""A worker process without a model: speaks the protocol, answers at once and always the same, misbehaves on command.

`python -m tests.fake_worker [--load HOW] [--slots N] [--once FILE] [--gate FILE] [--only MODEL] [--tally FILE]
[--step BYTES]`. HOW
says what loading does: ok, fail, oom, crash, garbage, stall, exit0, kill, slow (progress, until the file in --gate
exists), download (the same in that phase, --step at a time). With --once the misbehaviour of the load happens only
while FILE does not exist, with --only it is that of one model. --tally gets a byte for every picture that is sent. A
request's `text` says what running it does:

    ""           answers          crash    dies by SIGABRT       exit0   ends with 0
    hang         goes silent      garbage  writes junk           half    writes half a frame and dies
    hold         never answers    gate:F   answers once F exists bad     fails with bad_image
    noise        prints to standard error, then answers
    model        answers with the name of the model
    located      answers with two phrases in places, the first of which its checkpoint would leave out of grounding
    kill         kills itself with SIGKILL, as somebody outside would
    child        starts a process of its own (its pid goes to the file named by the image), then never answers
    stray        the same, but the process leads a session of its own, where its parent has left it
    once:F:HOW   does HOW while F does not exist, creates it first
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from vision_server.worker.protocol import (
    LOAD,
    Cancel,
    Decoder,
    Done,
    Expect,
    Failed,
    Frame,
    Hello,
    Progress,
    Ready,
    Run,
    Stop,
    encode,
)


def answer(run: Run) -> Done:
    """What the fake says to a request; tests compare with it."""
    text = f"{run.task}|{run.text}|{len(run.image)}"
    banned: tuple[str, ...] = ()
    if run.text == "located":
        box = "<loc_0><loc_0><loc_499><loc_499>"
        text, banned = f"it{box}a car{box}", ("it",)
    return Done(run.id, text, 64, 48, "stop", 7, 3, 0.001, 0.002, 0.003, banned)


def say(frame: Frame) -> None:
    write(encode(frame))


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def listen(inbox: queue.SimpleQueue[Frame]) -> None:
    decoder = Decoder()
    while data := os.read(0, 1 << 20):
        for frame in decoder.feed(data):
            if isinstance(frame, Stop):
                os._exit(0)
            inbox.put(frame)
    os._exit(0)


def misbehave(how: str) -> None:
    """Do it; most ways do not return."""
    if how == "crash":
        os.abort()
    elif how == "exit0":
        os._exit(0)
    elif how in ("hang", "stall"):
        silence()
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "garbage":
        write(b"Loading checkpoint shards: 100%\n")
        silence()
    elif how == "half":
        write(encode(Progress("step"))[:9])
        os._exit(0)
    elif how == "noise":
        os.write(2, b"a native library speaks\n")


def silence() -> NoReturn:
    while True:
        time.sleep(60)


def first_time(marker: Path | None) -> bool:
    if marker is None or not marker.exists():
        if marker is not None:
            marker.touch()
        return True
    return False


def load(arguments: argparse.Namespace, model: str) -> None:
    say(Progress("weights", 0, 100))
    how = arguments.load if arguments.only in (None, model) else "ok"
    if how in ("slow", "download"):
        done = 0
        while not arguments.gate.exists():
            done += 1
            say(Progress("weights", done, 0) if how == "slow" else Progress("download", done * arguments.step, 1 << 30))
            time.sleep(0.02)
    elif how != "ok" and first_time(arguments.once):
        if how in ("fail", "oom"):
            code = "bad_checkpoint" if how == "fail" else "out_of_memory"
            say(Failed(LOAD, code, "The fake checkpoint cannot be loaded."))
            silence()
        misbehave(how)
    say(Ready(model, "cpu", "float32", arguments.slots))


def serve(inbox: queue.SimpleQueue[Frame], model: str, tally: Path | None) -> None:
    held: dict[int, Run] = {}
    while True:
        try:
            frame = inbox.get(timeout=0.02 if held else None)
        except queue.Empty:
            say(Progress("step", len(held)))
        else:
            if isinstance(frame, Run):
                if frame.text == "model":
                    frame = replace(frame, text=model)
                held[frame.id] = frame
                if tally is not None:
                    with tally.open("ab") as file:
                        file.write(b"1")
                begin(frame)
            elif isinstance(frame, Cancel) and frame.id in held:
                del held[frame.id]
                say(Failed(frame.id, Failed.CANCELLED, "cancelled"))
        for run in [run for run in held.values() if is_due(run)]:
            del held[run.id]
            say(Failed(run.id, "bad_image", "A bad picture.") if run.text == "bad" else answer(run))


def begin(run: Run) -> None:
    if run.text.startswith("once:"):
        _, marker, how = run.text.split(":")
        if first_time(Path(marker)):
            misbehave(how)
    elif run.text == "child":
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.fsdecode(run.image)).write_text(str(started.pid))
    elif run.text == "stray":
        code = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); "
        code += "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
        subprocess.run([sys.executable, "-c", code, run.image], check=True)
    else:
        misbehave(run.text)


def is_due(run: Run) -> bool:
    if run.text.startswith("gate:"):
        return Path(run.text.removeprefix("gate:")).exists()
    return run.text not in ("hold", "child", "stray")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", default="ok")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--once", type=Path)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--tally", type=Path)
    parser.add_argument("--step", type=int, default=1000)
    arguments = parser.parse_args()
    inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    while isinstance(hello := inbox.get(), Expect):
        pass
    assert isinstance(hello, Hello)
    load(arguments, hello.model)
    serve(inbox, hello.model, arguments.tally)


if __name__ == "__main__":
    main()
