"""The manifests for KubeRay: they fit its fields, ask for the token, and hold what the lessons ask for."""

from __future__ import annotations

import copy
import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster import fashion_mnist_service as service
from tests.cluster_column import column_settings
from tests.notebook_rules import NOTEBOOKS, REPOSITORY

pytestmark = pytest.mark.fast

FOLDER = REPOSITORY / "cluster" / "kuberay"
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
OF_RAY = {name: manifest for name, manifest in MANIFESTS.items() if manifest["apiVersion"] == "ray.io/v1"}
# A folder with KubeRay's CustomResourceDefinitions, as ray.io_rayclusters.yaml or .yaml.gz, and so on.
DEFINITIONS = os.environ.get("RAY_COURSE_KUBERAY_CRDS")


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups(manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, its only container), the head first."""
    cluster = cluster_of(manifest)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        yield group, container


def amount(text: str | float) -> float:
    """CPUs, GPUs, or bytes of memory."""
    found = re.fullmatch(r"(\d+)(Gi)?", str(text))
    assert found, text
    return int(found[1]) * (2**30 if found[2] else 1)


def schema_of(kind: str) -> dict[str, Any]:
    (path,) = Path(DEFINITIONS).glob(f"ray.io_{kind.lower()}s.yaml*")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    (version,) = [v for v in yaml.safe_load(text)["spec"]["versions"] if v["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: Any) -> Any:
    """Kubernetes drops fields that it does not know without a word; here they are errors."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        found["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return found


@pytest.mark.skipif(not DEFINITIONS, reason="RAY_COURSE_KUBERAY_CRDS names no folder with KubeRay's definitions.")
@pytest.mark.parametrize("name", OF_RAY)
def test_fields_are_those_of_kuberay(name: str) -> None:
    manifest = {key: value for key, value in OF_RAY[name].items() if key != "metadata"}
    schema = schema_of(manifest["kind"])
    jsonschema.validate(manifest, schema)
    wrong = copy.deepcopy(manifest)
    head = cluster_of(wrong)["headGroupSpec"]
    head["rayStartParameters"] = head.pop("rayStartParams")
    with pytest.raises(jsonschema.ValidationError, match="rayStartParameters"):
        jsonschema.validate(wrong, schema)


def test_there_is_one_of_each_kind_and_a_service_for_06_and_08() -> None:
    assert sorted(manifest["kind"] for manifest in MANIFESTS.values()) == [
        "NetworkPolicy",
        "RayCluster",
        "RayJob",
        "RayService",
        "RayService",
    ]


@pytest.mark.parametrize("name", OF_RAY)
def test_ray_is_that_of_the_lock_and_asks_for_the_token(name: str) -> None:
    cluster = cluster_of(OF_RAY[name])
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    images = {container["image"] for _, container in groups(OF_RAY[name])}
    image = "ray-course-vllm" if name == "llm_service.yaml" else "ray-course"
    assert images == {f"registry.example.com/{image}:{ray.__version__}"}, "all nodes need the same packages"
    # KubeRay opens the dashboard for itself; nothing else is opened here.
    assert all("dashboard-host" not in group["rayStartParams"] for group, _ in groups(OF_RAY[name]))


@pytest.mark.parametrize("name", OF_RAY)
def test_the_head_works_for_nobody_and_limits_are_requests(name: str) -> None:
    (head, _), *workers = groups(OF_RAY[name])
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert all(group["rayStartParams"] == {} for group, _ in workers), "what a worker has follows from its limits"
    assert all(
        container["resources"]["limits"] == container["resources"]["requests"] for _, container in groups(OF_RAY[name])
    )


@pytest.mark.parametrize("name", ["cluster.yaml", "finetune.yaml"])
def test_results_are_on_the_storage_that_every_pod_has(name: str) -> None:
    for group, container in groups(OF_RAY[name]):
        values = {variable["name"]: variable["value"] for variable in container["env"]}
        assert values.pop("HF_HOME").startswith("/shared/"), "or every node downloads the model"
        assert values == {"RAY_COURSE_RESULTS": "/shared", "RAY_COURSE_SIZE": "cluster"}
        assert group["template"]["spec"]["securityContext"]["fsGroup"] == 1000, "the first user that useradd makes"
        (mount,), (volume,) = container["volumeMounts"], group["template"]["spec"]["volumes"]
        assert mount["mountPath"] == values["RAY_COURSE_RESULTS"] and mount["name"] == volume["name"]
        assert volume["persistentVolumeClaim"] == {"claimName": "ray-course"}


@pytest.mark.parametrize("notebook", ["04_train_fashion_mnist", "07_finetune_gptj"])
@pytest.mark.parametrize("name", ["cluster.yaml", "finetune.yaml"])
def test_workers_of_the_lessons_fit(name: str, notebook: str) -> None:
    settings = {key: large for key, (_, large) in column_settings(NOTEBOOKS / f"{notebook}.ipynb").items()}
    gpu, cpu = [(group, container["resources"]["limits"]) for group, container in list(groups(OF_RAY[name]))[1:]]
    assert gpu[0]["groupName"] == "gpu" and gpu[0]["maxReplicas"] >= settings["workers"]
    assert gpu[1]["nvidia.com/gpu"] == 1 and gpu[1]["cpu"] >= settings["cpus_per_worker"]
    assert amount(gpu[1]["memory"]) >= 64 * 2**30, "loading may take two copies of all weights"
    assert cpu[0]["minReplicas"] >= 1 and cpu[1]["cpu"] >= 1, "Ray Data's tasks need a CPU that no worker reserves"


