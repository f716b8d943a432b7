"""The flags of `run`, `create` and `update`: docker's grammar, and the request that they make."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lading.engine.cli.client import Place
from lading.engine.cli.keyfile import IdFile, read_pairs
from lading.engine.cli.lifecycle import update
from lading.engine.cli.limitflags import limit_request, parse_rate
from lading.engine.cli.quantities import (
    binary_size,
    parse_cpus,
    parse_duration,
    parse_restart,
    parse_size,
    parse_swap,
)
from lading.engine.cli.run import create, run
from lading.engine.cli.runflags import make_request
from lading.engine.cli.securityflags import parse_device, parse_extra_host, parse_ulimit
from lading.engine.cli.stats import row_of

MIB = 1 << 20
SECOND = 10**9
PLAIN = {"NetworkMode": "host", "AutoRemove": False, "ReadonlyRootfs": False}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("1b", 1), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB", 1024),
        ("512m", 512 * MIB), ("1.5g", 1536 * MIB),
        ("32 MB", 32 * MIB), ("1t", 1 << 40), ("1p", 1 << 50), ("0.5k", 512),
    ],
)  # fmt: skip
def test_a_size_is_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1x", "1mm", "1m\n", "0x1", "1e3", "١", "9" * 40, "8192p", "1.2.3", "nan"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_swap_may_be_without_end() -> None:
    assert (parse_swap("-1"), parse_swap("1g")) == (-1, 1 << 30)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("0s", 0), ("1ns", 1), ("1us", 1000), ("1µs", 1000), ("300ms", 300_000_000), ("1s", SECOND),
        ("1m30s", 90 * SECOND), ("1.5h", 5400 * SECOND), ("1h1m1s1ms", 3661 * SECOND + 10**6), ("1.s", SECOND),
    ],
)  # fmt: skip
def test_a_duration_is_gos(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1d", "1 s", "1s ", ".s", "1e3s", "9999999999999999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration|is longer than"):
        parse_duration(text)


def test_cpus_are_counted_in_billionths() -> None:
    assert [parse_cpus(text) for text in ("2", "0.5", ".25", "1.000000001")] == [2 * 10**9, 5 * 10**8, 25 * 10**7,
                                                                                10**9 + 1]  # fmt: skip
    for text in ("", "x", "-1", "1e3", "nan", "0.0000000001", "1/3"):
        with pytest.raises(ValueError, match=r"is no number|is too precise"):
            parse_cpus(text)


def test_restart_policies() -> None:
    assert parse_restart("always") == {"Name": "always", "MaximumRetryCount": 0}
    assert parse_restart("on-failure:5") == {"Name": "on-failure", "MaximumRetryCount": 5}
    for text in (":5", "on-failure:x", "on-failure:5:6"):
        with pytest.raises(ValueError, match="invalid restart policy format"):
            parse_restart(text)


def test_devices() -> None:
    for text, path, target, mode in (
        ("/dev/a", "/dev/a", "/dev/a", "rwm"),
        ("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"),
        ("/dev/a:r", "/dev/a", "/dev/a", "r"),
        ("/dev/a:/dev/b:rw", "/dev/a", "/dev/b", "rw"),
    ):
        wanted = {"PathOnHost": path, "PathInContainer": target, "CgroupPermissions": mode}
        assert parse_device(text) == wanted
    for text in ("dev/a", "/dev/a:b:c", "/dev/a:/dev/b:x", "/dev/a:/b:r:w", "/dev/a:rr", ""):
        with pytest.raises(ValueError, match=r"absolute path|bad mode"):
            parse_device(text)


def test_ulimits_hosts_and_rates() -> None:
    assert parse_ulimit("nofile=10") == {"Name": "nofile", "Soft": 10, "Hard": 10}
    assert parse_ulimit("core=-1:-1") == {"Name": "core", "Soft": -1, "Hard": -1}
    for text in ("nofile", "=1", "nofile=x", "nofile=1:", "nofile=1:2:3"):
        with pytest.raises(ValueError, match="invalid ulimit argument"):
            parse_ulimit(text)
    for text in ("db:1.2.3.4", "db=1.2.3.4"):
        assert parse_extra_host(text) == "db:1.2.3.4"
    for text in ("db=::1", "db:[::1]", "db:::1"):
        assert parse_extra_host(text) == "db:::1"
    for text in ("db", ":1.2.3.4", "a:b=1.2.3.4"):
        with pytest.raises(ValueError, match="bad format for add-host"):
            parse_extra_host(text)
    assert parse_rate("/dev/sda:1mb", bytes_=True) == {"Path": "/dev/sda", "Rate": MIB}
    assert parse_rate("/dev/sda:100", bytes_=False) == {"Path": "/dev/sda", "Rate": 100}
    for text in ("/dev/sda", "sda:1", "/dev/sda:1k"):
        with pytest.raises(ValueError, match=r"rate"):
            parse_rate(text, bytes_=False)


# -- requests -----------------------------------------------------------------------------------------------------


def request_of(monkeypatch: pytest.MonkeyPatch, command: click.Command, *words: str) -> dict[str, Any]:
    """What ``command`` with ``words`` asks the engine for."""
    made: list[dict[str, Any]] = []

    def keep(image: str, words: tuple[str, ...], **options: Any) -> dict[str, Any]:
        made.append(make_request(image, words, **options))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr("lading.engine.cli.run.make_request", keep)
    outcome = CliRunner().invoke(command, words, obj=Place("/nowhere", "/nowhere/x"))
    assert outcome.exit_code == 0, outcome.output
    return made[0]


@pytest.mark.parametrize("command", [run, create], ids=["run", "create"])
@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("-m 512m --memory-swap -1 --memory-reservation 256m --memory-swappiness 0",
         {"Memory": 512 * MIB, "MemorySwap": -1, "MemoryReservation": 256 * MIB, "MemorySwappiness": 0}),
        ("--cpus 1.5 -c 512", {"NanoCpus": 1_500_000_000, "CpuShares": 512}),
        ("--cpu-period 1000 --cpu-quota 500 --cpuset-cpus 0-1 --cpuset-mems 0",
         {"CpuPeriod": 1000, "CpuQuota": 500, "CpusetCpus": "0-1", "CpusetMems": "0"}),
        ("--pids-limit -1 --blkio-weight 10 --oom-score-adj -5 --oom-kill-disable --shm-size 1g",
         {"PidsLimit": -1, "BlkioWeight": 10, "OomScoreAdj": -5, "OomKillDisable": True, "ShmSize": 1 << 30}),
        ("--device-read-bps /dev/a:1k --device-write-bps /dev/a:2 --device-read-iops /dev/a:3 "
         "--device-write-iops /dev/a:4 --device-write-iops /dev/b:5",
         {"BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 1024}],
          "BlkioDeviceWriteBps": [{"Path": "/dev/a", "Rate": 2}],
          "BlkioDeviceReadIOps": [{"Path": "/dev/a", "Rate": 3}],
          "BlkioDeviceWriteIOps": [{"Path": "/dev/a", "Rate": 4}, {"Path": "/dev/b", "Rate": 5}]}),
        ("--privileged --cap-add A --cap-add B --cap-drop ALL",
         {"Privileged": True, "CapAdd": ["A", "B"], "CapDrop": ["ALL"]}),
        ("--security-opt no-new-privileges --security-opt seccomp=unconfined "
         "--security-opt systempaths=unconfined",
         {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "MaskedPaths": [], "ReadonlyPaths": []}),
        ("--device /dev/a:r --device-cgroup-rule c_1:3_r --group-add audio",
         {"Devices": [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "r"}],
          "DeviceCgroupRules": ["c 1:3 r"], "GroupAdd": ["audio"]}),
        ("--ulimit nofile=1:2 --sysctl a.b=c=d",
         {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "Sysctls": {"a.b": "c=d"}}),
        ("--add-host a=1.2.3.4 --dns 1.1.1.1 --dns-search x --dns-option ndots:1",
         {"ExtraHosts": ["a:1.2.3.4"], "Dns": ["1.1.1.1"], "DnsSearch": ["x"], "DnsOptions": ["ndots:1"]}),
        ("--pid host --ipc none --uts host --cgroupns private",
         {"PidMode": "host", "IpcMode": "none", "UTSMode": "host", "CgroupnsMode": "private"}),
        ("--restart on-failure:3 --restart-unhealthy --timeout 1m30s --init",
         {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "LadingRestartUnhealthy": True,
          "LadingDeadline": 90 * SECOND, "Init": True}),
        ("--log-driver local --log-opt max-size=1m --log-opt max-file=3",
         {"LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "3"}}}),
    ],
    ids=lambda each: each.split()[0] if isinstance(each, str) else "",
)  # fmt: skip
def test_flags_of_the_host_configuration(
    monkeypatch: pytest.MonkeyPatch, command: click.Command, words: str, host: dict[str, Any]
) -> None:
    said = [word.replace("_", " ") if word.startswith("c_") else word for word in words.split()]
    assert request_of(monkeypatch, command, *said, "x")["HostConfig"] == PLAIN | host


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("-t", {"Tty": True}),
        ("-h box --domainname a.example", {"Hostname": "box", "Domainname": "a.example"}),
        ("--no-healthcheck", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "--health-cmd true --health-interval 1s --health-timeout 2s --health-retries 3 "
            "--health-start-period 4s --health-start-interval 5s",
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "true"],
                    "Interval": SECOND,
                    "Timeout": 2 * SECOND,
                    "Retries": 3,
                    "StartPeriod": 4 * SECOND,
                    "StartInterval": 5 * SECOND,
                }
            },
        ),
        ("--health-interval 1s", {"Healthcheck": {"Interval": SECOND}}),
    ],
    ids=lambda each: each.split()[0] if isinstance(each, str) else "",
)
def test_flags_of_the_configuration(monkeypatch: pytest.MonkeyPatch, words: str, config: dict[str, Any]) -> None:
    usual = request_of(monkeypatch, run, "x")
    assert request_of(monkeypatch, run, *words.split(), "x") == usual | config


def test_variables_and_labels_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINE", "here")
    monkeypatch.delenv("NOT_MINE", raising=False)
    (tmp_path / "env").write_bytes(
        b"\xef\xbb\xbfA=1\r\n# no\n\n  B = 2=3\nMINE\nNOT_MINE\nC=\n".replace(b"B =", b"B=")
    )
    (tmp_path / "labels").write_text("k=v\nflag\n")
    words = ["--env-file", f"{tmp_path}/env", "-e", "A=2", "--label-file", f"{tmp_path}/labels", "-l", "k=w"]
    request = request_of(monkeypatch, run, *words, "x")
    assert request["Env"] == ["A=1", "B= 2=3", "MINE=here", "C=", "A=2"]
    assert request["Labels"] == {"k": "w", "flag": ""}


@pytest.mark.parametrize(
    ("content", "said"), [(b"=x", "no variable name"), (b"A B=1", "contains whitespaces"), (b"\xff", "no UTF-8")]
)
def test_a_file_of_variables_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "env").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_pairs(os.fspath(tmp_path / "env"), {})


def test_a_seccomp_profile_goes_as_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    request = request_of(monkeypatch, run, "--security-opt", f"seccomp={tmp_path}/profile", "x")
    assert request["HostConfig"]["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']
    (tmp_path / "profile").write_text("nothing")
    for name, said in (("profile", "is no JSON"), ("nope", "opening seccomp profile")):
        words = ["--security-opt", f"seccomp={tmp_path}/{name}", "x"]
        outcome = CliRunner().invoke(run, words, obj=Place("/nowhere", "/nowhere/x"))
        assert (outcome.exit_code, said in outcome.output) == (2, True), outcome.output


def test_the_file_for_the_id_is_new_and_goes_if_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "id"
    with IdFile(os.fspath(path)):
        assert path.exists()
    assert not path.exists()
    with IdFile(os.fspath(path)) as made:
        made.write("abc")
    assert path.read_text() == "abc"
    with pytest.raises(FileExistsError), IdFile(os.fspath(path)):
        pass
    assert path.read_text() == "abc"
    with IdFile("") as none:
        none.write("abc")


def test_an_update_takes_what_can_be_changed() -> None:
    names = {option for parameter in update.params for option in parameter.opts}
    assert {"--memory", "--cpus", "--pids-limit", "--restart", "--blkio-weight"} <= names
    assert not {"--shm-size", "--privileged", "--memory-swappiness"} & names
    assert limit_request({"memory": None, "pids_limit": -1, "oom_kill_disable": False}) == {"PidsLimit": -1}


# -- stats --------------------------------------------------------------------------------------------------------


def test_a_sample_is_shown_as_docker_shows_it() -> None:
    sample = {
        "id": "a" * 64,
        "name": "/web",
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 4},
        "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 3 * MIB, "limit": 8 * MIB, "stats": {"inactive_file": MIB}},
        "networks": {"a": {"rx_bytes": 1000, "tx_bytes": 1}, "b": {"rx_bytes": 500, "tx_bytes": 1}},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 8}, {"op": "x"}]
        },
        "pids_stats": {"current": 3},
    }
    row = row_of(sample)
    assert row == {
        "Container": "a" * 64,
        "ID": "a" * 12,
        "Name": "web",
        "CPUPerc": "40.00%",
        "MemUsage": "2MiB / 8MiB",
        "MemPerc": "25.00%",
        "NetIO": "1.5kB / 2B",
        "BlockIO": "4.1kB / 8B",
        "PIDs": "3",
    }
    assert row_of(sample, no_trunc=True)["ID"] == "a" * 64
    assert json.loads(json.dumps(row)) == row


def test_a_container_that_does_not_run_has_no_numbers() -> None:
    row = row_of({"id": "b" * 64, "name": "/x", "memory_stats": {}, "pids_stats": {}})
    assert (row["CPUPerc"], row["MemUsage"], row["PIDs"]) == ("--", "-- / --", "--")
    assert row_of({"memory_stats": [], "blkio_stats": None})["Name"] == "--"


def test_memory_is_in_powers_of_1024() -> None:
    assert [binary_size(count) for count in (0, 1023, 1536, 5 * MIB, 1 << 60)] == [
        "0B", "1023B", "1.5KiB", "5MiB", "1024PiB",
    ]  # fmt: skip
