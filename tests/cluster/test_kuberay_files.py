"""The files for KubeRay: KubeRay's and Kubernetes' own types accept them, and they keep our rules. No cluster runs."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from tests.support.kubernetes_types import faults as type_faults

FILES = ("raycluster", "rayjob")
SCHEMA = json.loads((Path(__file__).parent / "kuberay_v1.schema.json").read_text(encoding="utf-8"))
PLACEHOLDER = re.compile(r"MY-[A-Z0-9-]+[A-Z0-9]")
Manifest = dict[str, Any]


def kubernetes_type(_: Any, kind: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    for fault in type_faults(kind, value):
        yield jsonschema.ValidationError(fault)


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"kubernetesType": kubernetes_type})


def text_of(name: str) -> str:
    return (ROOT / f"cluster/kuberay/{name}.yaml").read_text(encoding="utf-8")


def read(name: str) -> Manifest:
    manifest: Manifest = yaml.safe_load(text_of(name))
    return manifest


def schema_faults(manifest: Manifest) -> list[str]:
    """What KubeRay's and Kubernetes' types have against it; the files may hold a RayCluster or a RayJob."""
    schema = {**SCHEMA, "$ref": f"#/$defs/{manifest.get('kind')}"}
    found = Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(str(part) for part in error.absolute_path)}{error.message}" for error in found]


def cluster_of(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


def pinned_ray() -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("ray=="))


def pods(cluster: Manifest) -> dict[str, Manifest]:
    """The pods of a cluster by the name of their group."""
    workers = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **workers}


def faults(manifest: Manifest) -> list[str]:
    """What no type can tell."""
    cluster = cluster_of(manifest)
    found = [fault for name, pod in pods(cluster).items() for fault in pod_faults(name, pod)]
    found += [fault for group in cluster["workerGroupSpecs"] for fault in group_faults(group)]
    if cluster["rayVersion"] != pinned_ray():
        found.append("rayVersion is not what constraints.txt has")
    if not cluster["enableInTreeAutoscaling"] or cluster["autoscalerOptions"]["version"] != "v2":
        found.append("autoscaler v2 is not on")
    if cluster.get("authOptions", {}).get("mode") != "token":
        found.append("no token is asked for")
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append("the head has CPUs to offer")
    if cluster["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP":
        found.append("the head can be reached from outside")
    images = {container["image"] for pod in pods(cluster).values() for container in pod["containers"]}
    if {image.rpartition(":")[0] for image in images} != {"MY-REGISTRY/meltmatch"}:
        found.append("images come from more than one place")
    return found


def pod_faults(name: str, pod: Manifest) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    if "terminationGracePeriodSeconds" not in pod:
        yield f"{name} has no time to end in"
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{name} may run as root"
    mounted: set[str] = set()
    for container in pod["containers"]:
        mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        resources = container["resources"]
        if resources.get("requests") != resources.get("limits"):
            yield f"{name} may be given less than its limits, and Ray counts the limits"
        has_gpu = "nvidia.com/gpu" in resources.get("limits", {})
        if has_gpu == (name == "head"):
            yield f"{name} has a GPU" if has_gpu else f"{name} has no GPU"
        if container["image"].rpartition(":")[2] != ("cuda" if has_gpu else "cpu"):
            yield f"{name} has the wrong image"
        for variable in container.get("env", []):
            secret = re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"])
            if secret and "secretKeyRef" not in variable.get("valueFrom", {}):
                yield f"{name} has a secret in the file"
    if mounted - volumes:
        yield f"{name} mounts what is no volume"
    if volumes - mounted:
        yield f"{name} has a volume that nothing mounts"
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    if claims != {read("storage")["metadata"]["name"]}:
        yield f"{name} claims another storage than storage.yaml makes"


def group_faults(group: Manifest) -> Iterator[str]:
    name = group["groupName"]
    if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
        yield f"{name}: minReplicas <= replicas <= maxReplicas is not so"
    if group["minReplicas"] != 0:
        yield f"{name} never goes to zero"
    tolerated = {toleration["key"] for toleration in group["template"]["spec"].get("tolerations", [])}
    if "nvidia.com/gpu" not in tolerated:
        yield f"{name} does not tolerate nodes with a GPU"


@pytest.mark.parametrize("name", FILES)
def test_the_types_accept_the_file(name: str) -> None:
    assert schema_faults(read(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_the_file_keeps_our_rules(name: str) -> None:
    assert faults(read(name)) == []


def test_storage_is_a_claim_that_many_nodes_write_to() -> None:
    claim = read("storage")
    assert list(type_faults("V1PersistentVolumeClaim", claim)) == []
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_job_runs_on_the_same_cluster_as_the_long_lived_one() -> None:
    assert cluster_of(read("rayjob")) == cluster_of(read("raycluster"))


def test_a_job_goes_on_where_it_failed_and_cleans_up() -> None:
    spec = read("rayjob")["spec"]
    words = spec["entrypoint"].split()
    assert words[:3] == ["python", "-m", "distributed.train"]
    assert (ROOT / f"distributed/recipes/{words[3]}.yaml").is_file()
    assert any(word.startswith("storage=/storage/") for word in words)  # where the volume is mounted
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize("name", FILES)
def test_a_stopped_job_has_time_and_its_pod_too(name: str) -> None:
    pod = pods(cluster_of(read(name)))["head"]
    variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
    assert pod["terminationGracePeriodSeconds"] > 120


@pytest.mark.parametrize("name", [*FILES, "storage"])
def test_header_lists_everything_to_change(name: str) -> None:
    header, _, body = text_of(name).partition("\napiVersion:")
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"cluster/kuberay/{name}.yaml" in header
    assert set(PLACEHOLDER.findall(body)) == set(PLACEHOLDER.findall(header.partition("# Change:")[2]))


@pytest.mark.parametrize("name", FILES)
def test_hints_for_gangs_are_valid_too(name: str) -> None:
    """The commented labels, uncommented: each pair of labels and annotations is metadata that Kubernetes takes."""
    hints = re.findall(r"^  # ((?:labels|annotations):\n(?:  #   .+\n)+)", text_of(name), re.MULTILINE)
    assert len(hints) == 4
    for hint in hints:
        metadata = yaml.safe_load(re.sub(r"^  # ", "", hint, flags=re.MULTILINE))
        assert list(type_faults("V1ObjectMeta", metadata)) == []


# The checks themselves can fail.


def head(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"]["headGroupSpec"]["template"]["spec"]
    return pod


def group(manifest: Manifest) -> Manifest:
    workers: Manifest = manifest["spec"]["workerGroupSpecs"][0]
    return workers


def resources(manifest: Manifest) -> Manifest:
    asked: Manifest = group(manifest)["template"]["spec"]["containers"][0]["resources"]
    return asked


def rename(mapping: Manifest, old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


TYPE_MISTAKES: dict[str, Callable[[Manifest], Any]] = {
    "'enableAutoscaling' was unexpected": lambda m: rename(m["spec"], "enableInTreeAutoscaling", "enableAutoscaling"),
    "'idleTimeout' was unexpected": lambda m: rename(
        m["spec"]["autoscalerOptions"], "idleTimeoutSeconds", "idleTimeout"
    ),
    "'maxReplicas' is a required property": lambda m: group(m).pop("maxReplicas"),
    "'headGroupSpec' is a required property": lambda m: m["spec"].pop("headGroupSpec"),
    "'Fast' is not one of": lambda m: m["spec"]["autoscalerOptions"].update(upscalingMode="Fast"),
    "0 is not of type 'string'": lambda m: m["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "'ray.io/v1' was expected": lambda m: m.update(apiVersion="ray.io/v1alpha1"),
    "volumeMount: V1Container has no such field": lambda m: rename(
        head(m)["containers"][0], "volumeMounts", "volumeMount"
    ),
    "nvidia.com/gpus: no resource of this name": lambda m: rename(
        resources(m)["limits"], "nvidia.com/gpu", "nvidia.com/gpus"
    ),
    "'32GiB' is no quantity": lambda m: resources(m)["limits"].update(memory="32GiB"),
    "V1Container needs name": lambda m: head(m)["containers"][0].pop("name"),
    "int is needed": lambda m: head(m).update(terminationGracePeriodSeconds="120"),
    "a list is needed": lambda m: head(m).update(containers={}),
    "str is needed": lambda m: head(m)["containers"][0]["env"][0].update(value=120),
}


@pytest.mark.parametrize("fault", TYPE_MISTAKES)
def test_a_wrong_type_is_found(fault: str) -> None:
    manifest = copy.deepcopy(read("raycluster"))
    TYPE_MISTAKES[fault](manifest)
    assert any(fault in found for found in schema_faults(manifest)), schema_faults(manifest)


def test_a_wrong_field_of_a_job_is_found() -> None:
    job = read("rayjob")
    rename(job["spec"], "backoffLimit", "backOffLimit")
    job["spec"]["submissionMode"] = "Sidecar"
    found = schema_faults(job)
    assert any("backOffLimit" in fault for fault in found)
    assert any("'Sidecar' is not one of" in fault for fault in found)


RULE_MISTAKES: dict[str, Callable[[Manifest], Any]] = {
    "rayVersion is not": lambda m: m["spec"].update(rayVersion="2.59.0"),
    "autoscaler v2 is not on": lambda m: m["spec"]["autoscalerOptions"].update(version="v1"),
    "no token is asked for": lambda m: m["spec"]["authOptions"].update(mode="disabled"),
    "the head has CPUs": lambda m: m["spec"]["headGroupSpec"].update(rayStartParams={}),
    "reached from outside": lambda m: m["spec"]["headGroupSpec"].update(serviceType="LoadBalancer"),
    "more than one place": lambda m: head(m)["containers"][0].update(image="rayproject/ray:cpu"),
    "the wrong image": lambda m: head(m)["containers"][0].update(image="MY-REGISTRY/meltmatch:cuda"),
    "replicas <= maxReplicas is not so": lambda m: group(m).update(replicas=9),
    "never goes to zero": lambda m: group(m).update(minReplicas=1, replicas=1),
    "does not tolerate": lambda m: group(m)["template"]["spec"].pop("tolerations"),
    "gpu has no GPU": lambda m: [resources(m)[part].pop("nvidia.com/gpu") for part in ("requests", "limits")],
    "may be given less": lambda m: resources(m)["requests"].update(cpu="1"),
    "mounts what is no volume": lambda m: head(m)["containers"][0]["volumeMounts"][0].update(name="store"),
    "claims another storage": lambda m: head(m)["volumes"][0]["persistentVolumeClaim"].update(claimName="mine"),
    "no time to end in": lambda m: head(m).pop("terminationGracePeriodSeconds"),
    "may run as root": lambda m: head(m).pop("securityContext"),
    "a secret in the file": lambda m: head(m)["containers"][0]["env"].append(
        {"name": "WANDB_API_KEY", "value": "0" * 40}
    ),
}


@pytest.mark.parametrize("fault", RULE_MISTAKES)
def test_a_broken_rule_is_found(fault: str) -> None:
    manifest = copy.deepcopy(read("raycluster"))
    RULE_MISTAKES[fault](manifest)
    assert any(fault in found for found in faults(manifest)), faults(manifest)
