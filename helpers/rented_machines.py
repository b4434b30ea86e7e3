"""Machines that Ray's autoscaler can rent and give back, on this computer: each of them is a `ray start`."""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
import threading
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from helpers.nodes import GCS_PORT, Node, ray_start
from helpers.session import free_port

HEAD = "head"
LOOK_EVERY_S = 1  # how often the autoscaler looks; 5 by default
PROVIDER = {"type": "external", "module": "helpers.rented_machines.Landlord"}
# What the autoscaler of `ray start` expects in its file, and a machine that is here already does not need.
NOTHING_TO_SET_UP = {
    "auth": {"ssh_user": "nobody"},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}

_folders: list[tempfile.TemporaryDirectory] = []


def head_that_rents(config: str) -> Node:
    """Start the head of a cluster which rents machines by Ray's own autoscaler (version 2).

    Args:
        config: YAML as for `ray up`, without `provider`, `auth` and the commands for setting machines up: the names of
            the types are free, and `head_node_type` says which of them the head is.

    Returns:
        The head. Its machines end with it.

    Raises:
        ValueError: the text lacks a key, or says something that cannot be.
        RuntimeError: the head did not start.

    Source: written for this course, on the public interface of node providers of Ray 2.60.
    """
    asked = yaml.safe_load(config)
    if not isinstance(asked, dict):
        raise ValueError(f"config: expected YAML with keys and values, found {type(asked).__name__}.")
    needed = ("cluster_name", "max_workers", "head_node_type", "available_node_types")
    if missing := [name for name in needed if name not in asked]:
        raise ValueError(f"config: expected {', '.join(needed)}, but {', '.join(missing)} is missing.")
    kinds, kind = asked["available_node_types"], asked["head_node_type"]
    if not isinstance(kinds, dict) or not all(isinstance(one, dict) for one in kinds.values()):
        raise ValueError(f"config: available_node_types is {kinds!r}, expected a name and settings for each type.")
    if kind not in kinds:
        raise ValueError(f"config: head_node_type is {kind!r}, expected one of the types {', '.join(kinds)}.")
    folder = tempfile.TemporaryDirectory(prefix="rented-")  # goes when this process ends, and the cluster with it
    _folders.append(folder)
    file = Path(folder.name, "cluster.yaml")
    for one in kinds.values():
        one.setdefault("node_config", {})
    port = free_port(GCS_PORT)
    provider = {**PROVIDER, "head_node_type": kind, "address": f"127.0.0.1:{port}"}
    file.write_text(yaml.safe_dump({**NOTHING_TO_SET_UP, **asked, "provider": provider}))
    cpus = kinds[kind].get("resources", {}).get("CPU", 1)
    variables = {
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": str(LOOK_EVERY_S),
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": kind,
    }
    # Without a dashboard, a start takes less time and memory; `ray status` does not need it.
    options = f"--head --num-cpus={cpus:g} --port={port} --labels=machine={kind} --include-dashboard=false"
    return ray_start(f"{options} --autoscaling-config={shlex.quote(str(file))}", variables)


class Landlord(NodeProvider):
    """Rents out machines, which are nodes on this computer; Ray's autoscaler makes one, and asks it for machines."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        head = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: provider_config["head_node_type"]}
        self._tags: dict[str, dict[str, str]] = {HEAD: head}
        self._nodes: dict[str, Node] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._starting = threading.Lock()  # two at once would slow each other down, beyond Ray's 30 seconds for a start

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        with self._lock:
            kind = tags[TAG_RAY_USER_NODE_TYPE]
            names = [f"{kind}-{next(self._numbers)}" for _ in range(count)]
            self._tags.update({name: dict(tags) for name in names})
        for name in names:
            threading.Thread(target=self._start, args=(name, kind, dict(resources)), daemon=True).start()

    def _start(self, name: str, kind: str, resources: dict[str, float]) -> None:
        cpus = resources.pop("CPU", 0)
        options = f"--address={self.provider_config['address']} --num-cpus={cpus:g} --labels=machine={name}"
        if gpus := resources.pop("GPU", 0):
            options += f" --num-gpus={gpus:g}"
        if resources:
            options += f" --resources={shlex.quote(json.dumps(resources))}"
        variables = {"RAY_CLOUD_INSTANCE_ID": name, "RAY_NODE_TYPE_NAME": kind}
        with self._starting:
            if name not in self._tags:  # given back before its turn came
                return
            try:
                self._nodes[name] = ray_start(options, variables)
            except (RuntimeError, ConnectionError) as error:
                print(f"{name} could not be had: {error}", flush=True)
                self._tags.pop(name, None)
        if name not in self._tags:  # given back before it was up
            self.terminate_node(name)

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        tags = dict(self._tags)
        return [name for name, own in tags.items() if tag_filters.items() <= own.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id == HEAD or node_id in self._nodes

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags[node_id]

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._tags[node_id].update(tags)

    def internal_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    external_ip = internal_ip

    def terminate_node(self, node_id: str) -> None:
        self._tags.pop(node_id, None)
        if node := self._nodes.pop(node_id, None):
            threading.Thread(target=node.stop, daemon=True).start()
