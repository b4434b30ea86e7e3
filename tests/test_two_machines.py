"""The commands of cluster/README.md, run on two hosts with addresses of their own, and the launcher's files.

A host is a network namespace with processes of its own, so `ray stop` in it reaches nothing else.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import ray
import yaml

from tests.cluster_column import column_settings
from tests.notebook_rules import NOTEBOOKS

CLUSTER = Path(__file__).resolve().parent.parent / "cluster"
README = (CLUSTER / "README.md").read_text()
HEAD_START, JOIN, STATUS, STOP = re.findall(r"```bash\n(.*?)```", README.partition("## On Kubernetes")[0], re.S)
ADDRESS_IN_README = "10.0.0.1"
ADDRESSES = ("10.201.7.1", "10.201.7.2")
NEW_HOST = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]

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


@dataclass
class Host:
    """A machine of its own: its address, its home folder, and the process that keeps it."""

    address: str
    home: Path
    keeper: int

    def run(self, commands: str, given: str = "", timeout: float = 120, **variables: str) -> tuple[int, str]:
        """Run lines of shell in it; returns the exit code, and all that they said."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST"))}
        own = {
            "HOME": str(self.home),
            "RAY_TMPDIR": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["nsenter", "--target", str(self.keeper), "--net", "--pid", "--mount", "bash", "-ec", commands],
            input=given, env={**kept, **own, **variables}, cwd=self.home, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout


def _hosts_are_possible() -> bool:
    if not (sys.platform == "linux" and os.geteuid() == 0 and all(map(shutil.which, ("unshare", "nsenter", "ip")))):
        return False
    return subprocess.run([*NEW_HOST, "ip", "link", "add", "net0", "type", "veth"], capture_output=True).returncode == 0


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if not _hosts_are_possible():
        pytest.skip(
            "Hosts are made of namespaces, for which Linux wants root and the commands unshare, nsenter and ip."
        )
    with ExitStack() as ends:
        made = []
        for address in ADDRESSES:
            # Short, because Ray keeps sockets below it.
            home = Path(
                ends.enter_context(tempfile.TemporaryDirectory(prefix="h", dir="/tmp", ignore_cleanup_errors=True))
            )
            keeper = subprocess.Popen([*NEW_HOST, "sleep", "infinity"])
            ends.callback(keeper.wait)
            ends.callback(keeper.kill)
            while not psutil.Process(keeper.pid).children():
                pass
            made.append(Host(address, home, psutil.Process(keeper.pid).children()[0].pid))
        first, second = made
        cable = ["ip", "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", str(second.keeper)]
        subprocess.run(["nsenter", "--target", str(first.keeper), "--net", *cable], check=True)
        for host in made:
            host.run(f"ip link set lo up; ip address add {host.address}/24 dev net0; ip link set net0 up")
        yield first, second


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
