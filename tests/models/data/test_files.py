"""Lines with their numbers, and writing that leaves the old file or the new one."""

from pathlib import Path

import pytest

from models.data.files import atomic_path, read_lines
from models.errors import UserError


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n  \nfour\u2028still four\n".encode())
    assert read_lines(path) == [(1, "one"), (4, "four\u2028still four")]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nbad \xff\n")
    with pytest.raises(UserError) as caught:
        read_lines(path)
    assert str(caught.value) == f"{path}:2: byte 5 of the line is not UTF-8; save the file as UTF-8"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: no such file; expected a UTF-8 text file there"):
        read_lines(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_lines(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / "file" / "a.txt") as temporary:
        temporary.write_text("x")
