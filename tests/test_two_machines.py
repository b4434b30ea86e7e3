"""The commands of cluster/README.md, run on two hosts with addresses of their own, and the launcher's files.

A host is a network namespace with processes of its own, so `ray stop` in it reaches nothing else.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.cluster_column import column_settings
from tests.hosts import (
    ADDRESS_IN_README,
    ADDRESSES,
    HEAD_START,
    IMPOSSIBLE,
    JOIN,
    README,
    STATUS,
    STOP,
    Host,
    hosts_are_possible,
    two_hosts,
)
from tests.notebook_rules import NOTEBOOKS

CLUSTER = Path(__file__).resolve().parent.parent / "cluster"
# AWS's own list: the memory of machines with one A10G, in GiB.
GB_OF_MACHINES = {"g5.xlarge": 16, "g5.2xlarge": 32, "g5.4xlarge": 64, "g5.8xlarge": 128}
ON_BOTH = """
import os
from pathlib import Path

import ray, ray.train.torch, torch
from ray.train import RunConfig, ScalingConfig

env_vars = {"SHARED": os.environ["SHARED"]}
ray.init(address=os.environ["HEAD"], log_to_driver=False, runtime_env={"env_vars": env_vars})

@ray.remote(scheduling_strategy="SPREAD")
def where():
    return ray.util.get_node_ip_address()

print("TASKS", sorted(set(ray.get([where.remote() for _ in range(8)]))))

def add_up(config):
    rank = ray.train.get_context().get_world_rank()
    total = torch.tensor(float(rank + 1))
    torch.distributed.all_reduce(total)
    Path(os.environ["SHARED"], f"{rank}").write_text(f"{ray.util.get_node_ip_address()} {total.item()}")

nodes = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}, placement_strategy="STRICT_SPREAD")
run = RunConfig(name="two", storage_path=os.environ["SHARED"])
ray.train.torch.TorchTrainer(add_up, scaling_config=nodes, run_config=run).fit()
print("WORKERS", sorted(Path(os.environ["SHARED"], rank).read_text() for rank in "01"))
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if not hosts_are_possible():
        pytest.skip(IMPOSSIBLE)
    with two_hosts() as both:
        yield both


@pytest.mark.long
def test_the_commands_for_two_machines(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    head, other = hosts
    here = {text: text.replace(ADDRESS_IN_README, head.address) for text in (HEAD_START, JOIN, STATUS, STOP)}
    code, said = head.run(here[HEAD_START], GLOO_SOCKET_IFNAME="net0")
    assert code == 0, said
    token = re.search(r"^[0-9a-f]{32,}$", said, re.M)
    assert token, said

    code, said = other.run(f"timeout 60 bash -ec '{here[JOIN]}'", given="f" * 64 + "\n")
    assert code != 0 and "InvalidAuthToken" in said, said
    assert "Total Usage" in (shown := head.run(here[STATUS])[1]) and len(nodes_in(shown)) == 1, shown

    other.run("ray stop --force")
    code, said = other.run(here[JOIN], given=token[0] + "\n", GLOO_SOCKET_IFNAME="net0")
    assert code == 0, said
    assert (other.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert len(nodes_in(shown := head.run(here[STATUS])[1])) == 2, shown

    (head.home / "both.py").write_text(ON_BOTH)
    variables = {"RAY_AUTH_MODE": "token", "HEAD": f"{head.address}:6379", "SHARED": str(tmp_path)}
    code, said = head.run("cd; python both.py", timeout=240, **variables)
    assert f"TASKS {list(ADDRESSES)}" in said, said
    assert f"WORKERS {[f'{address} 3.0' for address in ADDRESSES]}" in said, said

    for host in hosts:
        assert host.run(here[STOP])[0] == 0
        living = host.run("ps -eo stat=,args= | grep -v ^Z")[1]  # nobody collects the dead in a namespace
        assert "raylet" not in living, living


def nodes_in(status: str) -> list[str]:
    """The active nodes that `ray status` lists."""
    return re.findall(r"^ 1 node_\w+", status.partition("Pending:")[0], re.M)


# The launcher's files ---------------------------------------------------------

LAUNCHED = {name: yaml.safe_load((CLUSTER / name).read_text()) for name in ("on_premise.yaml", "aws.yaml")}
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.mark.fast
@pytest.mark.parametrize("name", LAUNCHED)
def test_launcher_files_fit_the_schema_of_ray(name: str) -> None:
    jsonschema.validate(LAUNCHED[name], SCHEMA)
    wrong: dict[str, Any] = copy.deepcopy(LAUNCHED[name])
    wrong["worker_start_commands"] = wrong.pop("worker_start_ray_commands")
    with pytest.raises(jsonschema.ValidationError, match="worker_start_commands"):
        jsonschema.validate(wrong, SCHEMA)


@pytest.mark.fast
@pytest.mark.parametrize("name", LAUNCHED)
def test_launched_clusters_ask_for_the_token_and_stay_closed(name: str) -> None:
    config = LAUNCHED[name]
    starts = [
        c for key in ("head_start_ray_commands", "worker_start_ray_commands") for c in config[key] if "ray start" in c
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    assert "0.0.0.0" not in json.dumps(config)


@pytest.mark.fast
def test_machines_at_aws_hold_the_cluster_size_of_07() -> None:
    config = LAUNCHED["aws.yaml"]
    settings = {key: cluster for key, (_, cluster) in column_settings(NOTEBOOKS / "07_finetune_gptj.ipynb").items()}
    gpu = config["available_node_types"]["gpu"]
    assert gpu["resources"]["CPU"] >= settings["cpus_per_worker"] and gpu["resources"]["GPU"] == 1
    assert gpu["max_workers"] == config["max_workers"] >= settings["workers"]
    assert GB_OF_MACHINES[gpu["node_config"]["InstanceType"]] >= 64, "loading may take two copies of all weights"


@pytest.mark.fast
def test_readme_names_every_file() -> None:
    files = {path.name for path in CLUSTER.iterdir() if path.suffix == ".yaml"}
    assert files == set(re.findall(r"\]\((\w+\.yaml)\)", README))
