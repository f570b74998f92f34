"""Caption and tags in the picture's own file, read back by exiftool and Pillow; pixels and all else stay to the bit."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vision_server import cli
from vision_server.client import embedded, exif, xmp
from vision_server.client.metadata import Description, Metadata, describe
from vision_server.client.server import ClientError

EXIFTOOL = shutil.which("exiftool")
CAPTION = 'a "red" <car> & 50 % café \\ $x @y\n日本 = -o x #[CSTR]\\'
TAGS = ("car", "-red", "café = 日本")
WRITERS = [None, pytest.param(EXIFTOOL, marks=pytest.mark.skipif(EXIFTOOL is None, reason="exiftool is not here"))]
reads_back = pytest.mark.skipif(EXIFTOOL is None, reason="exiftool is not here; CI installs it")


def picture(kind: str, **more: Any) -> bytes:
    """Noise, so that every change of a pixel shows; orientation 6, a camera and a copyright in EXIF."""
    size = (40, 24)
    image = Image.frombytes("RGB", size, random.Random(1).randbytes(3 * size[0] * size[1]))
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x8298] = 6, "Maker", "(c) somebody"
    tags.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    out = io.BytesIO()
    image.save(out, kind, **{"exif": tags, **more})
    return out.getvalue()


def read_by_exiftool(path: Path) -> dict[str, Any]:
    assert EXIFTOOL is not None
    ran = subprocess.run([EXIFTOOL, "-json", "-G1", "-struct", str(path)], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)[0]
    return found


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()


def write(path: Path, data: bytes, exiftool: str | None, **more: Any) -> None:
    path.write_bytes(data)
    answers = {"CAPTION": CAPTION, "GENERATE_TAGS": ", ".join(TAGS)}
    Metadata(answers, overwrite=False, exiftool=exiftool, **more).write(path, data, answers)


@reads_back
@pytest.mark.parametrize("exiftool", WRITERS, ids=["ourselves", "exiftool"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_written_is_read_back_and_all_else_stays(tmp_path: Path, kind: str, exiftool: str | None) -> None:
    data = picture(kind)
    path = tmp_path / f"-a \n'b' %d.{kind.lower()}"
    write(path, data, exiftool)
    new = path.read_bytes()
    assert pixels(new) == pixels(data)
    if kind == "JPEG":
        assert new[new.index(b"\xff\xda") :] == data[data.index(b"\xff\xda") :]
    assert path.with_name(f"{path.name}_original").read_bytes() == data
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, f"{path.name}_original"])

    found = read_by_exiftool(path.rename(tmp_path / "plain"))
    assert found["XMP-dc:Description"] == CAPTION
    assert found["XMP-dc:Subject"] == list(TAGS)
    assert found["IFD0:ImageDescription"] == CAPTION
    if kind == "JPEG":
        assert found["IPTC:Caption-Abstract"] == CAPTION
        assert found["IPTC:Keywords"] == list(TAGS)
    assert "Error" not in str(found)
    assert "ExifTool:Warning" not in found
    kept = Image.open(io.BytesIO(new)).getexif()
    assert (kept[0x0112], kept[0x010F], kept[0x8298]) == (6, "Maker", "(c) somebody")
    assert kept.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


@reads_back
@pytest.mark.parametrize("exiftool", WRITERS, ids=["ourselves", "exiftool"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_a_person_wrote_is_kept(tmp_path: Path, kind: str, exiftool: str | None) -> None:
    """Foreign XMP, a title, a rating and keywords of their own; only the caption is replaced."""
    assert EXIFTOOL is not None
    path = tmp_path / "a"
    path.write_bytes(picture(kind))
    words = ["-XMP-dc:Title=T", "-XMP:Rating=4", "-XMP-dc:Subject=mine", "-XMP-dc:Description=old", "-Artist=Ä"]
    words += ["-IPTC:City=Köln", "-IPTC:Keywords=mine", "-IPTC:CodedCharacterSet=UTF8"] if kind == "JPEG" else []
    subprocess.run([EXIFTOOL, "-q", "-overwrite_original", *words, str(path)], check=True)
    write(path, path.read_bytes(), exiftool)
    found = read_by_exiftool(path)
    assert found["XMP-dc:Subject"] == ["mine", *TAGS]
    assert (found["XMP-dc:Title"], found["XMP-xmp:Rating"], found["IFD0:Artist"]) == ("T", 4, "Ä")
    assert found["XMP-dc:Description"] == CAPTION
    if kind == "JPEG":
        assert (found["IPTC:City"], found["IPTC:Keywords"]) == ("Köln", ["mine", *TAGS])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pillow_reads_it_where_nothing_was(tmp_path: Path, kind: str) -> None:
    data = picture(kind, exif=b"", **({"lossless": True} if kind == "WEBP" else {}))
    write(tmp_path / "a", data, None)
    image = Image.open(tmp_path / "a")
    assert image.tobytes() == pixels(data)
    assert image.getexif()[0x010E].encode("latin-1").decode().rstrip("\0") == CAPTION
    packet = image.info["xmp"]
    assert (xmp.caption_of(packet), xmp.tags_of(packet)) == (CAPTION, list(TAGS))


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    data = picture("JPEG")
    metadata = Metadata(["CAPTION"], overwrite=False)
    assert metadata.is_wanted(data)
    write(tmp_path / "a", data, None)
    new = (tmp_path / "a").read_bytes()
    assert not metadata.is_wanted(new)
    assert Metadata(["CAPTION"], overwrite=True).is_wanted(new)
    assert not Metadata(["GENERATE_TAGS"], overwrite=False).is_wanted(new)
    assert Metadata(["OD"], overwrite=False).is_wanted(embedded.described(data, "only a caption", ()) or b"")


def test_the_first_original_stays_and_none_is_kept_unasked(tmp_path: Path) -> None:
    data = picture("PNG")
    write(tmp_path / "a", data, None)
    write(tmp_path / "a", (tmp_path / "a").read_bytes(), None)
    assert (tmp_path / "a_original").read_bytes() == data
    write(tmp_path / "b", data, None, keep_original=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a_original", "b"]


def test_permissions_stay_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(picture("PNG"))
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    data = (tmp_path / "real").read_bytes()
    Metadata(["CAPTION"], False).write(tmp_path / "link", data, {"CAPTION": "x"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "real").read_bytes() != data


def test_a_file_that_changed_meanwhile_and_an_interrupted_write_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture("PNG")
    path = tmp_path / "a"
    path.write_bytes(data + b"more")
    with pytest.raises(ClientError, match="was changed while"):
        Metadata(["CAPTION"], False).write(path, data, {"CAPTION": "x"})
    path.write_bytes(data)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Metadata(["CAPTION"], False).write(path, data, {"CAPTION": "x"})
    assert path.read_bytes() == data
    assert not list(tmp_path.glob(".vision*"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_refused_or_written_but_never_raise_anything_else(kind: str) -> None:
    whole = embedded.described(picture(kind), "old", ["tag"])
    assert whole is not None
    chance = random.Random(2)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(12, len(data))] = chance.randrange(256)
        try:
            embedded.described(bytes(data[: chance.randrange(20, len(data) + 1)]), CAPTION, TAGS)
        except ValueError:
            continue


def test_xmp_with_declarations_of_entities_is_refused() -> None:
    packet = b'<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>'
    with pytest.raises(xmp.BadPacket):
        xmp.changed(packet, "x", ())


def test_iptc_in_an_unknown_character_set_is_left_alone() -> None:
    made = exif.with_keywords(b"", "x", ["y"])
    assert made is not None
    assert exif.with_keywords(made, "z", ()) is not None
    latin = made.replace(b"\x1b%G", b"\xe9%G")
    assert exif.with_keywords(latin, "z", ()) is None


def test_other_formats_need_exiftool(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "TIFF")
    with pytest.raises(ClientError, match="install exiftool"):
        write(tmp_path / "a", out.getvalue(), None)
    assert (tmp_path / "a").read_bytes() == out.getvalue()
    if EXIFTOOL is not None:
        write(tmp_path / "a", out.getvalue(), EXIFTOOL)
        assert read_by_exiftool(tmp_path / "a")["XMP-dc:Description"] == CAPTION
        with pytest.raises(ClientError, match="exiftool cannot write to it"):
            write(tmp_path / "b", b"no picture", EXIFTOOL)


def test_what_answers_say_of_a_picture() -> None:
    located = {"bboxes": [[0, 0, 1, 1], [0, 0, 2, 2]], "labels": ["car", "car"]}
    said: dict[str, Any] = {"OD": located, "MIXED_CAPTION": "a house\nhouse, red \\(deep\\)", "": "another"}
    assert describe(said) == Description("a house", ("car", "house", "red (deep)"))
    assert describe({"<GENERATE_TAGS>": "a, b"}) == Description(None, ("a", "b"))
    assert describe({"MINE": " x "}) == Description("x", ())


def test_the_command_with_the_embedded_checkpoint(
    demo_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], copy_sample: Callable[[str], Path]
) -> None:
    paths = [copy_sample("scene-01.jpg"), copy_sample("scene-02.png")]
    words = ["caption", str(tmp_path), "--exif", "--prompt", "CAPTION", "--prompt", "GENERATE_TAGS"]
    assert cli.main([*words, "--server", demo_url]) == 0
    assert capsys.readouterr().err.startswith("2 captioned, 0 skipped, 0 failed;")
    packets = [xmp.find_packet(path.read_bytes()) or b"" for path in paths]
    assert [xmp.caption_of(packet) for packet in packets] == [
        "house on a plain background",
        "car, fish and sign on a dotted background",
    ]
    assert xmp.tags_of(packets[0])[0] == "house"
    assert cli.main([*words, "--server", demo_url]) == 0
    assert capsys.readouterr().err.startswith("0 captioned, 2 skipped, 0 failed;")


@pytest.fixture
def copy_sample(tmp_path: Path) -> Callable[[str], Path]:
    from vision_server.demo import SAMPLES

    return lambda name: Path(shutil.copy(SAMPLES / name, tmp_path))
