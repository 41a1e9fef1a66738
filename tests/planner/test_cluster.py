"""Clusters as data: numbering, shipped devices, texts of links, files, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merak.planner import cluster_file
from merak.planner.cluster import Cluster, Group
from merak.planner.device import DTYPES, Device
from merak.planner.link import COLLECTIVES, Link

A100, RTX3090 = Device.named("A100-40GB"), Device.named("RTX3090")


def uneven() -> Cluster:
    groups = Group(A100, 2, 8, Link.of("NVLink3")), Group(RTX3090, 4, 4, Link.of("PCIe4"), memory_bytes=20 * 10**9)
    return Cluster("lab", groups, Link.of("25Gbit/s"))


def test_devices_are_numbered_group_by_group_and_host_by_host() -> None:
    cluster = uneven()
    assert (cluster.devices, cluster.hosts, cluster.homogeneous) == (32, 6, False)
    assert [cluster.host_of(number) for number in range(32)] == [0] * 8 + [1] * 8 + [2] * 4 + [3] * 4 + [4] * 4 + [
        5
    ] * 4
    assert [cluster.device(number).name for number in range(32)] == ["A100-40GB"] * 16 + ["RTX3090"] * 16
    assert [cluster.memory_bytes(number) for number in (15, 16)] == [40 * 10**9, 20 * 10**9]
    for number in (-1, 32):
        with pytest.raises(ValueError, match="cluster 'lab' has 32, numbered from 0"):
            cluster.device(number)


def test_groups_of_one_kind_are_homogeneous() -> None:
    group = Group(A100, 1, 2, Link.of("NVLink3"))
    assert Cluster("two", (group, Group(A100, 3, 2, Link.of("NVLink3"))), Link.of("25Gbit/s")).homogeneous
    assert not Cluster("two", (group, Group(A100, 1, 2, Link.of("PCIe4"))), Link.of("25Gbit/s")).homogeneous


def test_explain_shows_every_group_and_link() -> None:
    lines = uneven().explain().splitlines()
    assert lines[0] == "lab: 32 devices on 6 hosts"
    assert re.match(r"0-15 +0-1 x 8 +A100-40GB +40.0 GB +15.6 T \(80%\)", lines[3])
    assert re.match(r"16-31 +2-5 x 4 +RTX3090 +20.0 GB ", lines[4])
    assert [line.split() for line in lines[8:]] == [
        ["inside", "hosts", "0-1", "any", "5.0", "us", "240.0", "GB/s"],
        ["inside", "hosts", "2-5", "any", "10.0", "us", "23.6", "GB/s"],
        ["between", "hosts", "any", "20.0", "us", "3.0", "GB/s"],
    ]


def test_explain_shows_what_was_measured() -> None:
    between = Link(1e8, 1e-4, {"all_reduce": (3e-5, 2e-9), "broadcast": (4e-5, 5e-10)})
    lines = Cluster.uniform("H100", 2, 1, between=between).explain().splitlines()
    assert [line.split() for line in lines[7:]] == [
        ["between", "hosts", "any", "other", "100.0", "us", "100.0", "MB/s"],
        ["all_reduce", "30.0", "us", "500.0", "MB/s"],
        ["broadcast", "40.0", "us", "2.0", "GB/s"],
    ]


@pytest.mark.parametrize("name", Device.names())
def test_shipped_devices_say_where_their_numbers_are_from(name: str) -> None:
    device = Device.named(name)
    assert "assumption" in device.source
    for dtype, reached in device.flops.items():
        assert device.flops_of(DTYPES[dtype]) == reached
        if name != "CPU core":
            peak, efficiency = device.of_peak[dtype]
            assert reached == peak * efficiency
            assert 0.5 <= efficiency <= 0.9
    assert device.to_json() == name
    assert f"{device.memory_bytes // 10**9} GB" in device.source


def test_shipped_devices_are_those_promised() -> None:
    expected = {"H100", "A100-40GB", "A100-80GB", "RTX3090", "V100-16GB", "V100-32GB", "CPU core"}
    assert set(Device.names()) == expected
    peaks = {name: Device.named(name).of_peak for name in expected - {"CPU core"}}
    assert peaks["H100"]["bf16"][0] == 989.4e12
    assert peaks["A100-80GB"]["memory_bytes_per_s"][0] == 2.039e12
    assert peaks["RTX3090"]["fp32"][0] == 35.6e12
    assert "bf16" not in peaks["V100-16GB"]


def test_a_dtype_without_speed_is_refused() -> None:
    text = r"device 'V100-16GB' has no FLOP/s of torch.bfloat16; it has those of fp32, fp16"
    with pytest.raises(ValueError, match=text):
        Device.named("V100-16GB").flops_of(torch.bfloat16)


def test_a_device_without_file_is_refused() -> None:
    with pytest.raises(ValueError, match="no device is called 'A100'; expected one of A100-40GB, A100-80GB, CPU core"):
        Device.named("A100")


@pytest.mark.parametrize(
    ("text", "bytes_per_s", "latency_s"),
    [
        ("NVLink", 240e9, 5e-6),
        ("NVLink4", 360e9, 5e-6),
        ("PCIe4", 0.75 * 31.5e9, 10e-6),
        ("1Gbit/s", 119.6e6, 90e-6),
        ("100Gbit/s", 11.96e9, 20e-6),
        ("100 Mbit/s", 11.96e6, 90e-6),
        ("2.5GB/s", 2.5e9, 20e-6),
        ("25Gbit/s 7.5us", 2.99e9, 7.5e-6),
        ("25 Gbit/s, 1 ms", 2.99e9, 1e-3),
        ("NVLink4 0.002ms", 360e9, 2e-6),
    ],
)
def test_texts_of_links(text: str, bytes_per_s: float, latency_s: float) -> None:
    link = Link.of(text)
    assert link.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-3)
    assert link.latency_s == pytest.approx(latency_s)


@pytest.mark.parametrize("text", ["", "nvlink", "100", "100Gb/s", "0Gbit/s", "-1Gbit/s", "1Gbit/s 3", "PCIe4 fast"])
def test_texts_that_are_no_links_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no link; expected one of NVLink, ")):
        Link.of(text)


def test_uniform_asks_for_the_links_that_are_crossed() -> None:
    with pytest.raises(ValueError, match=r"inside is missing: .* \"NVLink4\" or \"100Gbit/s\""):
        Cluster.uniform("H100", 2, 8, between="100Gbit/s")
    with pytest.raises(ValueError, match="between is missing"):
        Cluster.uniform("H100", 2, 1)
    assert Cluster.uniform("H100", 1, 1).devices == 1
    cluster = Cluster.uniform("CPU core", 3, 1, between="1Gbit/s", memory_bytes=10**9)
    assert (cluster.name, cluster.memory_bytes(2), cluster.homogeneous) == ("3 x 1 CPU core", 10**9, True)


positive = st.floats(min_value=1e-12, max_value=1e18)
wholes = st.integers(1, 10**6)
names = st.text(min_size=1, max_size=20).filter(str.strip)
pairs = st.tuples(st.just(0.0) | positive, positive)
links = st.builds(Link, positive, st.just(0.0) | positive, st.dictionaries(st.sampled_from(COLLECTIVES), pairs))


@st.composite
def devices(draw: st.DrawFn) -> Device:
    if draw(st.booleans()):
        return Device.named(draw(st.sampled_from(Device.names())))
    speeds = draw(st.dictionaries(st.sampled_from([*DTYPES]), positive, min_size=1)) | {
        "memory_bytes_per_s": draw(positive)
    }
    of_peak = {name: (speed, draw(st.floats(0.01, 1))) for name, speed in speeds.items() if draw(st.booleans())}
    reached = speeds | {name: peak * efficiency for name, (peak, efficiency) in of_peak.items()}
    memory = reached.pop("memory_bytes_per_s")
    # More memory than any group may be told to use.
    return Device(draw(names), reached, draw(wholes) + 10**6, memory, draw(positive), draw(names), of_peak)


groups = st.builds(Group, devices(), wholes, wholes, links, st.none() | wholes)
clusters = st.builds(Cluster, names, st.lists(groups, min_size=1, max_size=3), links)


@settings(max_examples=60, deadline=None)
@given(clusters)
def test_files_hold_all_that_a_cluster_is(cluster: Cluster) -> None:
    text = json.dumps(cluster_file.to_json(cluster), allow_nan=False)
    again = cluster_file.of_json(json.loads(text))
    assert again == cluster
    assert hash(again) == hash(cluster)


def test_save_and_load(tmp_path: Path) -> None:
    uneven().save(tmp_path / "lab.json")
    assert Cluster.load(tmp_path / "lab.json") == uneven()
    assert json.loads((tmp_path / "lab.json").read_text())["groups"][0]["device"] == "A100-40GB"


OWN_DEVICE = {
    "name": "ours",
    "flops": {"fp32": 1e12, "bf16": {"peak": 4e12, "efficiency": 0.5}},
    "memory_bytes": 8e9,
    "memory_bytes_per_s": {"peak": 1e11, "efficiency": 0.8},
    "overhead_s": 0,
    "source": "a guess",
}
FACTS: dict[str, Any] = {
    "schema": "merak.cluster",
    "version": 1,
    "name": "lab",
    "groups": [
        {"device": "H100", "hosts": 2, "devices_per_host": 8, "inside": "NVLink4"},
        {
            "device": OWN_DEVICE,
            "hosts": 4,
            "devices_per_host": 4,
            "inside": {
                "bytes_per_s": 1e10,
                "latency_s": 0,
                "collectives": {"all_reduce": {"alpha_s": 1e-5, "beta_s_per_byte": 1e-10}},
            },
            "memory_bytes": 6e9,
        },
    ],
    "between": "100Gbit/s",
}
OURS = "groups[1].device"
NUMBERS = {
    "groups[1].hosts": "a number of hosts, a whole number of 1 or more",
    "groups[1].devices_per_host": "a number of devices, a whole number of 1 or more",
    "groups[1].memory_bytes": "bytes, a whole number of 1 or more",
    f"{OURS}.memory_bytes": "bytes, a whole number of 1 or more",
    f"{OURS}.flops.fp32": "FLOP/s of large products, a number above 0",
    f"{OURS}.flops.bf16.peak": "what is reached per second, a number above 0",
    f"{OURS}.flops.bf16.efficiency": "the share of the peak that is reached, a number above 0",
    f"{OURS}.memory_bytes_per_s.efficiency": "the share of the peak that is reached, a number above 0",
    f"{OURS}.overhead_s": "seconds of one operation, a number of 0 or more",
    "groups[1].inside.bytes_per_s": "bytes per second, a number above 0",
    "groups[1].inside.latency_s": "seconds, a number of 0 or more",
    "groups[1].inside.collectives.all_reduce.alpha_s": "seconds a step, a number of 0 or more",
    "groups[1].inside.collectives.all_reduce.beta_s_per_byte": "seconds a byte, a number above 0",
}
OBJECTS = ("", "groups[1]", OURS, f"{OURS}.flops.bf16", "groups[1].inside", "groups[1].inside.collectives.all_reduce")


def place(facts: Any, field: str) -> tuple[Any, Any]:
    """The object that holds a field, and the field's key in it."""
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"\w+", field)]
    for key in keys[:-1]:
        facts = facts[key]
    return facts, keys[-1]


