"""`vision-server pull` as a process, against a hub on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.daemon_process import ENVIRONMENT
from tests.hub.toy import FILES, NAME
from tests.hub_server import Repository, serve


def pull(home: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "vision_server", "pull", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_it_prints_the_folder_and_how_much_came(tmp_path: Path) -> None:
    with serve() as hub:
        hub.repositories[NAME] = Repository(dict(FILES))
        done = pull(tmp_path, hub.url, NAME)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            assert (folder / name).read_bytes() == FILES[name]
        assert not list(folder.glob("*.py"))
        assert done.stderr == f"{NAME}: 0.2 MB are here.\n"
        again = pull(tmp_path, hub.url, NAME, "--revision", "main")
        assert (again.returncode, again.stdout) == (0, done.stdout)


def test_failures_are_one_line(tmp_path: Path) -> None:
    with serve() as hub:
        for words, code in ((("nobody/nothing",), 1), (("no-name",), 1), ((), 2), ((NAME, "--revison", "x"), 2)):
            done = pull(tmp_path, hub.url, *words)
            assert (done.returncode, done.stdout) == (code, ""), words
            assert done.stderr.startswith("vision-server pull: ")
            assert done.stderr.count("\n") == 1
            assert str(tmp_path) not in done.stderr
