"""The two pages on clusters: what they link to and name is there, and their shell is shell."""

import re
import subprocess

import pytest
import yaml

from tests.conftest import ROOT

PAGES = ("autoscaling", "kubernetes")


def text_of(page: str) -> str:
    return (ROOT / f"cluster/{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", text_of(page))
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / "cluster" / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_in_commands_are_there(page: str) -> None:
    named = re.findall(r"cluster/[\w/]+(?:\.yaml|Dockerfile)", text_of(page))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_shell(page: str) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_names_are_those_of_the_files() -> None:
    """The cluster's service and token, the secret, and the images, as the files have them."""
    page = text_of("kubernetes")
    cluster = yaml.safe_load((ROOT / "cluster/kuberay/raycluster.yaml").read_text(encoding="utf-8"))
    name = cluster["metadata"]["name"]
    assert f"service/{name}-head-svc" in page
    assert f"kubectl get secret {name} " in page
    assert f"ray.io/cluster={name}" in page
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    for container in containers:
        assert f"docker push {container['image']}\n" in page
    secrets = {v["valueFrom"]["secretKeyRef"]["name"] for c in containers for v in c["env"] if "valueFrom" in v}
    assert [f"kubectl create secret generic {secret} " in page for secret in secrets] == [True]
