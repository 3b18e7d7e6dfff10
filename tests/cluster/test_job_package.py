"""The package of a job: which files go to the cluster, the refusal of large ones, the file of secrets."""

import json
import os
import shlex
import stat
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package, unzip_package

from cluster.command import UserError
from cluster.job_package import SECRETS, check_size, largest_parts, select, write_package
from tests.conftest import ROOT

MB = 10**6


def write(folder: Path, **files: int | str) -> Path:
    """Files by name, `__` for the slash and `_` for the dot, of a size or with a text."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text("[project]\n")
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else bytes(content))
    return folder


def test_what_goes_is_what_ray_itself_would_upload(tmp_path: Path) -> None:
    excludes = [".git", ".venv", "venv", "__pycache__"]  # Ray's own
    create_package(str(ROOT), tmp_path / "ray.zip", include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(tmp_path / "ray.zip") as package:
        theirs = {name for name in package.namelist() if not name.endswith("/")}
    assert set(select(ROOT).files) == theirs
    assert "distributed/train.py" in theirs
    assert not any(name.startswith(("tests/", ".git/")) for name in theirs)


def test_ignore_files_and_excludes_decide(tmp_path: Path) -> None:
    write(tmp_path, a_py=1, b_bin=1, sub__c_log=1, sub__d_py=1, big__e=1, __git__config=1)
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".rayignore").write_text("/b.bin\n")
    assert set(select(tmp_path, ["/big/"]).files) == {
        ".gitignore",
        ".rayignore",
        "pyproject.toml",
        "a.py",
        "sub/d.py",
    }


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no checkout: there is no pyproject\.toml; .*--working-dir"):
        select(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        select(tmp_path / "nothing")


def test_a_wrong_pattern_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a pattern of \.gitignore, \.rayignore or --exclude is wrong"):
        select(write(tmp_path), ["!"])


def test_too_much_is_refused_with_what_is_largest(tmp_path: Path) -> None:
    write(tmp_path, data__videos__a_bin=3 * MB, data__videos__b_bin=2 * MB, cache_bin=4 * MB, notes_txt=MB, x_py=10)
    with pytest.raises(UserError) as caught:
        check_size(select(tmp_path), 5)
    line = str(caught.value)
    assert "\n" not in line
    assert "10.0 MB would be uploaded, --max-size allows 5 MB" in line
    assert "the largest: data/videos/a.bin (3.0 MB), cache.bin (4.0 MB), notes.txt (1.0 MB)" in line
    assert "--exclude /data/videos/a.bin --exclude /cache.bin --exclude /notes.txt" in line
    check_size(select(tmp_path), 11)


def test_the_advice_on_excludes_works(tmp_path: Path) -> None:
    write(tmp_path, small_py=10)
    for name in ("a[1]*.bin", "#x.bin"):
        (tmp_path / name).write_bytes(bytes(MB))
    (tmp_path / "a1.bin").write_bytes(b"stays")
    with pytest.raises(UserError) as caught:
        check_size(select(tmp_path), 1)
    advice = str(caught.value).partition("does not need: ")[2].partition(" (or")[0]
    patterns = [word for word in shlex.split(advice) if word != "--exclude"]
    assert len(patterns) == 3
    assert set(select(tmp_path, patterns[:2]).files) == {"a1.bin", "pyproject.toml", "small.py"}


def test_a_folder_of_many_small_files_is_named_as_a_whole() -> None:
    files = {f"frames/{number}.npy": 10 for number in range(100)} | {"a/b/c/large": 900, "a/small": 1}
    assert largest_parts(files) == [("frames/", 1000), ("a/b/c/large", 900)]


def test_secrets_travel_in_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    checkout = write(tmp_path / "checkout", a_py="x = 1\n")
    (checkout / SECRETS).write_text('{"OLD_KEY": "of somebody else"}')  # is never taken along
    before = sorted(checkout.iterdir())
    package = tmp_path / "package.zip"
    write_package(select(checkout), {"WANDB_API_KEY": "s3cret"}, package)
    assert sorted(checkout.iterdir()) == before

    unpacked = tmp_path / "unpacked"
    unzip_package(str(package), str(unpacked), remove_top_level_directory=False, unlink_zip=False)  # as on a node
    assert json.loads((unpacked / SECRETS).read_text()) == {"WANDB_API_KEY": "s3cret"}
    assert stat.S_IMODE((unpacked / SECRETS).stat().st_mode) == 0o600
    assert (unpacked / "a.py").read_text() == "x = 1\n"

    write_package(select(checkout), {}, package)
    with zipfile.ZipFile(package) as without:
        assert SECRETS not in without.namelist()


def test_the_same_files_give_the_same_package(tmp_path: Path) -> None:
    """Ray names a package by its bytes, and uploads none twice."""
    checkout = write(tmp_path / "checkout", a_py="x = 1\n", run_sh="#!/bin/sh\n")
    (checkout / "run.sh").chmod(0o755)
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    write_package(select(checkout), {}, first)
    os.utime(checkout / "a.py", (0, 0))
    write_package(select(checkout), {}, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as package:
        assert package.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    selection = select(write(tmp_path, gone_py=1))
    (tmp_path / "gone.py").unlink()
    with pytest.raises(UserError, match=r"gone\.py: cannot be read: No such file.*--exclude /gone\.py"):
        write_package(selection, {}, tmp_path / "package.zip")
