"""Credentials: the API's headers, Docker's configuration, credential helpers, and challenges."""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lading.engine.registry import Credentials, CredentialStore, credentials_from_header
from lading.engine.registry.challenge import Challenge, parse_challenges
from lading.engine.registry.credentials import auth_key, credentials_from_table
from lading.events.errors import HostError, Invalid

SOMEBODY = Credentials("somebody", "pass:w0rd")
HUB_KEY = "https://index." + "docker.io" + "/v1/"


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


# -- headers -----------------------------------------------------------------------------------------------


def test_the_header_says_who_it_is() -> None:
    full = {"username": "somebody", "password": "pass:w0rd", "serveraddress": "registry.example", "email": ""}
    assert credentials_from_header(encoded(full)) == SOMEBODY
    assert credentials_from_header(encoded(full).rstrip("=")) == SOMEBODY
    plain = base64.b64encode(json.dumps({"username": "???>>>", "password": "~~~"}).encode()).decode()
    assert "/" in plain or "+" in plain
    assert credentials_from_header(plain) == Credentials("???>>>", "~~~")
    auth = base64.b64encode(b"somebody:pass:w0rd").decode()
    assert credentials_from_header(encoded({"auth": auth})) == SOMEBODY
    assert credentials_from_header(encoded({"identitytoken": "t"})) == Credentials(identity_token="t")
    assert credentials_from_header(encoded({"registrytoken": "t"})) == Credentials(registry_token="t")


@pytest.mark.parametrize("value", ["", encoded({}), encoded({"username": ""}), encoded({"password": None})])
def test_a_header_may_say_nothing(value: str) -> None:
    assert credentials_from_header(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "%%%",
        encoded([]),
        encoded("secret-1"),
        encoded({"username": 5}),
        encoded({"auth": "secret-1!"}),
        encoded({"auth": base64.b64encode(b"secret-1").decode()}),
        base64.urlsafe_b64encode(b"{secret-1").decode(),
        base64.urlsafe_b64encode(b"\xffsecret-1").decode(),
        "A" * 70_000,
        "ä",
    ],
)
def test_a_wrong_header_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        credentials_from_header(value)
    assert "secret-1" not in str(caught.value) + repr(caught.value)
    assert value[:20] not in str(caught.value)


def test_the_table_has_several_registries() -> None:
    table = {"registry.example": {"username": "somebody", "password": "pass:w0rd"}, "other.example": {}}
    assert credentials_from_table(encoded(table)) == {"registry.example": SOMEBODY}
    assert credentials_from_table("") == {}
    for wrong in (encoded({"a": 5}), encoded([]), "%"):
        with pytest.raises(Invalid):
            credentials_from_table(wrong)


@given(st.text(max_size=60))
def test_no_header_does_more_than_being_refused(value: str) -> None:
    for parse in (credentials_from_header, credentials_from_table):
        with suppress(Invalid):
            parse(value)


def test_secrets_are_not_shown() -> None:
    all_of_it = Credentials("somebody", "passw0rd", "identity-1", "registry-1")
    assert "somebody" in repr(all_of_it)
    for secret in all_of_it.secrets:
        assert secret not in repr(all_of_it)
    assert {"passw0rd", "identity-1", "registry-1"} < set(all_of_it.secrets)
    assert not Credentials()


def test_docker_hub_has_an_older_name() -> None:
    assert auth_key("docker.io") == HUB_KEY
    assert auth_key("registry.example:5000") == "registry.example:5000"


