"""The files for `ray up`: Ray's own schema and scheduler accept them, and they keep our rules. No cloud is called."""

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

FILES = ("aws", "gcp", "on_premise")
CLOUDS = ("aws", "gcp")
PLACEHOLDER = re.compile(r"MY-[A-Z0-9-]+[A-Z0-9]")
SECRET = re.compile(r"(?i)(api_?key|auth_token|password|secret)\w*\s*[:=]\s*['\"]?[\w+/-]{12,}|AKIA[0-9A-Z]{16}")


def text_of(name: str) -> str:
    return (ROOT / f"cluster/autoscaler/{name}.yaml").read_text(encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(text_of(name))
    return config


def pinned(package: str) -> str:
    """The version that constraints.txt has."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def ray_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does with a file before it calls the cloud: defaults, then the schema. Raises what Ray raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def commands(config: dict[str, Any]) -> list[str]:
    """Every shell command of a file."""
    return [line for key in config if key.endswith("commands") for line in config[key]]


def started(config: dict[str, Any], workers: int, each: dict[str, float]) -> tuple[dict[str, int], int]:
    """What Ray's autoscaler starts in an empty cluster where a run waits for `workers`: machines by type, and for how
    many workers there will never be a place."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = copy.deepcopy(config)
    config["auth"].pop("ssh_private_key", None)  # Ray would read the file
    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    demand = [ResourceRequestUtil.make(each) for _ in range(workers)]
    request = SchedulingRequest(
        node_type_configs=autoscaling.get_node_type_configs(),
        max_num_nodes=autoscaling.get_max_num_nodes(),
        idle_timeout_s=autoscaling.get_idle_timeout_s(),
        disable_launch_config_check=True,
        resource_requests=ResourceRequestUtil.group_by_count(demand),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}, len(reply.infeasible_resource_requests)


# Rules of ours: each takes a file's content and says what is wrong.


def faults(name: str, text: str) -> list[str]:
    config: dict[str, Any] = yaml.safe_load(text)
    found = []
    head_start = " ".join(config.get("head_start_ray_commands", []))
    if config.get("metadata", {}).get("ray") != pinned("ray"):
        found.append("metadata.ray is not what constraints.txt has")
    if not config.get("idle_timeout_minutes"):
        found.append("idle_timeout_minutes is not set")
    if not config.get("max_workers"):
        found.append("max_workers is not set")
    if "--dashboard-host=127.0.0.1" not in head_start or "0.0.0.0" in head_start:  # noqa: S104
        found.append("the dashboard is not on localhost")
    for part in (head_start, " ".join(config.get("worker_start_ray_commands", []))):
        if "RAY_AUTH_MODE=token" not in part:
            found.append("a start command does not ask for the token")
    if "RAY_JOB_STOP_WAIT_TIME_S=120" not in head_start:
        found.append("a stopped job has no time for its checkpoint")
    if not any("-c constraints.txt -r requirements.txt" in line for line in config.get("setup_commands", [])):
        found.append("the environment is not made from constraints.txt")
    if SECRET.search(text):
        found.append("a secret is in the file")
    if name in CLOUDS:
        found += group_faults(config)
    elif "--num-cpus=0 --num-gpus=0" not in head_start:
        found.append("the head has CPUs or GPUs to offer")
    elif not config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"]):
        found.append("a machine could leave and never be called back")
    return found


def group_faults(config: dict[str, Any]) -> list[str]:
    """What is wrong with a cloud file's kinds of machines."""
    found = []
    groups = dict(config["available_node_types"])
    head = groups.pop(config["head_node_type"])
    if head["resources"] != {"CPU": 0, "GPU": 0}:
        found.append("the head has CPUs or GPUs to offer")
    for name, group in groups.items():
        if group.get("min_workers", 0) != 0:
            found.append(f"{name} never goes to zero")
        if not 0 < group.get("max_workers", 0) <= config["max_workers"]:
            found.append(f"{name} has no maximum, or one above the cluster's")
        if not group["resources"].get("GPU"):
            found.append(f"{name} does not say how many GPUs it has")
    return found


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    prepared = ray_accepts(read(name))
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("name", FILES)
def test_the_file_keeps_our_rules(name: str) -> None:
    assert faults(name, text_of(name)) == []


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize(
    ("workers", "machines", "without_place"),
    [(0, {}, 0), (3, {"gpu-spot": 3}, 0), (8, {"gpu-spot": 8}, 0), (9, {"gpu-spot": 8}, 1)],
)
def test_machines_come_by_demand(name: str, workers: int, machines: dict[str, int], without_place: int) -> None:
    """One GPU machine a waiting worker, none where nothing waits, and no more than the maximum."""
    assert started(read(name), workers, {"CPU": 1, "GPU": 1}) == (machines, without_place)


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_without_gpu_share_a_machine_and_leave_the_head_alone(name: str) -> None:
    assert started(read(name), 8, {"CPU": 1}) == ({"gpu-spot": 1}, 0)


@pytest.mark.parametrize("name", CLOUDS)
def test_machines_on_demand_fill_up_what_spot_cannot_give(name: str) -> None:
    """The commented group, uncommented: Ray takes it, and starts spot machines first."""
    text = re.sub(r"^  # (gpu-on-demand:|  )", r"  \1", text_of(name), flags=re.MULTILINE)
    config = yaml.safe_load(text.replace("max_workers: 8\n# How", "max_workers: 10\n# How"))
    ray_accepts(config)
    assert started(config, 3, {"CPU": 1, "GPU": 1}) == ({"gpu-spot": 3}, 0)
    assert started(config, 10, {"CPU": 1, "GPU": 1}) == ({"gpu-spot": 8, "gpu-on-demand": 2}, 0)


def test_machines_of_ones_own_all_start_and_none_could_be_called_back() -> None:
    """Why on_premise.yaml keeps every machine: the scheduler finds no place for a worker on a machine it cannot see."""
    config = read("on_premise")
    assert started(config, 0, {}) == ({"local.cluster.node": 2}, 0)
    config["min_workers"] = 0
    assert started(config, 2, {"CPU": 1, "GPU": 1}) == ({}, 2)


@pytest.mark.parametrize("name", FILES)
def test_header_lists_everything_to_change(name: str) -> None:
    header, _, body = text_of(name).partition("\ncluster_name:")
    assert all(line.startswith("#") for line in header.splitlines())
    to_change = header.partition("# Change:")[2]
    assert set(PLACEHOLDER.findall(body)) == set(PLACEHOLDER.findall(to_change))
    assert f"ray up cluster/autoscaler/{name}.yaml" in header
    assert f"ray dashboard cluster/autoscaler/{name}.yaml" in header


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_shell(name: str) -> None:
    for command in commands(read(name)):
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", FILES)
def test_mounted_files_are_in_the_checkout_or_at_home(name: str) -> None:
    for remote, local in read(name)["file_mounts"].items():
        assert local.startswith("~/") or (ROOT / local).is_file()
        assert remote.startswith("~/")


@pytest.mark.parametrize("name", FILES)
def test_the_requirements_are_those_of_the_project(name: str, tmp_path: Path) -> None:
    """The command that the nodes run, run here."""
    command = next(line for line in read(name)["setup_commands"] if "tomllib" in line)
    folder = tmp_path / "meltmatch"
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "venv/bin/python").symlink_to(sys.executable)
    shutil.copy(ROOT / "pyproject.toml", folder)
    subprocess.run(["bash", "-c", command], check=True, env={"HOME": str(tmp_path)})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = [*project["dependencies"], *project["optional-dependencies"]["offline"]]
    assert (folder / "requirements.txt").read_text(encoding="utf-8").splitlines() == expected


