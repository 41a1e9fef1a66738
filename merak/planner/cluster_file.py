"""Clusters in files: JSON, made for people to write too.

    {"schema": "merak.cluster", "version": 1, "name": "the lab",
     "groups": [{"device": "A100-40GB", "hosts": 2, "devices_per_host": 8, "inside": "NVLink3"},
                {"device": "RTX3090", "hosts": 4, "devices_per_host": 4, "inside": "PCIe4", "memory_bytes": 20e9}],
     "between": {"bytes_per_s": 2.9e9, "latency_s": 30e-6}}

A device is the name of a shipped one, or all its fields (device.py). A link is a text, or its fields (link.py), and
perhaps the `collectives` that were measured on it. Fields that are unknown or missing are refused, so that a misspelt
one is not passed over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from merak.planner.checks import WrongFieldError, check_fields, within
from merak.planner.cluster import Cluster, Group
from merak.planner.device import Device
from merak.planner.link import Link

SCHEMA, VERSION = "merak.cluster", 1


def load(path: str | Path) -> Cluster:
    """See `Cluster.load`."""
    path = Path(path)
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:  # of JSON and of Unicode
        raise ValueError(f"{path} is no JSON: {error}") from error
    try:
        return of_json(facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save(cluster: Cluster, path: str | Path) -> None:
    """See `Cluster.save`."""
    Path(path).write_text(json.dumps(to_json(cluster), indent=2) + "\n")


def of_json(facts: Any) -> Cluster:
    """What `to_json` has given.

    Raises:
        ValueError: it is something else; the text names the field.
    """
    try:
        check_fields(facts, ("schema", "version", "name", "groups", "between"))
    except WrongFieldError as error:
        raise error if error.field else ValueError(f"the file {error.problem}") from error
    for name, expected in (("schema", SCHEMA), ("version", VERSION)):
        if facts[name] != expected or isinstance(facts[name], bool):
            raise ValueError(f"{name} is {facts[name]!r}; expected {expected!r}, all that this merak knows")
    if not isinstance(facts["groups"], list):
        raise ValueError(f"groups is {facts['groups']!r}; expected a list of groups of hosts")
    groups = tuple(_group(number, one) for number, one in enumerate(facts["groups"]))
    with within("between"):
        between = Link.from_json(facts["between"])
    return Cluster(facts["name"], groups, between)


def to_json(cluster: Cluster) -> dict[str, Any]:
    """Lists, numbers and texts."""
    groups = []
    for group in cluster.groups:
        facts = {
            "device": group.device.to_json(),
            "hosts": group.hosts,
            "devices_per_host": group.devices_per_host,
            "inside": group.inside.to_json(),
        }
        groups.append(facts if group.memory_bytes is None else {**facts, "memory_bytes": group.memory_bytes})
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "name": cluster.name,
        "groups": groups,
        "between": cluster.between.to_json(),
    }


def _group(number: int, facts: Any) -> Group:
    with within(f"groups[{number}]"):
        facts = check_fields(facts, ("device", "hosts", "devices_per_host", "inside"), ("memory_bytes",))
        with within("device"):
            device = Device.from_json(facts["device"])
        with within("inside"):
            inside = Link.from_json(facts["inside"])
        return Group(device, facts["hosts"], facts["devices_per_host"], inside, facts.get("memory_bytes"))
