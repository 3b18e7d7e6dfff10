"""The Dockerfile, as far as it can be checked without Docker: instructions, sources, versions, user, shell, Python."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

INSTRUCTIONS = {
    "FROM",
    "RUN",
    "CMD",
    "LABEL",
    "EXPOSE",
    "ENV",
    "ADD",
    "COPY",
    "ENTRYPOINT",
    "VOLUME",
    "USER",
    "WORKDIR",
}
INSTRUCTIONS |= {"ARG", "SHELL", "HEALTHCHECK", "STOPSIGNAL", "ONBUILD"}
FOLDER = ROOT / "cluster/docker"
Instruction = tuple[str, str]


def parse(text: str) -> list[Instruction]:
    """Instructions and what follows them. Comments go; a backslash at a line's end joins it to the next."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text(encoding="utf-8")


def arguments(instructions: list[Instruction], name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def sources(instructions: list[Instruction]) -> list[str]:
    return [source for rest in arguments(instructions, "COPY") for source in rest.split()[:-1]]


def python_snippets(command: str) -> list[str]:
    """What a shell command hands to `python -c`."""
    words = shlex.split(command)
    return [
        code for word, flag, code in zip(words, words[1:], words[2:], strict=False) if (word, flag) == ("python", "-c")
    ]


def faults(text: str) -> list[str]:
    instructions = parse(text)
    found = [f"{word} is no instruction" for word, _ in instructions if word not in INSTRUCTIONS]
    if not instructions or instructions[0][0] not in ("FROM", "ARG"):
        found.append("it does not start FROM an image")
    for image in arguments(instructions, "FROM"):
        if image.partition(":")[2] in ("", "latest"):
            found.append(f"{image} names no version")
    if arguments(instructions, "ADD"):
        found.append("ADD also downloads and unpacks; use COPY")
    found += [f"{source} is not in the checkout" for source in sources(instructions) if not (ROOT / source).exists()]
    users = arguments(instructions, "USER")
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        found.append("it runs as root")
    for command in arguments(instructions, "RUN"):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        if checked.returncode:
            found.append(f"no shell: {checked.stderr.strip()}")
            continue
        for code in python_snippets(command):
            try:
                compile(code, "RUN", "exec")
            except SyntaxError as error:
                found.append(f"no Python: {error}")
        if "pip install" in command and "-c constraints.txt" not in command:
            found.append("pip installs what constraints.txt does not pin")
        if pinned := re.findall(r"[\w.-]+==[\w.]+", command):
            found.append(f"versions belong in constraints.txt: {pinned}")
    return found


def test_the_dockerfile_keeps_the_rules() -> None:
    assert faults(dockerfile()) == []


def test_python_is_the_one_that_the_tests_run_on() -> None:
    (image,) = arguments(parse(dockerfile()), "FROM")
    version = re.match(r"python:(\d+)\.(\d+)-slim", image)
    assert version is not None
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert lowest == f">={version[1]}.{version[2]}"


def test_the_user_is_the_one_of_the_pods() -> None:
    """What a pod writes to the shared folder belongs to the user that the image's folders belong to."""
    created = re.search(r"useradd --uid (\d+)", dockerfile())
    assert created is not None
    cluster = yaml.safe_load((ROOT / "cluster/kuberay/raycluster.yaml").read_text(encoding="utf-8"))["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["securityContext"]["runAsUser"] for group in groups} == {int(created[1])}


def test_every_package_of_the_project_is_copied() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(sources(parse(dockerfile())))


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(sources(parse(dockerfile())))


def test_the_requirements_are_those_of_the_project(tmp_path: Path) -> None:
    """The image's first Python, run here."""
    (command,) = [line for line in arguments(parse(dockerfile()), "RUN") if "tomllib" in line]
    (code,) = python_snippets(command)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert printed.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["offline"]]


@pytest.mark.parametrize(("device", "index", "code"), [("cpu", "whl/cpu", 0), ("cuda", "default", 0), ("gpu", "", 2)])
def test_the_device_chooses_the_build_of_torch(device: str, index: str, code: int, tmp_path: Path) -> None:
    """The image's installation, run here with a `pip` that says where it would look."""
    (command,) = [line for line in arguments(parse(dockerfile()), "RUN") if "tomllib" in line]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "${PIP_EXTRA_INDEX_URL:-default}"\n')
    pip.chmod(0o700)
    environment = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.defpath}", "DEVICE": device}
    command = command.replace("/tmp/requirements.txt", str(tmp_path / "requirements.txt"))  # noqa: S108
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert index in done.stdout


def test_deepspeed_has_the_op_that_the_image_compiles() -> None:
    """Not compiled here: the class is there, for CPUs, under the name that DeepSpeed's collectives ask for."""
    (command,) = [line for line in arguments(parse(dockerfile()), "RUN") if "op_builder" in line]
    (code,) = python_snippets(command)
    code = code.replace("ShareMemCommBuilder().load()", "print(ShareMemCommBuilder().absolute_name())")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "deepspeed.ops.comm.deepspeed_shm_comm_op"


# The check itself can fail.


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("FROM python:3.11-slim-bookworm", "FROM python", "names no version"),
        ("COPY models models", "COPY modles models", "modles is not in the checkout"),
        ("COPY models models", "COYP models models", "COYP is no instruction"),
        ("COPY models models", "ADD models models", "use COPY"),
        ("USER meltmatch", "USER root", "runs as root"),
        ("-c constraints.txt", "", "does not pin"),
        ("-r /tmp/requirements.txt", "-r /tmp/requirements.txt ray==2.0", "belong in constraints.txt"),
        ("esac", "done", "no shell"),
        ("ShareMemCommBuilder().load()", "ShareMemCommBuilder(.load()", "no Python"),
    ],
)
def test_a_broken_dockerfile_is_found(right: str, wrong: str, fault: str) -> None:
    text = dockerfile()
    assert right in text
    assert any(fault in found for found in faults(text.replace(right, wrong)))
