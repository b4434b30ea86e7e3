"""The manifests without Ray: their parts fit together, ask for what KubeRay's ask for, and are counted right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.notebook_rules import REPOSITORY

pytestmark = pytest.mark.fast

CLUSTER = REPOSITORY / "cluster"
FOLDER = CLUSTER / "plain_kubernetes"
README = (CLUSTER / "README.md").read_text(encoding="utf-8")


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Kind -> object of a file."""
    return {item["kind"]: item for item in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))}


def pod_of(item: dict[str, Any]) -> dict[str, Any]:
    return item["spec"]["template"]["spec"]


def ray_workers(name: str) -> dict[str, Any]:
    """The group of GPU workers in a manifest of KubeRay."""
    spec = yaml.safe_load((CLUSTER / "kuberay" / name).read_text(encoding="utf-8"))["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return next(group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu")


def lines(path: Path) -> int:
    """Without comments, empty lines and what divides objects."""
    text = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(1 for line in text if line and line != "---" and not line.startswith("#"))


@pytest.mark.parametrize(
    "path",
    ["plain_kubernetes/train.yaml", "plain_kubernetes/serve.yaml", "kuberay/finetune.yaml", "kuberay/service.yaml"],
)
def test_lines_and_kinds_are_those_of_the_table(path: str) -> None:
    (told,) = re.findall(rf"\]\({re.escape(path)}\): (\d+) lines, ([^|]+?) \|", README)
    kinds = [item["kind"] for item in yaml.safe_load_all((CLUSTER / path).read_text(encoding="utf-8"))]
    assert int(told[0]) == lines(CLUSTER / path)
    assert re.findall(r"[A-Z]\w+", told[1]) == kinds


def test_the_training_finds_its_first_pod() -> None:
    train = objects("train.yaml")
    job, service = train["Job"], train["Service"]
    pod = pod_of(job)
    name, port = job["metadata"]["name"], service["spec"]["ports"][0]["port"]
    command = pod["containers"][0]["command"]
    assert job["spec"]["completionMode"] == "Indexed" and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name} and pod["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{port}" in command
    assert f"--nnodes={job['spec']['completions']}" in command
    assert job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_service_reaches_its_pods() -> None:
    serve = objects("serve.yaml")
    deployment = serve["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert serve["Service"]["spec"]["selector"] == labels
    assert serve["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod_of(deployment)["containers"]
    (port,) = container["ports"]
    assert serve["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert f"--port={port['containerPort']}" in container["command"]
    scaler, replicas = serve["HorizontalPodAutoscaler"]["spec"], deployment["spec"]["replicas"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert serve["PodDisruptionBudget"]["spec"]["minAvailable"] < replicas == scaler["minReplicas"]


@pytest.mark.parametrize("name", ["train.yaml", "serve.yaml"])
def test_each_volume_is_there(name: str) -> None:
    (pod,) = (pod_of(item) for item in objects(name).values() if "template" in item["spec"])
    mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_both_columns_ask_for_the_same() -> None:
    job, deployment = objects("train.yaml")["Job"], objects("serve.yaml")["Deployment"]
    trained, served = ray_workers("finetune.yaml"), ray_workers("service.yaml")
    assert job["spec"]["completions"] == trained["replicas"]
    for ours, theirs in ((job, trained), (deployment, served)):
        (mine,), (of_ray,) = pod_of(ours)["containers"], theirs["template"]["spec"]["containers"]
        assert mine["resources"] == of_ray["resources"] and mine["image"] == of_ray["image"]
    processes = int(re.search(r"--workers=(\d+)", str(pod_of(deployment)["containers"][0]["command"])).group(1))
    service = yaml.safe_load((CLUSTER / "kuberay" / "service.yaml").read_text(encoding="utf-8"))
    replicas = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["replicas"]
    assert processes * deployment["spec"]["replicas"] == replicas
