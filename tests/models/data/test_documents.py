"""JSON, CSV and zip archives: what is read, and the place that is named for every fault."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from models.data.documents import read_json, read_table, sentence
from models.errors import UserError

VALUE = {"a": [1, "ü"]}


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def rejected(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_json(path, "a.json")
    assert str(caught.value).startswith(f"{path}")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_plain_and_zipped(tmp_path: Path) -> None:
    data = json.dumps(VALUE, ensure_ascii=False).encode()
    plain = tmp_path / "other name.json"
    plain.write_bytes(b"\xef\xbb\xbf" + data)
    assert read_json(plain, "a.json") == (str(plain), VALUE)
    packed = write_zip(
        tmp_path / "a.zip", {"in/a.json": data, "in/b.json": b"[]", "in/": b"", "__MACOSX/._a.json": b"?"}
    )
    before = sorted(tmp_path.rglob("*"))
    assert read_json(packed, "a.json") == (f"{packed}:in/a.json", VALUE)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize("name", ["../a.json", "/etc/a.json", "in/../../a.json", "..\\a.json", "C:\\a.json"])
def test_a_member_that_leads_out(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.json": b"{}", name: b"{}"})
    assert rejected(path) == f": member {name!r} leads out of the archive; download it from a place you trust"


def test_faulty_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    assert rejected(path) == ": no such file; expected a zip archive there"
    write_zip(path, {"b.json": b"{}"})
    assert rejected(path) == ": holds no a.json; expected the official archive"
    write_zip(path, {"a.json": b"{}", "in/a.json": b"{}"})
    assert rejected(path) == ": holds several a.json; expected the official archive"
    write_zip(path, {"a.json": json.dumps(list(range(1000))).encode()})
    whole = path.read_bytes()
    for part in (b"", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(part)
        assert rejected(path).startswith(": is no zip archive or is cut short (")
    broken = bytearray(whole)
    broken[100:110] = bytes(10)
    path.write_bytes(broken)
    assert rejected(path).startswith(": is no zip archive or is cut short (")
    path.unlink()
    path.mkdir()
    assert rejected(path).startswith(": is no zip archive or is cut short (")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":\n [1, "\xff"]}', ":2: byte 7 of the line is not UTF-8; save the file as UTF-8"),
        (b'{"a":\n [1, 2', ":2: column 7 is no JSON (Expecting ',' delimiter); is the file cut short?"),
        (b"", ":1: column 1 is no JSON (Expecting value); is the file cut short?"),
        (b"[" * 200_000, ": is nested too deeply to be an annotation file; download it again"),
    ],
    ids=["not UTF-8", "cut short", "empty", "deep"],
)
def test_faulty_json(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert rejected(tmp_path / "a.json") == said
    assert rejected(write_zip(tmp_path / "a.zip", {"a.json": data})) == f":a.json{said}"


def test_missing_json(tmp_path: Path) -> None:
    assert rejected(tmp_path / "a.json") == ": no such file; expected a JSON file there"
    (tmp_path / "a.json").mkdir()
    assert rejected(tmp_path / "a.json").startswith(": cannot be read (")


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('key, video_id ,sentence\nret0,v1,"a, ""b"""\n\nret1,v2,\n', encoding="utf-8-sig")
    assert read_table(path, "sentence", "video_id") == [
        (f"{path}:2", {"key": "ret0", "video_id": "v1", "sentence": 'a, "b"'}),
        (f"{path}:4", {"key": "ret1", "video_id": "v2", "sentence": ""}),
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", ": is empty; expected a header with video_id"),
        (b"video,id\n", ":1: no column 'video_id' among video, id"),
        (b"video_id,video_id\n", ":1: a column comes twice among video_id, video_id; expected each once"),
        (b"video_id,b\nv1\n", ":2: 1 cells; expected 2: video_id,b"),
        (b"video_id\nv1,2\n", ":2: 2 cells; expected 1: video_id"),
        (
            b'video_id\n"v1\n',
            ":2: is no line of a CSV file (unexpected end of data); expected cells separated by commas",
        ),
        (b"video_id\nv\xff\n", ":2: byte 2 of the line is not UTF-8; save the file as UTF-8"),
    ],
)
def test_faulty_tables(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_table(path, "video_id")
    assert str(caught.value) == f"{path}{said}"


def test_sentences() -> None:
    assert sentence(" a b\n", "x") == "a b"
    assert sentence("\N{GRINNING FACE}", "x") == "\N{GRINNING FACE}"
    for value, said in {
        " \t": "f.json: 3 is empty; expected a sentence",
        7: "f.json: 3 is 7; expected a sentence",
        json.loads('"\\ud83d"'): "f.json: 3 holds half a character (a lone surrogate); expected Unicode text",
    }.items():
        with pytest.raises(UserError) as caught:
            sentence(value, "f.json: 3")
        assert str(caught.value) == said


def test_only_the_member_that_is_asked_for_is_read(tmp_path: Path) -> None:
    """Another member may be damaged: it is of no interest."""
    path = write_zip(tmp_path / "a.zip", {"a.json": b"[1]", "b.json": b"[2]" * 100})
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.getinfo("b.json").header_offset + 36
    path.write_bytes(data[:start] + b"\xff" * 4 + data[start + 4 :])
    assert read_json(path, "a.json")[1] == [1]
