"""What of SOURCE is read, under which names, and in which pieces."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from tests.bulk.making import folder, parquet, png, tar
from vision_server.bulk.places import canonical
from vision_server.bulk.sources import File, Piece, list_files, pieces
from vision_server.errors import BadInput, BadSetting


class Known:
    """Answers that are there: the numbers of the prompts by picture, the part by picture, files that are complete."""

    def __init__(
        self, done: dict[str, set[int]] | None = None, homes: dict[str, str] | None = None, complete: str = ""
    ) -> None:
        self._done, self._homes, self._complete = done or {}, homes or {}, complete

    def done(self, picture: str) -> frozenset[int]:
        return frozenset(self._done.get(picture, ()))

    def home(self, picture: str) -> str | None:
        return self._homes.get(picture)

    def done_of(self, file: str) -> dict[str, frozenset[int]]:
        return {name: self.done(name) for name in self._done if name.startswith(f"{file}#")}

    def is_complete(self, file: str) -> bool:
        return file == self._complete


def names(source: Path | str, dest: Path | str = "/nowhere") -> list[str]:
    return [file.name for file in list_files(str(source), str(dest))]


def test_a_folder_is_listed_with_all_below_it_but_for_what_is_hidden_or_ours(tmp_path: Path) -> None:
    for name in ("b.JPG", "a b/ä.png", "a b/notes.txt", ".hidden.png", "out/part-1.parquet", "x.tar.gz", "y.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list_files(str(tmp_path), str(tmp_path / "out"))
    assert [(file.kind, file.name) for file in found] == [
        ("picture", "a b/ä.png"), ("picture", "b.JPG"), ("tar", "x.tar.gz"), ("parquet", "y.parquet"),
    ]  # fmt: skip
    assert [file.size for file in found] == [1, 1, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="names there are no bytes")
def test_a_name_that_is_no_utf8_is_spelled_out(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png())
    assert names(tmp_path) == ["caf\\udce9.png"]


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_one_file_a_pattern_and_an_url_of_it(tmp_path: Path, url: str) -> None:
    folder(tmp_path / "in", 2)
    tar(tmp_path / "in" / "s1.tar", [("a.png", png())])
    tar(tmp_path / "in" / "s2.tar", [("a.png", png())])
    assert names(url.format(tmp_path / "in" / "s*.tar")) == ["s1.tar", "s2.tar"]
    assert names(url.format(tmp_path / "in" / "s2.tar")) == ["s2.tar"]
    assert names(url.format(tmp_path / "*" / "s1.tar")) == ["in/s1.tar"]


def test_a_place_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({canonical(url) for url in ("in", "./in", "in/", f"{tmp_path}/in", f"file://{tmp_path}/in/")}) == 1
    assert canonical("http://h.example/s.tar") == "http://h.example/s.tar"


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("{}/none", BadInput, "there is no"),
        ("{}/none/x.png", BadInput, "there is no"),
        ("{}/empty", BadInput, "holds no picture"),
        ("{}/notes.txt", BadInput, "is no folder"),
        ("memory://pictures", BadSetting, "in one process only"),
        ("nonsense://x", BadSetting, "nonsense"),
    ],
)
def test_a_source_that_is_none_is_said_in_one_line(
    tmp_path: Path, source: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(error, match=said) as raised:
        list_files(source.format(tmp_path), str(tmp_path / "out"))
    assert "\n" not in str(raised.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def url_to_fs(url: str) -> None:
        raise ImportError("Please install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    with pytest.raises(BadSetting, match=r"SOURCE: s3:// needs a library that is not installed: Please install s3fs"):
        list_files("s3://bucket", "/nowhere")


def test_pieces_hold_what_is_left_and_pictures_stay_where_their_answers_are() -> None:
    files = [File("picture", name, f"/{name}", 1) for name in ("a", "b", "c", "d", "e")]
    known = Known({"a": {0, 1}, "b": {0}}, {"a": "part-x", "b": "part-x"})
    found = list(pieces("/", files, known, 2, 2))
    wanted = [(piece.part, [(one.file.name, one.prompts) for one in piece.pictures]) for piece in found]
    assert wanted[0] == ("part-x", [("b", (1,))])
    assert [names for _, names in wanted[1:]] == [[("c", (0, 1)), ("d", (0, 1))], [("e", (0, 1))]]
    assert len({part for part, _ in wanted}) == 3
    assert found == list(pieces("/", files, known, 2, 2)), "the same names again"


def test_a_file_that_is_answered_is_not_read_again(tmp_path: Path) -> None:
    files = [File("tar", "x.tar", "/x.tar", 1), File("parquet", "y.parquet", "/y.parquet", 1)]
    found = list(pieces("/", files, Known({"x.tar#k": {0}}, complete="y.parquet"), 1, 2))
    assert [(piece.file.name, piece.done) for piece in found if piece.file] == [("x.tar", (("x.tar#k", (0,)),))]
    assert isinstance(found[0], Piece)
    assert parquet(tmp_path / "y.parquet", {"a": [1]}).exists()
