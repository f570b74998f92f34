"""Names that Windows refuses or takes for something else: told as plain functions do, on any system."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vision_server.client.files import Sidecars
from vision_server.client.names import refused_by_windows, safe
from vision_server.client.server import ClientError
from vision_server.client.sketch import save
from vision_server.client.sources import listed_names

DEVICES = ["con", "CON.txt", "Nul.tar.gz", "aux .x", "COM1", "lpt9.txt", "com\u00b9.txt", "CONIN$", "prn."]


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_no_file(name: str) -> None:
    assert "device" in (refused_by_windows(name) or "")
    assert refused_by_windows(f"{safe(name)}.png") is None


@pytest.mark.parametrize("name", ["a:b", "a?", "a*", 'a"b', "a|b", "a<b", "a\\b", "a/b", "a\nb", "x.", "x ", "x. ."])
def test_what_windows_has_no_name_for(name: str) -> None:
    assert refused_by_windows(name)
    assert refused_by_windows(f"{safe(name)}.png") is None


@pytest.mark.parametrize(
    "name", ["cat.txt", "con1.txt", "console", "com10", "lpt", "a.con", ".nul", "ünï 日本", "a b.c"]
)
def test_what_is_a_name_there_as_well(name: str) -> None:
    assert refused_by_windows(name) is None


def test_a_name_of_any_text_is_short_enough_and_never_empty() -> None:
    assert safe("") == safe("///") == "_"
    assert len(safe("日本" * 200).encode()) <= 200
    assert safe("日本" * 200).startswith("日本日本")
    assert safe("cat-OD") == "cat-OD"


def test_a_text_beside_a_picture_of_such_a_name_is_refused_on_windows_only(tmp_path: Path) -> None:
    there, here = (Sidecars("txt", False, False, windows=windows) for windows in (True, False))
    for name in ("aux.jpg", "what?.jpg"):
        with pytest.raises(ClientError, match=r"^Windows has no file (aux|what\?)\.txt: "):
            there.claim(tmp_path / name, "")
        assert here.claim(tmp_path / name, "")
    assert there.claim(tmp_path / "cat.jpg", "")
    with pytest.raises(ClientError, match="no name there holds ':'"):
        Sidecars("txt:stream", False, False, windows=True).claim(tmp_path / "cat.jpg", "")


def test_a_drawn_copy_gets_a_name_that_every_system_has(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    assert [save(picture, tmp_path, name).name for name in ("nul.x-OD", "nul.x-OD", "", "a:b?")] == [
        "_nul.x-OD.png", "_nul.x-OD-2.png", "_.png", "a_b_.png",
    ]  # fmt: skip


def test_half_a_drawn_copy_is_never_left(tmp_path: Path) -> None:
    class Full(Image.Image):
        def save(self, fp: object, *_: object, **__: object) -> None:
            fp.write(b"half")  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save(Full(), tmp_path, "cat")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_as_windows_programs_write_it(encoding: str) -> None:
    assert listed_names("a.jpg\r\n\r\nün ï.jpg\r\n".encode(encoding)) == ["a.jpg", "ün ï.jpg"]