# -- Docker's configuration --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    """Its configuration is in ``tmp_path/config.json``, its programs in ``tmp_path``."""
    return CredentialStore(
        environment={"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )


def configure(store: CredentialStore, **config: Any) -> None:
    store.path.write_text(json.dumps(config))


def helper(store: CredentialStore, script: str, name: str = "test") -> None:
    """A credential helper that runs ``script``, with what it is asked in ``$1`` and its input in ``$input``."""
    path = store.path.parent / f"docker-credential-{name}"
    path.write_text(f'#!/bin/sh\ninput=$(cat)\necho "$1 $input" >>{store.path.parent}/asked\n{script}\n')
    path.chmod(0o755)


def asked(store: CredentialStore) -> list[str]:
    return (store.path.parent / "asked").read_text().splitlines()


def test_where_the_configuration_is(tmp_path: Path) -> None:
    assert CredentialStore(environment={"HOME": "/home/x"}).path == Path("/home/x/.docker/config.json")
    assert CredentialStore(environment={"HOME": "/home/x", "DOCKER_CONFIG": "/y"}).path == Path("/y/config.json")
    assert CredentialStore(tmp_path / "z", environment={"DOCKER_CONFIG": "/y"}).path == tmp_path / "z"


@pytest.mark.parametrize(
    ("domain", "key"),
    [
        ("docker.io", HUB_KEY),
        ("docker.io", HUB_KEY.split("/")[2]),
        ("registry.example", "registry.example"),
        ("registry.example", "https://registry.example"),
        ("registry.example", "https://registry.example/v2/"),
        ("registry.example:5000", "http://registry.example:5000"),
    ],
)
async def test_the_file_is_read_as_docker_reads_it(store: CredentialStore, domain: str, key: str) -> None:
    auth = base64.b64encode(b"somebody:pass:w0rd").decode()
    configure(store, auths={"other.example": {"auth": "bm9ib2R5Ong="}, key: {"auth": auth}})
    assert await store.get(domain) == SOMEBODY
    assert await store.get("third.example") is None


async def test_there_may_be_nothing(store: CredentialStore) -> None:
    assert await store.get("registry.example") is None
    for text in ("", "{}", '{"auths": null}', '{"auths": {"registry.example": {}}}'):
        store.path.write_text(text)
        assert await store.get("registry.example") is None


async def test_tokens_are_kept_too(store: CredentialStore) -> None:
    configure(store, auths={"registry.example": {"identitytoken": "i", "registrytoken": "r"}})
    assert await store.get("registry.example") == Credentials("", "", "i", "r")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": {"registry.example": 5}}',
        '{"auths": {"registry.example": {"auth": "secret-1"}}}',
        '{"auths": {"registry.example": {"auth": 5}}}',
        '{"credsStore": "../../bin/sh"}',
        '{"credsStore": 5}',
        '{"credHelpers": {"registry.example": "a b"}}',
    ],
)
async def test_a_wrong_file_is_told_and_not_shown(store: CredentialStore, text: str) -> None:
    store.path.write_text(text)
    with pytest.raises(Invalid) as caught:
        await store.get("registry.example")
    assert "secret-1" not in str(caught.value)


async def test_what_is_stored_is_found_and_erased(store: CredentialStore) -> None:
    configure(store, detachKeys="ctrl-a", auths={"https://registry.example/v1/": {"auth": "b2xkOm9sZA=="}})
    assert await store.store("registry.example", SOMEBODY) == str(store.path)
    assert await store.get("registry.example") == SOMEBODY
    assert store.path.stat().st_mode & 0o777 == 0o600
    written = json.loads(store.path.read_text())
    assert written["detachKeys"] == "ctrl-a"
    assert list(written["auths"]) == ["registry.example"]
    await store.store("docker.io", Credentials(identity_token="i"))
    assert await store.get("docker.io") == Credentials(identity_token="i")
    assert await store.erase("registry.example")
    assert not await store.erase("registry.example")
    assert await store.get("registry.example") is None
    assert await store.get("docker.io") == Credentials(identity_token="i")
    assert os.listdir(store.path.parent) == ["config.json"]


async def test_the_directory_is_made_and_a_link_kept(tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "new" / "config.json")
    await store.store("registry.example", SOMEBODY)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link.json").symlink_to(tmp_path / "new" / "config.json")
    linked = CredentialStore(tmp_path / "link.json")
    await linked.store("other.example", SOMEBODY)
    assert (tmp_path / "link.json").is_symlink()
    assert await store.get("other.example") == SOMEBODY


async def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        await CredentialStore(tmp_path / "file" / "config.json").store("registry.example", SOMEBODY)


# -- helpers -----------------------------------------------------------------------------------------------

ANSWER = """echo '{"ServerURL": "x", "Username": "somebody", "Secret": "pass:w0rd"}'"""


async def test_a_helper_is_asked(store: CredentialStore) -> None:
    helper(store, ANSWER)
    configure(store, credsStore="test")
    assert await store.get("registry.example") == SOMEBODY
    assert await store.get("docker.io") == SOMEBODY
    assert asked(store) == ["get registry.example", f"get {HUB_KEY}"]


