"""What the doctor makes of what nodes answer: every failure that it knows, without a cluster."""

from collections.abc import Mapping
from typing import Any

import pytest

from cluster import checks, checks_together, table
from cluster.command import UserError
from cluster.doctor import check_place
from cluster.findings import CLUSTER, GIB, MIB, Finding, failed
from cluster.shared import shown

H100 = {"name": "NVIDIA H100 80GB HBM3", "driver": "570.86.15", "total_mb": 81559, "free_mb": 81000}
NO_GPUS: dict[str, Any] = {"smi": [], "smi_error": "", "torch": None, "cuda": None}
VERSIONS = dict.fromkeys(checks.PACKAGES, "1.2.3")


def node(**changes: Any) -> dict[str, Any]:
    """What a node in good order answers, changed in places."""
    return {
        "python": "3.11.9",
        "packages": VERSIONS,
        "gpus": NO_GPUS,
        "compiler": "/usr/bin/c++",
        "ninja": "/usr/bin/ninja",
        "ops": [],
        "shm_total": 16 * GIB,
        "shm_free": 16 * GIB,
        "temporary": "/var/ray/session",
        "disk_total": 100 * GIB,
        "disk_free": 50 * GIB,
        "open_files": 65536,
        "threads": 300,
        "threads_limit": None,
        "autoscaler": {"kind": "", "groups": []},
    } | changes


def gpus(*, smi: int, torch: int | None, **changes: Any) -> dict[str, Any]:
    return node(gpus={"smi": [H100] * smi, "smi_error": "", "torch": torch, "cuda": "12.8"} | changes)


def of(findings: list[Finding], check: str, name: str = "a") -> Finding:
    """The one finding of that check on that node."""
    (found,) = [finding for finding in findings if (finding.check, finding.node) == (check, name)]
    return found


def of_one(answer: Mapping[str, Any], store: float = 8 * GIB) -> list[Finding]:
    return checks.building({"a": answer}) + checks.room({"a": answer}, {"a": store})


def test_nothing_is_wrong_with_two_nodes_in_good_order() -> None:
    facts = {"a": node(), "b": node()}
    findings = checks.answering(["a", "b"], {}) + checks.versions(facts, node()) + checks.building(facts)
    findings += checks.gpus(facts, {"a": 0, "b": 0}) + checks.room(facts, {"a": 8 * GIB, "b": 8 * GIB})
    assert {finding.state for finding in findings} == {"ok", "none"}
    assert not any(finding.todo for finding in findings)
    assert not failed(findings)
    assert of(findings, "GPUs").found == "none"


def test_a_node_that_does_not_answer_is_named() -> None:
    findings = checks.answering(["a", "b"], {"b": "nothing within 60 s"})
    assert of(findings, "answers", "a").state == "ok"
    silent = of(findings, "answers", "b")
    assert (silent.state, silent.detail) == ("fail", "nothing within 60 s")
    assert "raylet" in silent.todo


@pytest.mark.parametrize(
    ("there", "driver", "found", "detail"),
    [
        (node(packages=VERSIONS | {"torch": "1.2.4"}), node(), "1.2.4", "1.2.4, but the driver has 1.2.3"),
        (node(packages=VERSIONS | {"torch": ""}), node(), "missing", ""),
        (
            node(packages=VERSIONS | {"torch": "1.2.4"}),
            node(packages=VERSIONS | {"torch": ""}),
            "1.2.4",
            "1.2.4, but most nodes have 1.2.3",
        ),
    ],
)
def test_another_version_is_found(there: dict[str, Any], driver: dict[str, Any], found: str, detail: str) -> None:
    findings = checks.versions({"a": there, "b": node(), "c": node()}, driver)
    wrong = of(findings, "torch")
    assert (wrong.state, wrong.found, wrong.detail) == ("fail", found, detail)
    assert "constraints.txt" in wrong.todo
    assert [finding for finding in findings if finding.state != "ok"] == [wrong]


def test_another_python_is_found() -> None:
    assert of(checks.versions({"a": node(python="3.12.1")}, node()), "python").state == "fail"


def test_a_head_without_cuda_has_the_same_torch_as_its_workers() -> None:
    facts = {"a": node(packages=VERSIONS | {"torch": "1.2.3+cpu"}), "b": node()}
    assert not failed(checks.versions(facts, node()))


