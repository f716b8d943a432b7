"""Samples of cgroup v2 from its files, the JSON of both flavours, and what ps printed."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from lading.engine.api.statshape import docker_stats
from lading.engine.containers import stats as module
from lading.engine.containers.stats import Interface, IoEntry, Stats
from lading.engine.containers.top import Top, check_ps_args, parse_ps
from lading.events.errors import HostError, Invalid

V2 = {
    "cpu.stat": """
usage_usec 5000
user_usec 3000
system_usec 2000
nr_periods 7
nr_throttled 2
throttled_usec 9
""",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\n",
    "memory.stat": "anon 100\nfile 200\nnot_docker_s 1\n",
    "pids.current": "5\n",
    "pids.max": "77\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n",
}

NUMBERS = {"total_usage": 5, "usage_in_kernelmode": 2, "usage_in_usermode": 3}


def test_cgroup_v2_is_read_from_its_files(tmp_path: Path) -> None:
    for name, content in V2.items():
        (tmp_path / name).write_text(content)
    found = module._v2(str(tmp_path))
    assert (found.cpu_total, found.cpu_user, found.cpu_system) == (5_000_000, 3_000_000, 2_000_000)
    assert found.throttling == (7, 2, 9000)
    assert (found.memory_usage, found.memory_limit, found.memory_max, found.memory_failures) == (4096, 0, 8192, 3)
    assert (found.pids, found.pids_limit) == (5, 77)
    assert found.io[:2] == (IoEntry(8, 0, "read", 10, 1), IoEntry(8, 0, "write", 20, 2))
    assert found.memory_stat["anon"] == 100
    assert module._v2(str(tmp_path / "gone")) == Stats(time=0, unified=True)


SAMPLE = Stats(
    time=1_700_000_000_120_000_000,
    unified=False,
    cpu_total=5,
    cpu_user=3,
    cpu_system=2,
    per_cpu=(1, 4),
    throttling=(1, 2, 3),
    online_cpus=2,
    system_cpu=99,
    memory_usage=10,
    memory_limit=100,
    memory_max=20,
    memory_failures=1,
    memory_stat={"cache": 7, "total_cache": 8, "odd": 1},
    pids=3,
    io=(IoEntry(8, 0, "Read", 4096, 2),),
    network={"eth0": Interface(1, 2, 3, 4, 5, 6, 7, 8)},
)


def test_the_shape_is_dockers_of_cgroup_v1() -> None:
    shape = docker_stats(SAMPLE, attrs.evolve(SAMPLE, time=1_700_000_000_000_000_000), "box", "id")
    assert json.loads(json.dumps(shape)) == shape
    memory = shape["memory_stats"]
    assert isinstance(memory, dict)
    numbers = memory.pop("stats")
    assert (numbers["cache"], numbers["total_cache"], numbers["rss"], len(numbers)) == (7, 8, 0, 32)
    entry = {"major": 8, "minor": 0, "op": "Read"}
    empty: dict[str, object] = {
        f"{name}_recursive": []
        for name in ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time", "sectors")
    }
    cpu = {
        "cpu_usage": {**NUMBERS, "percpu_usage": [1, 4]},
        "system_cpu_usage": 99,
        "online_cpus": 2,
        "throttling_data": {"periods": 1, "throttled_periods": 2, "throttled_time": 3},
    }
    assert shape == {
        "read": "2023-11-14T22:13:20.12Z",
        "preread": "2023-11-14T22:13:20Z",
        "pids_stats": {"current": 3},
        "blkio_stats": {
            "io_service_bytes_recursive": [{**entry, "value": 4096}],
            "io_serviced_recursive": [{**entry, "value": 2}],
            **empty,
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu,
        "precpu_stats": cpu,
        "memory_stats": {"usage": 10, "max_usage": 20, "failcnt": 1, "limit": 100},
        "name": "/box",
        "id": "id",
        "networks": {
            "eth0": {
                "rx_bytes": 1,
                "rx_packets": 2,
                "rx_errors": 3,
                "rx_dropped": 4,
                "tx_bytes": 5,
                "tx_packets": 6,
                "tx_errors": 7,
                "tx_dropped": 8,
            }
        },
    }


def test_the_shape_is_dockers_of_cgroup_v2() -> None:
    given = attrs.evolve(SAMPLE, unified=True, per_cpu=(), network={}, memory_stat={"anon": 9}, pids_limit=5)
    shape = docker_stats(attrs.evolve(given, io=(IoEntry(8, 0, "read", 1, 2),)), None, "box", "id")
    assert shape["preread"] == "0001-01-01T00:00:00Z"
    assert "networks" not in shape
    assert shape["pids_stats"] == {"current": 3, "limit": 5}
    memory, blkio, cpu, before = (
        shape[name] for name in ("memory_stats", "blkio_stats", "cpu_stats", "precpu_stats")
    )
    assert isinstance(memory, dict)
    assert isinstance(blkio, dict)
    assert isinstance(cpu, dict)
    assert "max_usage" not in memory
    assert memory["stats"]["anon"] == 9
    assert blkio["io_service_bytes_recursive"] == [{"major": 8, "minor": 0, "op": "read", "value": 1}]
    assert {value for name, value in blkio.items() if name != "io_service_bytes_recursive"} == {None}
    assert cpu["cpu_usage"] == NUMBERS
    nothing = {
        "cpu_usage": dict.fromkeys(NUMBERS, 0),
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }
    assert before == nothing


def test_one_that_does_not_run_has_dockers_empty_shape() -> None:
    shape = docker_stats(None, None, "box", "id")
    assert (shape["read"], shape["preread"]) == ("0001-01-01T00:00:00Z",) * 2
    assert (shape["memory_stats"], shape["pids_stats"], shape["storage_stats"]) == ({}, {}, {})
    blkio = shape["blkio_stats"]
    assert isinstance(blkio, dict)
    assert (len(blkio), set(blkio.values())) == (8, {None})
    assert (shape["name"], shape["id"], shape["num_procs"]) == ("/box", "id", 0)


OUTPUT = """\
UID          PID    PPID CMD
root           7       1 sh -c  a  b
root           -       - -
root          70       1 other
root           -       - -
app            9       7 x\u2028y 7
"""


def test_rows_are_those_of_the_containers_processes() -> None:
    assert parse_ps(OUTPUT, {7, 9}) == Top(
        ("UID", "PID", "PPID", "CMD"),
        (("root", "7", "1", "sh -c a b"), ("root", "-", "-", "-"), ("app", "9", "7", "x\u2028y 7")),
    )
    assert parse_ps(OUTPUT, set()).processes == ()
    with pytest.raises(Invalid, match="PID field"):
        parse_ps("UID CMD\nroot x\n", {1})
    with pytest.raises(HostError, match="unexpected pid"):
        parse_ps("CMD PID\nfoo bar 7\n", {7})


@pytest.mark.parametrize("words", ["-o ppid=PID", "-o uid=PID,pid", "-eo user= PID", "x\0", "a\nb", "a" * 2000])
def test_ps_arguments_that_forge_the_column_are_refused(words: str) -> None:
    with pytest.raises(Invalid):
        check_ps_args(words)


def test_other_ps_arguments_are_split_at_spaces() -> None:
    assert check_ps_args("") == ["-ef"]
    assert check_ps_args("-o pid=PID,args") == ["-o", "pid=PID,args"]
