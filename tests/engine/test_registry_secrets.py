"""Where credentials and tokens go, and where they never go: redirects, realms, mirrors, messages, logs."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from faultserver import FaultServer, Reply, Seen, fault_server, guarded, ranged
from registries import QUICK, blob_of, hold, layer, name, served

from lading.engine.registry import Credentials, Registry
from lading.events.errors import DigestMismatch, NotFound, RegistryError, RegistryUnavailable, Unauthorized

USER = Credentials("somebody", "passw0rd-of-theirs")
BASIC = "Basic " + base64.b64encode(b"somebody:passw0rd-of-theirs").decode()
TOKEN = "token-of-this-test"
CONTENT = b"layer" * 1000


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    with trio.fail_after(20):
        async with fault_server() as server:
            yield server


@pytest.fixture
async def other() -> AsyncIterator[FaultServer]:
    """Another host, by its port."""
    async with fault_server() as server:
        yield server


def secret_in(text: str) -> bool:
    return any(secret in text for secret in (USER.password, BASIC.removeprefix("Basic "), TOKEN, "identity-1"))


def challenge(realm: str, more: str = "") -> str:
    return f'Bearer realm="{realm}",service="registry.example"{more}'


def token(server: FaultServer, text: str = TOKEN, **more: object) -> Reply:
    return Reply(
        200, {"Content-Type": "application/json"}, json.dumps({"token": text, "expires_in": 300} | more).encode()
    )


def wanting_tokens(server: FaultServer, service: FaultServer) -> None:
    """``server`` has an image for those with ``TOKEN``, which ``service`` gives."""
    hold(server, CONTENT)
    for request, answers in list(server.answers.items()):
        server.on(request, guarded(f"Bearer {TOKEN}", challenge(f"{service.url}/token"), answers[0]))
    service.on("GET /token", token(service))
    service.on("POST /token", token(service))


# -- basic -------------------------------------------------------------------------------------------------


async def test_a_password_is_sent_when_it_is_asked_for(server: FaultServer) -> None:
    manifest = hold(server)
    server.on("GET /v2/a/b/manifests/1", guarded(BASIC, 'Basic realm="x"', served(manifest)))
    async with Registry(QUICK) as registry:
        for _ in range(2):
            assert (await registry.manifest(name(server), auth=USER)).content == manifest
        sent = [seen.headers.get("authorization") for seen in server.asked("GET /v2/a/b/manifests/1")]
        assert sent == [None, BASIC, BASIC]
        with pytest.raises(Unauthorized, match="lading login"):
            await registry.manifest(name(server))
        wrong = Credentials("somebody", "wr0ng-password")
        with pytest.raises(Unauthorized) as caught:
            await registry.manifest(name(server), auth=wrong)
    assert "somebody" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


async def test_credentials_are_looked_up_by_host(server: FaultServer) -> None:
    manifest = hold(server)
    server.on("GET /v2/a/b/manifests/1", guarded(BASIC, 'Basic realm="x"', served(manifest)))
    asked: list[str] = []

    async def lookup(domain: str) -> Credentials | None:
        asked.append(domain)
        return USER

    async with Registry(QUICK, credentials=lookup) as registry:
        assert (await registry.manifest(name(server))).content == manifest
    assert asked == [server.address]


@pytest.mark.parametrize("said", ["", "Negotiate", "Bearer", 'Bearer realm="x', "Digest realm=x", "\xff"])
async def test_a_challenge_that_nobody_understands_is_refused(server: FaultServer, said: str) -> None:
    server.on("GET /v2/a/b/manifests/1", Reply(401, {"WWW-Authenticate": said} if said else {}))
    async with Registry(QUICK) as registry:
        with pytest.raises(Unauthorized):
            await registry.manifest(name(server), auth=USER)
    assert not secret_in(server.everything_sent())


# -- tokens ------------------------------------------------------------------------------------------------


async def test_a_token_is_fetched_once_for_each_scope(server: FaultServer, other: FaultServer) -> None:
    wanting_tokens(server, other)
    async with Registry(QUICK) as registry:
        for _ in range(3):
            await registry.manifest(name(server), auth=USER)
            assert await registry.small_blob(name(server), layer(CONTENT), auth=USER) == CONTENT
        assert len(other.asked("GET /token")) == 1
        with pytest.raises(NotFound):
            await registry.manifest(name(server, path="c/d"), auth=USER)
        await registry.manifest(name(server))  # nobody: another token
    first, second = other.asked("GET /token")
    assert first.query == {
        "service": ["registry.example"],
        "scope": ["repository:a/b:pull"],
        "account": ["somebody"],
    }
    assert first.headers["authorization"] == BASIC
    assert "authorization" not in second.headers
    assert not any(BASIC in str(seen.headers) for seen in server.seen)  # the password is for the service alone


async def test_a_token_that_ended_is_replaced(server: FaultServer, other: FaultServer) -> None:
    wanting_tokens(server, other)
    other.on("GET /token", token(other, expires_in=0.05), token(other, "old", expires_in=300), token(other))
    async with Registry(QUICK) as registry:
        await registry.manifest(name(server))
        await trio.sleep(0.05)
        with pytest.raises(Unauthorized):  # "old" is refused although it is new
            await registry.manifest(name(server))
        await registry.manifest(name(server))
    assert len(other.asked("GET /token")) == 3


async def test_an_identity_token_is_posted(server: FaultServer, other: FaultServer) -> None:
    wanting_tokens(server, other)
    async with Registry(QUICK) as registry:
        await registry.manifest(name(server), auth=Credentials(identity_token="identity-1"))
    (seen,) = other.asked("POST /token")
    assert "identity-1" not in seen.target
    form = attrs.evolve(seen, target=f"/?{seen.body.decode()}").query
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["identity-1"]
    assert form["scope"] == ["repository:a/b:pull"]
    assert "identity-1" not in server.everything_sent()


async def test_a_registry_token_is_sent_as_it_is(server: FaultServer, other: FaultServer) -> None:
    wanting_tokens(server, other)
    async with Registry(QUICK) as registry:
        await registry.manifest(name(server), auth=Credentials(registry_token=TOKEN))
    assert other.seen == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Reply(401), Unauthorized),
        (Reply(403), Unauthorized),
        (Reply(400), Unauthorized),
        (Reply(500), RegistryError),
        (Reply(200, {}, b""), RegistryError),
        (Reply(200, {}, b"[]"), RegistryError),
        (Reply(200, {}, b"{}"), RegistryError),
        (Reply(200, {}, b'{"token": ""}'), RegistryError),
        (Reply(200, {}, b'{"token": 5}'), RegistryError),
        (Reply(200, {}, b'{"token": "a\\r\\nX: y"}'), RegistryError),
        (Reply(200, {}, b'{"token": "a b"}'), RegistryError),
        (Reply(200, {}, '{"token": "ä"}'.encode()), RegistryError),
        (Reply(200, {}, b'{"token": "a", "token": "b"}'), RegistryError),
        (Reply(200, {}, b'{"token": "a", "expires_in": "soon"}'), RegistryError),
        (Reply(200, {}, b'{"token": "' + b"a" * (1 << 20) + b'"}'), RegistryError),
        (Reply(200, {}, b" " * 65536, endless=True), RegistryError),
        (Reply(302, {"Location": "/token2"}), RegistryError),
        (Reply(silent=True), RegistryUnavailable),
    ],
)
async def test_what_is_no_token_is_an_error(
    server: FaultServer, other: FaultServer, answer: Reply, kind: type[Exception]
) -> None:
    """M7."""
    wanting_tokens(server, other)
    other.on("GET /token", answer)
    async with Registry(attrs.evolve(QUICK, attempts=1)) as registry:
        with pytest.raises(kind) as caught:
            await registry.manifest(name(server), auth=USER)
    assert not secret_in(str(caught.value))
    assert len(other.seen) == 1


@pytest.mark.slow
async def test_a_token_service_leads_nobody_elsewhere(server: FaultServer, other: FaultServer) -> None:
    """M8: neither a password in a header nor an identity token in a body follows a redirect."""
    wanting_tokens(server, other)
    async with fault_server() as third:
        for status in (302, 307, 308):
            for method in ("GET", "POST"):
                other.on(f"{method} /token", Reply(status, {"Location": f"{third.url}/token"}))
            for credentials in (USER, Credentials(identity_token="identity-1")):
                async with Registry(QUICK) as registry:
                    with pytest.raises(RegistryError):
                        await registry.manifest(name(server), auth=credentials)
        assert third.seen == []


@pytest.mark.parametrize(
    "realm",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "/token",
        "",
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/latest/meta-data",
        "http://0xa9.0xfe.0xa9fe/latest/meta-data",
        "http://[::ffff:169.254.169.254]/latest/meta-data",
        "https://[fe80::1]/token",
        "http://0.0.0.0/token",
        "http://user:pw@127.0.0.1/token",
        "http://127.0.0.1:99999/token",
        "http://127.0.0.1/token#x",
    ],
)
async def test_a_realm_that_is_no_place_for_tokens_is_not_asked(server: FaultServer, realm: str) -> None:
    """M8."""
    server.on("GET /v2/a/b/manifests/1", Reply(401, {"WWW-Authenticate": challenge(realm)}))
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError, match="for a token"):
            await registry.manifest(name(server), auth=USER)
    assert not secret_in(server.everything_sent())


# -- redirects ---------------------------------------------------------------------------------------------


async def test_a_redirect_to_another_host_gets_no_credentials(server: FaultServer, other: FaultServer) -> None:
    """M8: not even when it leads back."""
    hold(server, CONTENT)
    request = blob_of(CONTENT)
    back = Reply(307, {"Location": f"{other.url}/there?sig=1"})
    server.on(request, guarded(BASIC, 'Basic realm="x"', back))
    server.on("GET /back", ranged(CONTENT))
    other.on("GET /there", Reply(302, {"Location": f"{server.url}/back"}))
    async with Registry(QUICK) as registry:
        assert await registry.small_blob(name(server), layer(CONTENT), auth=USER) == CONTENT
    assert [seen.query for seen in other.asked("GET /there")] == [{"sig": ["1"]}]
    assert not secret_in(other.everything_sent())
    assert "authorization" not in other.seen[-1].headers
    assert "authorization" not in server.asked("GET /back")[0].headers


async def test_a_redirect_on_the_same_host_keeps_them(server: FaultServer) -> None:
    hold(server, CONTENT)
    server.on(blob_of(CONTENT), Reply(307, {"Location": "../else/where"}))
    server.on("GET /v2/a/b/else/where", guarded(BASIC, 'Basic realm="x"', ranged(CONTENT)))
    async with Registry(QUICK) as registry:
        assert await registry.small_blob(name(server), layer(CONTENT), auth=USER) == CONTENT


async def test_a_redirected_transfer_goes_on_there(server: FaultServer, other: FaultServer) -> None:
    hold(server, CONTENT)
    server.on(blob_of(CONTENT), Reply(307, {"Location": f"{other.url}/x"}))
    other.on("GET /x", ranged(CONTENT, cut=100), ranged(CONTENT))
    async with Registry(QUICK) as registry:
        assert await registry.small_blob(name(server), layer(CONTENT)) == CONTENT
    assert [seen.headers.get("range") for seen in other.seen] == [None, "bytes=100-"]


async def test_a_strangers_401_gets_no_answer(server: FaultServer, other: FaultServer) -> None:
    hold(server, CONTENT)
    server.on(blob_of(CONTENT), Reply(307, {"Location": f"{other.url}/x"}))
    for said in ('Basic realm="x"', challenge(f"{other.url}/token")):
        other.on("GET /x", Reply(401, {"WWW-Authenticate": said}))
        async with Registry(QUICK) as registry:
            with pytest.raises(Unauthorized):
                await registry.small_blob(name(server), layer(CONTENT), auth=USER)
    assert other.asked("GET /token") == []
    assert not secret_in(other.everything_sent())


@pytest.mark.parametrize(
    "location",
    [
        "",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:pw@127.0.0.1/",
        "http://169.254.169.254/",
        "http://[::",
        "http://127.0.0.1:99999/",
    ],
)
async def test_a_redirect_to_nowhere_is_not_followed(server: FaultServer, location: str) -> None:
    hold(server, CONTENT)
    server.on(blob_of(CONTENT), Reply(307, {"Location": location}))
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError, match="it sends us to"):
            await registry.small_blob(name(server), layer(CONTENT))


async def test_redirects_come_to_an_end(server: FaultServer) -> None:
    hold(server, CONTENT)
    server.on(blob_of(CONTENT), Reply(307, {"Location": blob_of(CONTENT).removeprefix("GET ")}))
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError, match="redirects more than"):
            await registry.small_blob(name(server), layer(CONTENT))
    assert len(server.asked(blob_of(CONTENT))) == 6


# -- mirrors -----------------------------------------------------------------------------------------------


async def test_mirrors_are_asked_first_and_without_the_registrys_credentials(
    server: FaultServer, other: FaultServer
) -> None:
    manifest = hold(server, CONTENT)
    hold(other, CONTENT)
    asked: list[str] = []

    async def lookup(domain: str) -> Credentials | None:
        asked.append(domain)
        return None

    settings = attrs.evolve(QUICK, mirrors={server.address: ("http://127.0.0.1:1", other.url)})
    async with Registry(settings, credentials=lookup) as registry:
        assert (await registry.manifest(name(server), auth=USER)).content == manifest
        assert await registry.small_blob(name(server), layer(CONTENT), auth=USER) == CONTENT
    assert server.seen == []
    assert not secret_in(other.everything_sent())
    assert set(asked) == {"127.0.0.1:1", other.address}


@pytest.mark.parametrize(
    "wrong",
    [
        Reply(404),
        Reply(403),
        Reply(500),
        Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}),
        Reply(raw=b"nonsense\r\n\r\n"),
        Reply(200, {}, CONTENT[:100], length=-1),
        Reply(200, {}, CONTENT + b"!"),
    ],
)
async def test_what_a_mirror_does_not_have_comes_from_the_registry(
    server: FaultServer, other: FaultServer, wrong: Reply
) -> None:
    manifest = hold(server, CONTENT)
    other.on("GET /v2/a/b/manifests/1", wrong if wrong.status != 200 or wrong.raw else Reply(404))
    other.on(blob_of(CONTENT), wrong)
    settings = attrs.evolve(QUICK, mirrors={server.address: (other.url,)})
    async with Registry(settings) as registry:
        assert (await registry.manifest(name(server))).content == manifest
        assert await registry.small_blob(name(server), layer(CONTENT)) == CONTENT


async def test_a_mirror_that_lies_is_told(server: FaultServer, other: FaultServer) -> None:
    """Its bytes were given out already, so another place can't help."""
    hold(server, CONTENT)
    other.on(blob_of(CONTENT), ranged(CONTENT[:-1] + b"!"))
    settings = attrs.evolve(QUICK, mirrors={server.address: (other.url,)})
    async with Registry(settings) as registry:
        with pytest.raises(DigestMismatch) as caught:
            await registry.small_blob(name(server), layer(CONTENT))
    assert other.address in str(caught.value)