def test_the_job_runs_a_notebook_that_there_is() -> None:
    spec = MANIFESTS["finetune.yaml"]["spec"]
    command = spec["entrypoint"].split()
    assert command[:3] == ["/course/.venv/bin/python", "-m", "nbconvert"]
    assert (REPOSITORY / Path(command[-1]).relative_to("/course")).is_file()
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert (REPOSITORY / "Dockerfile").read_text().count("WORKDIR /course\n") == 1


def test_the_service_is_the_one_of_06_and_has_room_for_an_update() -> None:
    manifest = MANIFESTS["service.yaml"]
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    shipped = yaml.safe_load((REPOSITORY / "cluster" / "fashion_mnist_service.yaml").read_text())
    (here,), (there,) = config["applications"], shipped["applications"]
    assert {key: here[key] for key in ("name", "route_prefix", "import_path")} == {
        key: there[key] for key in ("name", "route_prefix", "import_path")
    }
    settings = service.Settings(**here["args"])
    column = {key: large for key, (_, large) in column_settings(NOTEBOOKS / "06_serve_fashion_mnist.ipynb").items()}
    assert (settings.replicas, settings.cpus, settings.gpus) == (
        column["replicas"],
        column["cpus_per_replica"],
        column["gpus_per_replica"],
    )
    # An update starts half as many models and twice as many ingresses before it ends the old ones.
    models, ingresses = settings.replicas * 1.5, 2 * max(settings.ingress, settings.replicas / 4)
    (_, (group, container)) = groups(manifest)
    has = {key: group["replicas"] * amount(value) for key, value in container["resources"]["limits"].items()}
    assert has["nvidia.com/gpu"] >= models * settings.gpus
    assert has["cpu"] >= models * settings.cpus + ingresses * settings.ingress_cpus
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True


def test_the_llm_service_is_the_file_for_gpus_with_the_paths_of_a_pod() -> None:
    manifest = MANIFESTS["llm_service.yaml"]
    here = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(here)
    there = yaml.safe_load((REPOSITORY / "cluster" / "gptj_vllm_gpu.yaml").read_text())
    # The addresses that a pod listens on, and the folder where 07 has left the model.
    assert there["http_options"]["host"] == "127.0.0.1" and here["http_options"]["host"] == "0.0.0.0"
    there["http_options"]["host"] = "0.0.0.0"
    tuned, _ = (config["model_loading_config"] for config in there["applications"][0]["args"]["llm_configs"])
    tuned["model_source"] = "/shared/gptj_shakespeare"
    assert here == there

    (_, (group, container)) = groups(manifest)
    configs = here["applications"][0]["args"]["llm_configs"]
    replicas = [config["deployment_config"]["num_replicas"] for config in configs]
    assert amount(container["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert group["replicas"] == group["minReplicas"] == sum(replicas), "a GPU for each"
    assert group["maxReplicas"] >= sum(-(-3 * count // 2) for count in replicas), "an update starts half as many again"
    assert cluster_of(manifest)["enableInTreeAutoscaling"] is True
    (mount,), (volume,) = container["volumeMounts"], group["template"]["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/shared"}
    assert volume["persistentVolumeClaim"] == {"claimName": "ray-course"}, "that of the cluster which runs 07"
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True


def test_the_image_for_llms_has_the_locked_packages_and_what_kuberay_calls() -> None:
    text = (REPOSITORY / "cluster" / "vllm" / "Dockerfile").read_text()
    assert re.search(r"apt-get install .*\bwget\b", text)
    copied, to = re.search(r"^COPY (\S+) (\S+)$", text, re.M).groups()
    assert (REPOSITORY / copied).is_file() and f"--require-hashes --requirement {to}" in text
    assert "FROM python:3.12-slim\n" in text, "make lock compiles for Python 3.12"
    assert re.search(rf"^ray(\[.*\])?=={re.escape(ray.__version__)}\b", (REPOSITORY / copied).read_text(), re.M)
    assert text.index("USER learner") > text.index("pip install"), "not as root"


def test_secrets_are_not_in_the_files() -> None:
    for name, manifest in OF_RAY.items():
        assert not re.search(r"auth_token|password:\s*\S", (FOLDER / name).read_text()), name
        options = cluster_of(manifest).get("gcsFaultToleranceOptions")
        assert options is None or set(options["redisPassword"]) == {"valueFrom"}
    kept = [name for name, manifest in OF_RAY.items() if "gcsFaultToleranceOptions" in cluster_of(manifest)]
    assert kept == ["cluster.yaml", "llm_service.yaml", "service.yaml"], (
        "what runs for long outlives its head; a job is started again"
    )


def test_only_ray_its_operator_and_the_gateway_get_in() -> None:
    spec = MANIFESTS["network_policy.yaml"]["spec"]
    assert spec["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}} and spec["policyTypes"] == ["Ingress"]
    nodes, *others = spec["ingress"]
    assert nodes == {"from": [{"podSelector": spec["podSelector"]}]}, "all ports, among the nodes only"
    assert all(rule["from"] and rule["ports"] for rule in others), (
        "nobody else has all ports, and no port is everybody's"
    )
    assert all("podSelector" in peer for rule in others for peer in rule["from"])
    public = [rule for rule in others if "ray-course/gateway" in str(rule)]
    assert [port["port"] for rule in public for port in rule["ports"]] == [8000]


def test_the_image_has_what_kuberay_calls() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.search(r"apt-get install .*\bwget\b", text)
    assert "ln -s /course/.venv/bin/ray /usr/local/bin/ray" in text


def test_every_manifest_is_explained() -> None:
    page = (REPOSITORY / "cluster" / "README.md").read_text()
    assert [name for name in MANIFESTS if f"kuberay/{name}" not in page] == []