@pytest.mark.parametrize(
    ("changes", "state", "found"),
    [
        ({"compiler": ""}, "fail", "no compiler"),
        ({"compiler": "", "ninja": ""}, "fail", "no compiler, no ninja"),
        ({"ninja": "", "ops": ["deepspeed_shm_comm"]}, "ok", "built already"),
    ],
)
def test_what_deepspeed_needs_to_build_its_op(changes: dict[str, Any], state: str, found: str) -> None:
    finding = of(of_one(node(**changes)), "op build")
    assert (finding.state, finding.found) == (state, found)


@pytest.mark.parametrize(
    ("answer", "by_ray", "state", "word"),
    [
        (gpus(smi=8, torch=8), 8, "ok", ""),
        (gpus(smi=8, torch=4), 4, "ok", ""),  # CUDA_VISIBLE_DEVICES hides four from Ray and torch alike
        (gpus(smi=8, torch=0, cuda=None), 8, "fail", "CPU build"),
        (gpus(smi=8, torch=0), 8, "fail", "CUDA 12.8"),
        (gpus(smi=7, torch=7), 8, "fail", "CUDA_VISIBLE_DEVICES"),
        (gpus(smi=8, torch=8), 0, "warn", "--num-gpus"),
        (gpus(smi=0, torch=None, torch_error="libcudart.so.12: no such file"), 8, "fail", "reinstall"),
        (gpus(smi=0, torch=2), 2, "ok", ""),  # no nvidia-smi in the container
    ],
)
def test_ray_torch_and_nvidia_smi_must_see_the_same_gpus(
    answer: dict[str, Any], by_ray: int, state: str, word: str
) -> None:
    finding = of(checks.gpus({"a": answer}, {"a": by_ray}), "GPUs")
    assert finding.state == state
    assert word in finding.todo


def test_a_sick_driver_is_found() -> None:
    answer = gpus(smi=0, torch=0, smi_error="Failed to initialize NVML: Driver/library version mismatch")
    finding = of(checks.gpus({"a": answer}, {"a": 0}), "GPU driver")
    assert (finding.state, finding.detail) == ("fail", answer["gpus"]["smi_error"])


def test_gpu_memory_that_another_program_has_is_found() -> None:
    answer = node(gpus={"smi": [H100, H100 | {"free_mb": 2048}], "smi_error": "", "torch": 2, "cuda": "12.8"})
    finding = of(checks.gpus({"a": answer}, {"a": 2}), "GPU memory")
    assert (finding.state, finding.found, finding.detail) == ("warn", "2 of 80 GiB free", "on 1 of 2 GPUs")
    unknown = node(gpus=answer["gpus"] | {"smi": [H100 | {"total_mb": None, "free_mb": None}]})
    assert of(checks.gpus({"a": unknown}, {"a": 2}), "GPU memory").found == "not known"


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"shm_total": 64 * MIB}, "shared memory", "fail"),
        ({"shm_total": 2 * GIB}, "shared memory", "warn"),
        ({"disk_free": 4 * GIB}, "temp disk", "fail"),
        ({"disk_total": 20 * GIB, "disk_free": 4 * GIB}, "temp disk", "warn"),
        ({"open_files": 256}, "open files", "fail"),
        ({"open_files": 1024}, "open files", "warn"),
        ({"open_files": -1}, "open files", "ok"),
        ({"threads": 950, "threads_limit": 1000}, "threads", "fail"),
        ({"threads": 300, "threads_limit": 1000}, "threads", "warn"),
        ({"threads": 300, "threads_limit": 4096}, "threads", "ok"),
    ],
)
def test_a_node_without_room_is_found(changes: dict[str, Any], check: str, state: str) -> None:
    finding = of(of_one(node(**changes)), check)
    assert finding.state == state
    assert bool(finding.todo) == (state != "ok")


@pytest.mark.parametrize(
    ("ahead", "off", "state", "found"),
    [
        (0.004, 0.002, "ok", "+4 ms"),
        (-1.9, 0.01, "ok", "-1900 ms"),
        (-2.5, 0.1, "fail", "-2500 ms"),
        (2.5, 1.0, "ok", "+2500 ms"),  # the answer was under way for 2 s: that may be all there is to it
        (3600.0, 0.1, "fail", "+3600 s"),
    ],
)
def test_a_clock_that_is_off_is_found(ahead: float, off: float, state: str, found: str) -> None:
    finding = of(checks.clocks({"a": (ahead, off)}), "clock")
    assert (finding.state, finding.found) == (state, found)


