"""Checks the command of a job before anything is uploaded, and tells which run or sweep it is about."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cluster.command import UserError
from cluster.job_package import Selection

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_RECIPES = {"distributed.train": "distributed/recipes", "tuning.sweep": "tuning/spaces"}
"""The modules whose first word is a file, and where they look for a bare name."""
_WITH_VALUE = {"--set", "--resume"}


@dataclass(frozen=True)
class JobCommand:
    """What a job runs."""

    entrypoint: str
    """As the cluster's shell gets it."""
    run: str | None = None
    """The folder of the run or sweep, where that can be told from here: two jobs at once would spoil it."""
    warnings: list[str] = field(default_factory=list)


def check_command(words: Sequence[str], selection: Selection) -> JobCommand:
    """The command after `--`, checked as far as that is possible without the cluster.

    Raises:
        UserError: it is empty, what it runs is not among the files that go, or its results would be lost.
    """
    if not words:
        raise UserError(
            "no command: write it after --, e.g. python -m cluster.submit -- python -m distributed.train demo "
            "storage=/shared/runs"
        )
    entrypoint = shlex.join(words)
    module, arguments = python_module(words)
    if module is None:
        return JobCommand(entrypoint)
    _check_module(module, selection)
    if module not in _RECIPES:
        return JobCommand(entrypoint)
    return _check_recipe(entrypoint, module, arguments, selection)


def python_module(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The module of `python [options] -m MODULE ...` and what follows it; None for other commands."""
    if not _PYTHON.fullmatch(PurePosixPath(words[0]).name):
        return None, []
    for place, word in enumerate(words[1:], start=1):
        if word == "-m" and place + 1 < len(words):
            return words[place + 1], list(words[place + 2 :])
        if not word.startswith("-") or word == "-c":
            break
    return None, []


def _check_module(module: str, selection: Selection) -> None:
    path = module.replace(".", "/")
    names = (f"{path}.py", f"{path}/__main__.py")
    if any(name in selection.files for name in names):
        return
    top = module.partition(".")[0]
    if any((selection.folder / name).is_file() for name in names):
        raise UserError(
            f"{selection.folder / names[0]} does not go to the cluster: .gitignore, .rayignore or --exclude leaves it"
            " out"
        )
    ours = {"distributed", "tuning", "models", "cluster"}
    if top in ours or any(name.startswith(f"{top}/") for name in selection.files):
        raise UserError(
            f"{selection.folder}: there is no module {module}; name the checkout with --working-dir, or correct it"
        )


def _check_recipe(entrypoint: str, module: str, arguments: Sequence[str], selection: Selection) -> JobCommand:
    given, overrides, resume = _parse(arguments)
    if resume is not None:
        if not Path(resume).is_absolute():
            raise UserError(f"--resume {resume}: on a cluster, give the sweep's folder, e.g. /shared/runs/{resume}")
        return JobCommand(entrypoint, str(PurePosixPath(resume)))
    if given is None:
        what = "recipe" if module == "distributed.train" else "sweep"
        raise UserError(f"python -m {module}: name a {what}: a YAML file of the checkout, or one of {_RECIPES[module]}")
    if Path(given).is_absolute():
        inside = Path(given).is_relative_to(selection.folder)
        better = (
            f"; {Path(given).relative_to(selection.folder)}, relative to the checkout, would go with it"
            if inside
            else ""
        )
        warning = f"{given}: an absolute path must exist on the cluster{better}"
        return _with_run(entrypoint, {}, overrides, [warning])
    file = _recipe_file(given, module, selection)
    try:
        values = yaml.safe_load((selection.folder / file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{selection.folder / file}: cannot be read as UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not valid"
        raise UserError(f"{selection.folder / file}{place}: is not YAML: {problem}") from error
    return _with_run(entrypoint, {"storage": "runs", **(values if isinstance(values, dict) else {})}, overrides, [])


def _parse(arguments: Sequence[str]) -> tuple[str | None, list[str], str | None]:
    """The recipe, the key=value words and the value of --resume."""
    words, resume = [], None
    rest = iter(arguments)
    for word in rest:
        option, given, value = word.partition("=")
        if option in _WITH_VALUE:
            value = value if given else next(rest, "")
            resume = value if option == "--resume" else resume
        elif not word.startswith("-"):
            words.append(word)
    given_files = [word for word in words if "=" not in word]
    return (given_files[0] if given_files else None), [word for word in words if "=" in word], resume


def _recipe_file(given: str, module: str, selection: Selection) -> str:
    """The path in the package of a recipe that is given by a bare name or a relative path."""
    path = PurePosixPath(given)
    bare = len(path.parts) == 1 and path.suffix not in (".yaml", ".yml")
    file = PurePosixPath(_RECIPES[module], f"{given}.yaml") if bare else path
    # Without following links: what counts is where the path leads in the package.
    parts: list[str] = []
    for part in file.parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise UserError(
                f"{given}: lies outside of {selection.folder}, which alone goes to the cluster; copy it in there"
            )
    name = "/".join(parts)
    if name in selection.files:
        return name
    if (selection.folder / name).is_file():
        raise UserError(
            f"{selection.folder / name} does not go to the cluster: .gitignore, .rayignore or --exclude leaves it out"
        )
    if bare:
        stems = [PurePosixPath(n).stem for n in selection.files if PurePosixPath(n).parent == file.parent]
        raise UserError(f"{given}: no such recipe in {_RECIPES[module]}; there are: {', '.join(sorted(stems))}")
    raise UserError(f"{selection.folder / name}: no such file; a path begins at the working directory")


def _with_run(entrypoint: str, values: dict[str, Any], overrides: Sequence[str], warnings: list[str]) -> JobCommand:
    """`values`: those of the recipe, as far as they are known; the overrides come after them."""
    values = {**values, **dict(word.split("=", 1) for word in overrides)}
    storage, name = values.get("storage"), values.get("name")
    if storage is None:
        return JobCommand(entrypoint, None, warnings)
    storage = str(storage).strip("'\"")
    if not PurePosixPath(storage).is_absolute():
        raise UserError(
            f"storage={storage}: a relative folder would lie in the job's own copy of the checkout and go with it; "
            "write storage=/a/folder that all nodes share"
        )
    return JobCommand(entrypoint, str(PurePosixPath(storage, str(name))) if name else None, warnings)
