"""The registries' settings, and whom TLS trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs
import pytest
from certificates import make_certificates

from lading.engine.registry.settings import (
    Endpoint,
    RegistrySettings,
    default_endpoint,
    host_name,
    is_loopback,
    load_settings,
)
from lading.engine.registry.trust import tls_context
from lading.events.errors import HostError, Invalid

EXAMPLE = """
insecure = ["registry.example:5000", "10.0.0.0/8", "plain.example"]
certificates = ["/a"]
proxies = false
loopback = false

[mirrors]
"docker.io" = ["https://mirror.example", "http://localhost:5000/"]

[limits]
downloads = 1
uploads = 2
attempts = 4
connect_timeout = 5
stall_timeout = 6.5
first_delay = 0
longest_delay = 7
"""


def test_the_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "registries.toml"
    path.write_text(EXAMPLE)
    assert load_settings(path) == RegistrySettings(
        insecure=("registry.example:5000", "10.0.0.0/8", "plain.example"),
        loopback=False,
        mirrors={"docker.io": ("https://mirror.example", "http://localhost:5000/")},
        certificates=("/a",),
        proxies=False,
        downloads=1,
        uploads=2,
        attempts=4,
        connect_timeout=5.0,
        stall_timeout=6.5,
        first_delay=0.0,
        longest_delay=7.0,
    )


def test_the_example_in_the_documentation_is_one(tmp_path: Path) -> None:
    from lading.engine.registry import settings

    assert settings.__doc__ is not None
    example = settings.__doc__.partition("::\n")[2].rpartition("\n\nLoopback")[0]
    path = tmp_path / "registries.toml"
    path.write_text("\n".join(line.removeprefix("    ") for line in example.splitlines()))
    told = load_settings(path)
    assert attrs.evolve(told, insecure=(), mirrors={}) == RegistrySettings()
    assert told.mirrors == {"docker.io": ("https://mirror.example",)}


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "none") == RegistrySettings()


@pytest.mark.parametrize(
    "text",
    [
        "insecure = 5",
        'insecure = ["a b"]',
        'insecure = ["10.0.0.0/99"]',
        'insecure = ["http://registry.example"]',
        'nonsense = "x"',
        "proxies = 1",
        "limits = 5",
        "mirrors = []",
        "[limits]\ndownloads = 0",
        "[limits]\nattempts = true",
        "[limits]\nstall_timeout = 0",
        "[limits]\nstall_timeout = -1",
        "[limits]\nstall_timeout = nan",
        "[limits]\nconnect_timeout = inf",
        "[limits]\nfirst_delay = -1",
        "[limits]\nmade_up_timeout = 1",
        '[mirrors]\n"docker.io" = "https://a.example"',
        '[mirrors]\n"docker.io" = ["a.example"]',
        '[mirrors]\n"docker.io" = ["ftp://a.example"]',
        '[mirrors]\n"docker.io" = ["https://user:pw@a.example"]',
        '[mirrors]\n"docker.io" = ["https://a.example/path"]',
        '[mirrors]\n"docker.io" = ["https://[::"]',
        "x = [",
        "\x00",
    ],
)
def test_what_is_wrong_in_the_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "registries.toml"
    path.write_text(text)
    with pytest.raises(Invalid):
        load_settings(path)
    path.write_bytes(b"\xff")
    with pytest.raises(Invalid):
        load_settings(path)


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("127.0.0.1", True),
        ("127.5.6.7:5000", True),
        ("localhost", True),
        ("LOCALHOST:5000", True),
        ("registry.localhost:5000", True),
        ("[::1]:5000", True),
        ("[::ffff:127.0.0.1]", True),
        ("0x7f.1:5000", True),
        ("2130706433", True),
        ("10.1.2.3:5000", True),
        ("11.1.2.3:5000", False),
        ("registry.example:5000", True),
        ("registry.example", False),
        ("registry.example:5001", False),
        ("plain.example", True),
        ("plain.example:1234", True),
        ("localhost.example", False),
        ("10.example", False),
    ],
)
def test_who_is_insecure(host: str, insecure: bool) -> None:
    settings = RegistrySettings(insecure=("registry.example:5000", "10.0.0.0/8", "plain.example"))
    assert settings.is_insecure(host) == insecure
    assert settings.endpoint(host).scheme == ("" if insecure else "https")
    assert not attrs.evolve(settings, insecure=(), loopback=False).is_insecure(host)


def test_where_a_registry_answers() -> None:
    settings = RegistrySettings(mirrors={"docker.io": ("https://mirror.example", "http://localhost:5000")})
    assert default_endpoint("registry.example") == "registry.example"
    assert settings.endpoint("docker.io") == Endpoint("registry-1." + "docker.io")
    assert settings.mirror_endpoints("docker.io") == (
        Endpoint("mirror.example", "https", mirror=True),
        Endpoint("localhost:5000", "http", mirror=True),
    )
    assert settings.mirror_endpoints("registry.example") == ()


def test_hosts_and_their_names() -> None:
    assert [host_name(host) for host in ("A.b:1", "[::1]:2", "[FE80::1]")] == ["a.b", "::1", "fe80::1"]
    assert not is_loopback("128.0.0.1")


def test_a_directory_of_certificates_is_trusted(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "made")
    place = tmp_path / "certs.d" / "registry.example:5000"
    place.mkdir(parents=True)
    before = len(tls_context("registry.example:5000", (str(tmp_path / "certs.d"),), verify=True).get_ca_certs())
    (place / "ca.crt").write_bytes(made.authority.read_bytes())
    (place / "client.cert").write_bytes(made.server.read_bytes())
    (place / "client.key").write_bytes(made.key.read_bytes())
    (place / "README").write_text("anything")
    context = tls_context("registry.example:5000", ("/nowhere", str(tmp_path / "certs.d")), verify=True)
    assert len(context.get_ca_certs()) == before + 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(tls_context("registry.example", (str(tmp_path / "certs.d"),), verify=True).get_ca_certs()) == before
    assert tls_context("registry.example", (), verify=False).verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "nokey.cert"])
def test_a_certificate_that_is_none_is_told(tmp_path: Path, name: str) -> None:
    place = tmp_path / "registry.example"
    place.mkdir()
    (place / name).write_text("nonsense")
    if name == "client.cert":
        (place / "client.key").write_text("nonsense")
    with pytest.raises(Invalid, match=name.partition(".")[0]):
        tls_context("registry.example", (str(tmp_path),), verify=True)
