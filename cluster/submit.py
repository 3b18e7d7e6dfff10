"""Submits a command to a Ray cluster.

    python -m cluster.submit [--address URL] [--wait] [options] -- python -m distributed.train RECIPE key=value ...

Checks the command, the files and the environment before it uploads anything, keeps keys and passwords out of what the
cluster shows, and with --wait follows the job and exits with its exit code. The same command again goes on with the
run. `cluster/job_submit.md` has the whole story.
"""

import argparse
import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.command import UserError, main_of
from cluster.job_client import Job, address_of, connect, differing_ray, submit, unfinished_twin
from cluster.job_command import JobCommand, check_command
from cluster.job_environment import WANDB_KEY, Environment, gather
from cluster.job_follow import Follower, LostError, say
from cluster.job_package import (
    MEGABYTE,
    SECRETS,
    Selection,
    check_size,
    largest_parts,
    megabytes,
    select,
    write_package,
)

LOST = 1
INTERRUPTED = 130
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def parser() -> argparse.ArgumentParser:
    """The options before `--`."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.submit",
        usage="python -m cluster.submit [options] -- command",
        description="Submit a command to a Ray cluster, with the checkout as its working directory.",
    )
    add = parser.add_argument
    add("--address", metavar="URL", help="the dashboard; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, port 8265 here")
    add("--wait", action="store_true", help="follow the job and exit with its exit code; Ctrl-C leaves it running")
    add("--dry-run", action="store_true", help="check, say what would be sent, and send nothing")
    add("--working-dir", type=Path, default=Path(), metavar="FOLDER", help="the checkout (default: this folder)")
    add("--exclude", action="append", default=[], metavar="PATTERN", help="files to leave out, as in .gitignore")
    add("--max-size", type=float, default=100.0, metavar="MB", help="refuse to upload more (default: 100)")
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable of the job; a secret by NAME")
    add("--no-wandb-key", action="store_true", help=f"do not pass {WANDB_KEY}, which is passed when it is set")
    add("--install", action="store_true", help="every node installs the versions of constraints.txt for this job")
    add("--submission-id", metavar="ID", help="the job's id (default: Ray makes one)")
    add(
        "--entrypoint-num-cpus",
        type=float,
        metavar="N",
        help="CPUs for the driver (default: none, on the head)",
    )
    add("--entrypoint-num-gpus", type=float, metavar="N", help="GPUs for the driver")
    add("--entrypoint-memory", type=int, metavar="BYTES", help="memory for the driver")
    add("--entrypoint-resources", metavar="JSON", help='other resources for the driver, e.g. {"special": 1}')
    add("--entrypoint-label-selector", metavar="JSON", help='nodes for the driver, e.g. {"market-type": "on-demand"}')
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command -> its exit code."""
    own, words = split(arguments)
    options = parser().parse_args(own)
    selection = select(options.working_dir, options.exclude)
    command = check_command(words, selection)
    environment = gather(options.env, not options.no_wandb_key, os.environ)
    check_size(selection, options.max_size)
    job = described(options, command, environment, selection)
    for warning in command.warnings:
        say(f"warning: {warning}")
    if options.dry_run:
        print(summary(job, environment, selection))
        return 0
    return submitted(options, command, job, environment, selection)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options and the command: what stands before and after the first `--`."""
    if "--" not in arguments:
        return list(arguments), []
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


def described(options: argparse.Namespace, command: JobCommand, environment: Environment, selection: Selection) -> Job:
    """The job as Ray gets it, without its package.

    Raises:
        UserError: an option is wrong.
    """
    if options.submission_id is not None and not _ID.fullmatch(options.submission_id):
        raise UserError(f"--submission-id {options.submission_id!r}: expected letters, digits, and any of _ . -")
    runtime_env: dict[str, Any] = {}
    if environment.plain:
        runtime_env["env_vars"] = dict(environment.plain)
    if options.install:
        runtime_env["pip"] = requirements(selection.folder)
    numbers = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory")
    resources = {name: getattr(options, name) for name in numbers if getattr(options, name) is not None}
    for name, amount in resources.items():
        if not 0 <= amount < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {amount}: expected zero or more")
    for name, kind in (("entrypoint_resources", float), ("entrypoint_label_selector", str)):
        if (text := getattr(options, name)) is not None:
            resources[name] = mapping(f"--{name.replace('_', '-')}", text, kind)
    metadata = {"entrypoint": command.entrypoint} | ({"run": command.run} if command.run else {})
    return Job(command.entrypoint, runtime_env, metadata, options.submission_id, resources)


def mapping(option: str, text: str, kind: type[float] | type[str]) -> dict[str, Any]:
    """A JSON object of names and numbers, or of names and texts. Raises UserError."""
    expected = f"expected a JSON object of names and {'numbers' if kind is float else 'texts'}"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} {text!r}: {expected}: {error}") from error
    kinds = (int, float) if kind is float else (str,)
    if not isinstance(values, dict) or not all(type(value) in kinds for value in values.values()):
        raise UserError(f"{option} {text!r}: {expected}")
    return values


def requirements(folder: Path) -> dict[str, Any]:
    """Ray's `pip` field: what pyproject.toml needs, in the versions of constraints.txt.

    Raises:
        UserError: one of the files cannot be read.
    """
    try:
        dependencies = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        constraints = (folder / "constraints.txt").read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--install needs {folder}/pyproject.toml with dependencies and constraints.txt: {error}"
        ) from error
    # pip reads the file in the package that it is part of. Ray keeps an environment for each text of this list, and
    # so needs to see a change of that file in it.
    version = hashlib.sha256(constraints).hexdigest()[:12]
    pinned = "--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt  # " + version
    return {"packages": [pinned, *dependencies], "pip_check": False}


def summary(job: Job, environment: Environment, selection: Selection) -> str:
    """What `--dry-run` prints; values of variables are not part of it."""
    largest = ", ".join(f"{path} ({megabytes(size)})" for path, size in largest_parts(selection.files))
    resources = ", ".join(f"{name.removeprefix('entrypoint_')} {value}" for name, value in job.resources.items())
    run = f"\nrun:         {job.metadata['run']}" if "run" in job.metadata else ""
    install = "\ninstall:     the versions of constraints.txt, on every node" if "pip" in job.runtime_env else ""
    secrets = f"{', '.join(sorted(environment.secret))} (in {SECRETS} of the package)" if environment.secret else "none"
    return (
        f"command:     {job.entrypoint}{run}\n"
        f"files:       {len(selection.files)} of {selection.folder}, {megabytes(selection.size)}; largest: {largest}\n"
        f"environment: {', '.join(sorted(environment.plain)) or 'nothing'}\n"
        f"secrets:     {secrets}\n"
        f"driver:      {resources or 'no resources reserved; it runs on the head'}{install}\n"
        "nothing has been sent"
    )


def submitted(
    options: argparse.Namespace, command: JobCommand, job: Job, environment: Environment, selection: Selection
) -> int:
    """Submits and, where asked to, follows -> the exit code.

    Raises:
        UserError: the server does not answer or does not take it, or the run has a job already.
    """
    client = connect(address_of(options.address, os.environ))
    address = client.get_address()
    if (warning := differing_ray(client)) is not None:
        say(f"warning: {warning}")
    twin = unfinished_twin(client, command.entrypoint, command.run)
    if twin is not None:
        same = "with the same command" if twin.entrypoint == command.entrypoint else "of the same run"
        raise UserError(
            f"job {twin.submission_id} {same} is {twin.status}, and two at once would spoil it; "
            f"follow it: {ray_job('logs', str(twin.submission_id), address)} --follow; "
            f"stop it: {ray_job('stop', str(twin.submission_id), address)}"
        )
    with tempfile.TemporaryDirectory(prefix="meltmatch-job-") as folder:  # nobody else can look into it
        package = Path(folder) / "package.zip"
        write_package(selection, environment.secret, package)
        size = package.stat().st_size
        identity = submit(client, job, str(package))
    tell = say if options.wait else print
    tell(f"job {identity} submitted to {address}: {len(selection.files)} files, {size / MEGABYTE:,.1f} MB packed")
    tell(how_to(identity, address))
    return followed(Follower(client, identity), address) if options.wait else 0


def followed(follower: Follower, address: str) -> int:
    """The job's exit code; 130 after Ctrl-C, which leaves the job alone."""
    try:
        return follower.follow()
    except KeyboardInterrupt:
        say(f"\njob {follower.job} goes on\n{how_to(follower.job, address)}")
        return INTERRUPTED
    except LostError as error:
        say(f"error: {error}; the job may go on\n{how_to(follower.job, address)}")
        return LOST


def how_to(identity: str, address: str) -> str:
    """The commands for a job that runs."""
    return f"follow it: {ray_job('logs', identity, address)} --follow\nstop it:   {ray_job('stop', identity, address)}"


def ray_job(verb: str, identity: str, address: str) -> str:
    return f"ray job {verb} --address {address} {identity}"


if __name__ == "__main__":
    main_of(main)
