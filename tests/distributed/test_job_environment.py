"""The file of a submitted job's keys and passwords, as its processes read it."""

import json
import os
from pathlib import Path

import pytest

from cluster.job_package import SECRETS
from distributed.job_environment import FILE, load
from models.errors import UserError


def test_the_file_is_the_one_that_is_uploaded() -> None:
    assert FILE == SECRETS


def test_what_is_set_already_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM_SET_KEY", "before")
    monkeypatch.setenv("MM_NEW_KEY", "")  # so that it is undone afterwards
    monkeypatch.delenv("MM_NEW_KEY")
    (tmp_path / FILE).write_text(json.dumps({"MM_SET_KEY": "from the file", "MM_NEW_KEY": "from the file"}))
    load(tmp_path)
    assert (os.environ["MM_SET_KEY"], os.environ["MM_NEW_KEY"]) == ("before", "from the file")


def test_without_a_file_nothing_happens(tmp_path: Path) -> None:
    before = dict(os.environ)
    load(tmp_path)
    assert dict(os.environ) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"MM_KEY": 1}', "\xff"])
def test_another_file_of_this_name_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"\.job_environment\.json: expected a JSON object of names") as caught:
        load(tmp_path)
    assert caught.value.__cause__ is None