async def test_a_registry_may_have_a_helper_of_its_own(store: CredentialStore) -> None:
    helper(store, ANSWER, "special")
    configure(store, credHelpers={"registry.example": "special"})
    assert await store.get("registry.example") == SOMEBODY
    assert await store.get("other.example") is None
    assert asked(store) == ["get registry.example"]


async def test_a_helper_may_have_a_token_or_nothing(store: CredentialStore) -> None:
    configure(store, credsStore="test", auths={"registry.example": {"auth": "YTpi"}})
    helper(store, """echo '{"ServerURL": "x", "Username": "<token>", "Secret": "t"}'""")
    assert await store.get("registry.example") == Credentials(identity_token="t")
    helper(store, "echo credentials not found in native keychain; exit 1")
    assert await store.get("registry.example") == Credentials("a", "b")
    assert await store.get("other.example") is None


@pytest.mark.parametrize(
    "script",
    [
        "echo secret-1; exit 1",
        "echo secret-1",
        "echo '[]'",
        """echo '{"Username": 5, "Secret": "secret-1"}'""",
        "head -c 2000000 /dev/zero; sleep 30",
        "kill -9 $$",
    ],
)
async def test_a_helper_that_fails_is_told_and_not_shown(store: CredentialStore, script: str) -> None:
    helper(store, script)
    configure(store, credsStore="test")
    with trio.fail_after(10), pytest.raises(HostError) as caught:
        await store.get("registry.example")
    assert "secret-1" not in str(caught.value)
    assert "test" in str(caught.value)


async def test_a_helper_that_hangs_is_ended(store: CredentialStore) -> None:
    helper(store, f"echo $$ >{store.path.parent}/pid; exec sleep 1000")
    configure(store, credsStore="test")
    impatient = CredentialStore(
        store.path, environment={"PATH": str(store.path.parent) + ":" + os.environ["PATH"]}, timeout=0.2
    )
    with trio.fail_after(10), pytest.raises(HostError, match="did not answer within"):
        await impatient.get("registry.example")
    pid = int((store.path.parent / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_helper_that_is_not_there_is_told(store: CredentialStore) -> None:
    configure(store, credsStore="nowhere-at-all")
    with pytest.raises(HostError, match="docker-credential-nowhere-at-all is not in PATH"):
        await store.get("registry.example")


async def test_a_helper_stores_and_erases(store: CredentialStore) -> None:
    helper(store, ANSWER)
    configure(store, credsStore="test")
    assert await store.store("registry.example", SOMEBODY) == "test"
    await store.store("registry.example", Credentials(identity_token="t"))
    assert await store.erase("registry.example")
    assert [line.partition(" ")[0] for line in asked(store)] == ["store", "store", "get", "erase"]
    first, second, _, erased = (line.partition(" ")[2] for line in asked(store))
    assert json.loads(first) == {"ServerURL": "registry.example", "Username": "somebody", "Secret": "pass:w0rd"}
    assert json.loads(second)["Username"] == "<token>"
    assert erased == "registry.example"
    assert json.loads(store.path.read_text()) == {"credsStore": "test"}


# -- challenges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Bearer realm="https://a",scope="r:a:x,y"', [("bearer", {"realm": "https://a", "scope": "r:a:x,y"})]),
        ('bearer REALM="x"', [("bearer", {"realm": "x"})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ('Basic realm="x", Bearer a="y" , b = c', [("basic", {"realm": "x"}), ("bearer", {"a": "y", "b": "c"})]),
        ("Basic", [("basic", {})]),
        ('Negotiate abc==, Basic realm="a\\"b\\\\c"', [("negotiate", {}), ("basic", {"realm": 'a"b\\c'})]),
        ('Negotiate, Basic realm=""', [("negotiate", {}), ("basic", {"realm": ""})]),
        ('Bearer realm="x" service="y"', []),
        ('Bearer realm="x",realm="y"', []),
        ('Bearer realm="x', []),
        ('Bearer realm="a\nb"', []),
        ("Bearer realm=ä", []),
        ("", []),
        (" , ", []),
        ("=", []),
        ("Bearer realm=" + "a" * 20_000, []),
    ],
)  # fmt: skip
def test_challenges_are_read_strictly(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert list(parse_challenges([header])) == [Challenge(*each) for each in challenges]


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_header_is_read_or_not(headers: list[str]) -> None:
    for each in parse_challenges(headers):
        assert each.scheme == each.scheme.lower()