def changed(field: str, value: Any) -> Any:
    facts = copy.deepcopy(FACTS)
    holder, key = place(facts, field)
    holder[key] = value
    return facts


def refusal(facts: Any, folder: Path) -> str:
    path = folder / "lab.json"
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"lab\.json") as error:
        Cluster.load(path)
    return str(error.value).removeprefix(f"{path}: ")


def test_the_file_that_is_spoilt_below_is_right(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text(json.dumps(FACTS))
    cluster = Cluster.load(tmp_path / "lab.json")
    assert cluster.device(16).flops == {"fp32": 1e12, "bf16": 2e12}
    assert cluster.memory_bytes(16) == 6 * 10**9


WRONG = (-1, math.nan, math.inf, "8", True, None, [1], 10**400)


@pytest.mark.parametrize(
    ("field", "value"),
    # Without a value of its own, a group has its device's memory.
    [(field, value) for field in NUMBERS for value in WRONG if (field, value) != ("groups[1].memory_bytes", None)],
    ids=lambda value: str(value)[:50],
)
def test_numbers_that_make_no_sense_are_named(field: str, value: Any, tmp_path: Path) -> None:
    assert refusal(changed(field, value), tmp_path) == f"{field} is {value!r}; expected {NUMBERS[field]}"


@pytest.mark.parametrize("field", [field for field, text in NUMBERS.items() if "0 or more" not in text])
def test_zeros_that_make_no_sense_are_named(field: str, tmp_path: Path) -> None:
    assert refusal(changed(field, 0), tmp_path) == f"{field} is 0; expected {NUMBERS[field]}"


@pytest.mark.parametrize("outer", OBJECTS)
def test_unknown_and_missing_fields_are_named(outer: str, tmp_path: Path) -> None:
    dot = f"{outer}." if outer else ""
    assert refusal(changed(f"{dot}hots", 2), tmp_path).startswith(
        f"{dot}hots is 2, and no such field is known; expected "
    )
    holder, key = place({"all": FACTS}, f"all.{outer}" if outer else "all")
    for name in sorted(
        set(holder[key]) - {"memory_bytes", "collectives"} | ({"memory_bytes"} if outer == OURS else set())
    ):
        facts = copy.deepcopy(FACTS)
        del place(facts, dot + name)[0][name]
        assert refusal(facts, tmp_path).startswith(f"{dot}{name} is missing; expected the fields ")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("schema", "other", "schema is 'other'; expected 'merak.cluster', all that this merak knows"),
        ("version", 2, "version is 2; expected 1, all that this merak knows"),
        ("version", True, "version is True; expected 1"),
        ("name", " ", "name is ' '; expected what it is called, a text"),
        ("groups", {}, "groups is {}; expected a list of groups of hosts"),
        ("groups", [], "groups is empty; expected one group of hosts at least"),
        ("groups[0]", 3, "groups[0] is 3; expected the fields device, hosts, devices_per_host, inside and perhaps"),
        (
            "groups[0].device",
            "A100",
            "groups[0].device is 'A100': no device is called 'A100'; expected one of A100-40GB",
        ),
        ("groups[0].device", 5, "groups[0].device is 5; expected the fields name, flops"),
        ("groups[0].inside", "fast", "groups[0].inside is not understood: 'fast' is no link; expected one of NVLink"),
        ("between", None, "between is None; expected the fields bytes_per_s, latency_s and perhaps collectives"),
        ("groups[0].hosts", 2.5, "groups[0].hosts is 2.5; expected a number of hosts, a whole number of 1 or more"),
        (
            "groups[1].memory_bytes",
            9e9,
            "groups[1].memory_bytes is 9000000000; expected at most what the device 'ours'",
        ),
        (f"{OURS}.name", 7, f"{OURS}.name is 7; expected what it is called, a text"),
        (f"{OURS}.source", "", f"{OURS}.source is ''; expected where the numbers are from, a text"),
        (f"{OURS}.flops", 1e12, f"{OURS}.flops is 1000000000000.0; expected FLOP/s by dtype"),
        (f"{OURS}.flops", {}, f"{OURS}.flops is empty; expected FLOP/s of one dtype at least"),
        (f"{OURS}.flops.int8", 1, f"{OURS}.flops.int8 is of an unknown dtype; expected one of fp64, fp32, bf16, fp16"),
        (f"{OURS}.flops.bf16.efficiency", 1.5, f"{OURS}.flops.bf16.efficiency is 1.5; expected a share of the peak"),
        ("groups[1].inside.collectives", [], "groups[1].inside.collectives is []; expected what was measured, as {"),
        (
            "groups[1].inside.collectives.gossip",
            {"alpha_s": 0, "beta_s_per_byte": 1},
            "groups[1].inside.collectives.gossip is no collective; expected one of all_reduce",
        ),
    ],
)
def test_fields_that_make_no_sense_are_named(field: str, value: Any, text: str, tmp_path: Path) -> None:
    assert refusal(changed(field, value), tmp_path).startswith(text)


@pytest.mark.parametrize("facts", [3, [], None])
def test_files_of_something_else_are_refused(facts: Any, tmp_path: Path) -> None:
    assert refusal(facts, tmp_path).startswith(f"the file is {facts!r}; expected the fields schema, version, name")


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    for content in (b"{", b"\xff\xfe{}"):
        (tmp_path / "lab.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"lab\.json is no JSON"):
            Cluster.load(tmp_path / "lab.json")