# -- messages ----------------------------------------------------------------------------------------------


async def test_no_secret_is_in_any_message(
    server: FaultServer, other: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry that says back what it was told."""

    def echo(seen: Seen) -> Reply:
        said = json.dumps(
            {
                "errors": [
                    {
                        "code": "X",
                        "message": f"you sent {seen.headers.get('authorization')} {seen.body.decode()[-99:]}",
                    }
                ]
            }
        )
        return Reply(418, {}, said.encode())

    caplog.set_level(logging.DEBUG)
    wanting_tokens(server, other)
    server.on("GET /v2/a/b/manifests/1", guarded("none", challenge(f"{other.url}/token"), Reply()))
    server.on("GET /v2/a/b/manifests/2", guarded("none", 'Basic realm="x"', Reply()))
    server.on(
        "GET /v2/a/b/manifests/3",
        lambda seen: (
            echo(seen) if "authorization" in seen.headers else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
        ),
    )
    other.on("GET /token", token(other))
    for tag in "123":
        async with Registry(QUICK) as registry:
            with pytest.raises(RegistryError) as caught:
                await registry.manifest(name(server, tag), auth=USER)
        assert not secret_in(str(caught.value) + repr(caught.value))
        if tag == "3":
            assert "***" in str(caught.value)
    other.on("POST /token", echo)
    async with Registry(QUICK) as registry:
        with pytest.raises(RegistryError) as caught:
            await registry.manifest(name(server), auth=Credentials(identity_token="identity-1"))
    assert not secret_in(str(caught.value) + repr(caught.value))
    assert not secret_in(repr(USER) + repr(Credentials(identity_token="identity-1", registry_token=TOKEN)))
    assert not secret_in(caplog.text)


async def test_cookies_are_not_kept(server: FaultServer) -> None:
    hold(server, CONTENT)
    server.on("GET /v2/a/b/manifests/1", attrs.evolve(served(hold(server)), headers={"Set-Cookie": "a=b; Path=/"}))
    async with Registry(QUICK) as registry:
        for _ in range(2):
            await registry.manifest(name(server))
    assert not any("cookie" in seen.headers for seen in server.seen)
