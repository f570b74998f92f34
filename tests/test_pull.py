"""`vision-server pull` as a process, against a hub on loopback; and the line that shows how far it is."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_process import ENVIRONMENT
from tests.hub.toy import FILES, NAME
from tests.hub_server import Repository, serve
from vision_server.pull import Bar


def pull(home: Path, endpoint: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "*", **variables}
    config = home.parent / "config.yaml"
    config.touch()
    command = [sys.executable, "-m", "vision_server", "pull", "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_it_prints_the_folder_and_how_much_came(home: Path) -> None:
    with serve() as hub:
        hub.repositories[NAME] = Repository(dict(FILES))
        done = pull(home, hub.url, NAME)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(home)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            assert (folder / name).read_bytes() == FILES[name]
        assert not list(folder.glob("*.py"))
        assert done.stderr == f"{NAME}: 0.2 MB are here.\n"
        again = pull(home, hub.url, NAME, "--revision", "main")
        assert (again.returncode, again.stdout) == (0, done.stdout)


def test_names_of_the_catalogue_and_of_the_settings(home: Path) -> None:
    """The settings are the daemon's: where it is cached, which hub, which token, which revision."""
    config = home.parent / "config.yaml"
    with serve() as hub:
        hub.repositories["MiaoshouAI/Florence-2-base-PromptGen-v2.0"] = Repository(dict(FILES))
        hub.repositories[NAME] = Repository(dict(FILES))
        hub.repositories[NAME].push("v2", {**FILES, "config.json": b'{"version": 2}'})
        config.write_text(
            f"hf_endpoint: {hub.url}\nhf_token: hf_secret\ncache_dir: {home.parent / 'cache'}\n"
            f"models:\n  mine: {{model: {NAME}, revision: v2}}\n"
        )
        nowhere = "http://127.0.0.1:9"
        alias = pull(home, nowhere, "promptgen-base")
        assert alias.returncode == 0, alias.stderr
        assert "models--MiaoshouAI--Florence-2-base-PromptGen-v2.0" in alias.stdout
        mine = pull(home, nowhere, "Mine")
        assert (Path(mine.stdout.strip()) / "config.json").read_bytes() == b'{"version": 2}'
        assert Path(mine.stdout.strip()).is_relative_to(home.parent / "cache")
        assert {one.token for one in hub.seen if not one.path.startswith("/cdn/")} == {"Bearer hf_secret"}
        assert "hf_secret" not in alias.stderr + mine.stderr
        asked = len(hub.seen)
        again = pull(home, nowhere, "mine", "--offline")
        assert (again.returncode, again.stdout) == (0, mine.stdout)
        assert len(hub.seen) == asked


def test_what_needs_no_download(home: Path) -> None:
    done = pull(home, "http://127.0.0.1:9", "demo")
    assert (done.returncode, done.stderr) == (0, "demo needs no download.\n")
    assert (Path(done.stdout.strip()) / "model.safetensors").exists()


def test_failures_are_one_line(home: Path) -> None:
    with serve() as hub:
        for words, code, said in (
            (("nobody/nothing",), 1, "The hub shows no repository nobody/nothing"),
            (("promptgen-bse",), 2, "Did you mean promptgen-base?"),
            ((NAME, "--offline"), 1, "leave offline mode"),
            ((NAME, "--revision", "../x"), 2, "is no revision"),
            (("demo", "--revision", "v2"), 2, "a folder has no revisions"),
            ((), 2, "NAME"),
            ((NAME, "--revison", "x"), 2, "did you mean --revision?"),
        ):
            done = pull(home, hub.url, *words)
            assert (done.returncode, done.stdout) == (code, ""), words
            assert said in done.stderr
            assert done.stderr.startswith("vision-server")
            assert done.stderr.count("\n") == 1
            assert str(home) not in done.stderr


# The line -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.getvalue().split("\r")]


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Terminal:
    """In place of standard error; no fixture, since pytest puts its own there before a test begins."""
    monkeypatch.setenv("COLUMNS", str(columns))
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    return made


def bar_at(times: list[float]) -> Bar:
    return Bar(iter(times).__next__)


def test_the_bar_has_share_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    bar = bar_at([0, 1, 2, 3])
    for done, total in ((0, 0), (0, 3_290_000_000), (50_000_000, 3_290_000_000), (1_645_000_000, 3_290_000_000)):
        bar.report("download", done, total)
    bar.clear()
    assert shown.lines() == [
        "",
        "download: asking the hub",
        "download [------------------------]   0 %  0.0 of 3,290.0 MB",
        "download [------------------------]   1 %  50.0 of 3,290.0 MB  25.0 MB/s  2:10 left",
        "download [############------------]  50 %  1,645.0 of 3,290.0 MB  548.3 MB/s  0:03 left",
        "",
        "",
    ]


def test_the_rate_is_of_the_last_seconds_and_unknown_where_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    bar = bar_at([0, 1, 20, 21, 40, 41])
    for done in (0, 90_000_000, 90_000_000, 91_000_000, 91_000_000, 91_000_000):
        bar.report("download", done, 100_000_000)
    lines = shown.lines()
    assert [line.partition("MB")[2].split() for line in lines[-3:]] == [["1.0", "MB/s", "0:09", "left"], [], []]


def test_it_is_not_written_too_often_nor_too_long_nor_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, columns=30)
    bar = bar_at([0, 0.1, 0.15, 0.3])
    for done in range(4):
        bar.report("download", done, 10)
    assert len(shown.lines()) == 3
    assert max(map(len, shown.lines())) == 29
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    bar = bar_at([0, 1])
    bar.report("download", 1, 2)
    bar.clear()
    assert plain.getvalue() == ""
    assert bar.total == 2