@pytest.mark.parametrize("name", CLOUDS)
def test_data_sets_are_copied_to_a_node(name: str, tmp_path: Path) -> None:
    """The command that the nodes run, from a folder instead of the bucket."""
    command = next(line for line in read(name)["setup_commands"] if "copy_files" in line)
    source, home = tmp_path / "bucket/data/yms", tmp_path / "home"
    source.mkdir(parents=True)
    (source / "movie.txt").write_text("x")
    command = re.sub(r'"(s3|gs)://MY-BUCKET/data"', f'"{(tmp_path / "bucket/data").as_uri()}"', command)
    command = command.replace("~/meltmatch/venv/bin/python", sys.executable)
    subprocess.run(["bash", "-c", command], check=True, env={"HOME": str(home)})
    assert (home / "data/yms/movie.txt").read_text() == "x"


# The checks themselves can fail.


def without_provider(config: dict[str, Any]) -> None:
    del config["provider"]


def unknown_key(config: dict[str, Any]) -> None:
    config["idle_timeout_minuts"] = 10


def wrong_type(config: dict[str, Any]) -> None:
    config["max_workers"] = "eight"


def unknown_key_of_a_group(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu-spot"]["min_worker"] = 0


def unknown_head(config: dict[str, Any]) -> None:
    config["head_node_type"] = "heads"


@pytest.mark.parametrize("spoil", [without_provider, unknown_key, wrong_type, unknown_key_of_a_group, unknown_head])
def test_ray_refuses_a_broken_file(spoil: Callable[[dict[str, Any]], None]) -> None:
    config = read("aws")
    spoil(config)
    with pytest.raises((jsonschema.ValidationError, KeyError, ValueError)):
        ray_accepts(config)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "fault"),
    [
        ("aws", f"ray: {pinned('ray')}", "ray: 2.59.0", "constraints.txt has"),
        ("aws", "idle_timeout_minutes: 10", "", "idle_timeout_minutes"),
        ("aws", "min_workers: 0\n    max_workers: 8", "min_workers: 1\n    max_workers: 8", "never goes to zero"),
        ("aws", "max_workers: 8\n    node_config", "max_workers: 80\n    node_config", "no maximum"),
        ("aws", "resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4}", "the head has"),
        ("aws", "resources: {CPU: 8, GPU: 1}", "resources: {CPU: 8}", "how many GPUs"),
        ("gcp", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "localhost"),
        ("gcp", "RAY_AUTH_MODE=token RAY_JOB", "RAY_JOB", "token"),
        ("gcp", "RAY_JOB_STOP_WAIT_TIME_S=120", "", "no time"),
        ("gcp", "-c constraints.txt -r", "-r", "constraints.txt"),
        ("gcp", "set -a;", "export WANDB_API_KEY=0123456789abcdef0123;", "secret"),
        ("on_premise", "--num-cpus=0", "", "the head has"),
        ("on_premise", "min_workers: 2", "min_workers: 0", "called back"),
    ],
)
def test_a_broken_rule_is_found(name: str, right: str, wrong: str, fault: str) -> None:
    text = text_of(name)
    assert right in text
    assert any(fault in found for found in faults(name, text.replace(right, wrong)))