def test_wandb_out_of_reach_or_without_a_key_is_a_warning_for_runs_go_on_offline() -> None:
    answer = {"mode": "", "host": "api.wandb.ai", "error": "timed out", "key": False}
    findings = checks.wandb({"a": answer})
    assert of(findings, "W&B").detail == "api.wandb.ai: timed out"
    assert [finding.state for finding in findings] == ["warn", "warn"]
    assert [finding.state for finding in checks.wandb({"a": answer | {"error": "", "key": True}})] == ["ok", "ok"]
    skipped = checks.wandb({"a": answer | {"mode": "offline"}})
    assert of(skipped, "W&B").found == "skipped: offline"
    assert [finding.state for finding in skipped] == ["none", "none"]
    assert of(checks.wandb({"a": {"error": "nothing within 14 s"}}), "W&B").state == "warn"


def test_an_autoscaler_says_what_may_come() -> None:
    group = {"name": "gpu", "max": 4, "resources": {"CPU": 8, "GPU": 1, "memory": 1}}
    (finding,) = checks.autoscaler(1, {"kind": "ray", "groups": [group]})
    assert finding.found == "only the head is up and was checked; may add up to 4 x gpu (8 CPU, 1 GPU)"
    (more,) = checks.autoscaler(3, {"kind": "ray", "groups": []})
    assert more.found == "the 3 nodes that are up were checked; its groups could not be read"
    (kubernetes,) = checks.autoscaler(1, {"kind": "kuberay", "groups": [], "name": "raycluster-x"})
    assert "kubectl get raycluster raycluster-x" in kubernetes.found
    assert checks.autoscaler(1, {"kind": "", "groups": []}) == []


# What nodes do together.


def test_a_broken_pair_is_named_from_both_sides() -> None:
    faults = {
        "a": {"b": "10.0.0.2: timed out", "c": ""},
        "b": {"a": "10.0.0.1: timed out", "c": ""},
        "c": {"a": "", "b": ""},
    }
    findings = checks_together.reaching(faults)
    assert of(findings, "reaches others", "a").found == "cannot reach b"
    assert of(findings, "reaches others", "b").found == "cannot reach a"
    assert of(findings, "reaches others", "c").state == "ok"
    assert "b at 10.0.0.2: timed out" in of(findings, "reaches others", "a").detail


FAST = {"error": "", "barrier_ms": 0.25, "mb_per_s": 900.0}
WAITED = {"error": "it still waited when the others had given up"}


def test_a_group_tells_its_speed() -> None:
    findings = checks_together.group("gloo", {"a": FAST, "b": FAST | {"mb_per_s": 11.0}}, {})
    assert of(findings, "gloo").found == "barrier 0.2 ms"
    assert of(findings, "gloo all_reduce").found == "900 MB/s"
    assert of(findings, "gloo all_reduce", "b").state == "warn"
    one = checks_together.group("gloo", {"a": FAST | {"mb_per_s": 11.0}}, {}, between="processes")
    assert of(one, "gloo all_reduce").state == "ok"  # no network took part
    without = checks_together.group("gloo", {"a": FAST | {"mb_per_s": None}}, {})
    assert [finding.check for finding in without] == ["gloo"]


def test_where_no_group_comes_to_be_its_broken_pairs_are_named() -> None:
    answers = {"a": WAITED, "b": {"error": "no interface eth9"}, "c": WAITED}
    pairs = {
        ("a", "b"): (WAITED["error"], "no interface eth9"),
        ("b", "c"): ("no interface eth9", ""),
        ("c", "a"): ("", ""),
    }
    findings = checks_together.group("gloo", answers, pairs)
    assert of(findings, "gloo", "b").found == "no group with a, c"
    assert of(findings, "gloo", "b").detail == "with a: no interface eth9; with c: no interface eth9"
    assert of(findings, "gloo", "a").found == "no group with b"
    assert of(findings, "gloo", "c").found == "no group with b"
    assert "GLOO_SOCKET_IFNAME" in of(findings, "gloo", "c").todo


def test_a_group_may_fail_though_every_pair_works() -> None:
    findings = checks_together.group("nccl", {"a": WAITED, "b": FAST}, {("a", "b"): ("", "")})
    assert [finding.found for finding in findings] == ["only pairs work", "only pairs work"]
    assert failed(findings)


def test_storage_is_shared_only_if_every_node_reads_what_every_other_wrote() -> None:
    well = {"error": "", "free": 50.0 * GIB}
    texts = {"a": "a", "b": "b"}
    findings = checks_together.storage("/shared", {"a": well, "b": well}, {"a": texts, "b": texts})
    assert [finding.found for finding in findings] == ["shared, 50.0 GiB free"] * 2

    apart = checks_together.storage("/shared", {"a": well, "b": well}, {"a": {"a": "a"}, "b": {"b": "b"}})
    assert of(apart, "storage", "a").found == "not shared with b"
    assert of(apart, "storage", "b").found == "not shared with a"

    torn = checks_together.storage("/shared", {"a": well, "b": well}, {"a": {"a": "a", "b": ""}, "b": texts})
    assert of(torn, "storage").state == "fail"

    shut = checks_together.storage("/shared", {"a": {"error": "Permission denied"}, "b": well}, {"b": {"b": "b"}})
    assert of(shut, "storage").found == "cannot write"
    assert of(shut, "storage", "b").state == "ok"

    silent = checks_together.storage("/shared", {"a": well}, {"a": "nothing within 60 s"})
    assert of(silent, "storage").found == "cannot read"

    full = checks_together.storage("s3://b", {"a": well | {"free": 5 * MIB}}, {"a": {"a": "a"}})
    assert of(full, "storage").state == "warn"
    bucket = checks_together.storage("s3://b", {"a": well | {"free": None}}, {"a": {"a": "a"}})
    assert of(bucket, "storage").found == "shared"


def test_storage_that_was_not_named_is_said_to_be_unchecked() -> None:
    (finding,) = checks_together.storage(None, {}, {})
    assert (finding.node, finding.state) == (CLUSTER, "none")
    assert "--storage" in finding.found


def test_keys_in_a_storage_uri_are_not_shown() -> None:
    assert shown("s3://KEY:SECRET@bucket/runs?region=x") == "s3://bucket/runs"
    answer = {"a": {"error": "denied", "free": None}}
    assert "SECRET" not in str(checks_together.storage("s3://KEY:SECRET@bucket/runs", answer, {}))


@pytest.mark.parametrize("place", ["runs", "./runs", "ftp://there/runs"])
def test_a_storage_place_that_no_node_understands_is_refused(place: str) -> None:
    with pytest.raises(UserError, match="--storage"):
        check_place(place)


@pytest.mark.parametrize("place", [None, "/shared/runs", "s3://bucket/runs", "file:///shared"])
def test_other_places_are_let_through(place: str | None) -> None:
    check_place(place)


# How it is shown.


def shown_as_text(nodes: list[str], findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> str:
    table.show("address", nodes, findings)
    return capsys.readouterr().out


def test_the_table_has_every_node_and_says_what_to_do_once(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [f"node-{number}" for number in range(7)]
    findings = [Finding("clock", name, "ok", "+1 ms") for name in nodes[:5]]
    findings += [Finding("clock", name, "fail", "+9 s", "synchronise [the] clocks") for name in nodes[5:]]
    findings.append(Finding("storage", CLUSTER, "none", "not checked"))
    findings.append(Finding("autoscaler", CLUSTER, "none", "may add 3", "ask for nodes"))
    text = shown_as_text(nodes, findings, capsys)
    assert all(name in text for name in nodes)
    assert text.count("-> synchronise [the] clocks") == 1  # brackets are no markup
    assert "clock on node-5, node-6: +9 s" in text
    assert "storage: not checked" in text
    assert text.count("autoscaler: may add 3\n  -> ask for nodes") == 1
    assert text.count("autoscaler") == 1
    assert text.splitlines()[-1] == "1 check failed: clock"


def test_the_last_line_tells_warnings_from_failures() -> None:
    warning = Finding("W&B", "a", "warn", "not reached", "let the node reach it")
    assert table.summary([Finding("clock", "a", "ok", "+1 ms")]) == "all is well"
    assert table.summary([warning]) == "all is well, but see the warnings (W&B)"
    assert table.summary([warning, warning._replace(check="clock", state="fail")]) == "1 check failed: clock"
