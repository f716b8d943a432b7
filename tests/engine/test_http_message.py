"""Requests as values: targets, queries, Docker's booleans, strict JSON, and who gets which route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.engine.http.message import (
    Headers,
    HttpError,
    Query,
    Request,
    Response,
    path_and_query,
)
from lading.engine.http.router import Router
from lading.engine.http.unix_socket import Peer
from lading.events.strictjson import DEPTH_LIMIT, parse_object


class FakeExchange:
    """A body in given chunks; it can't reply."""

    def __init__(self, chunks: Sequence[bytes] = ()) -> None:
        self.chunks = list(chunks)

    async def receive_body(self) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def respond(self, *_: object) -> Any:
        raise AssertionError("who reads a request's body does not reply")

    def hijack(self, *_: object) -> Any:
        raise AssertionError("who reads a request's body does not take over the connection")


def request(method: str = "GET", target: str = "/", *chunks: bytes, headers: Headers | None = None) -> Request:
    path, query = path_and_query(target)
    peer = Peer(uid=0, gid=0, pid=1)
    return Request(method, target, path, query, headers or Headers([]), peer, "1.1", FakeExchange(chunks))


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a/b", "/a/b", {}),
        ("/a%2Fb%20c?x=1", "/a/b c", {"x": "1"}),
        ("/%C3%A9", "/é", {}),
        ("http://localhost/a?x=1", "/a", {"x": "1"}),
        ("http://localhost", "/", {}),
        ("/a?x=a+b%2B&y&=z&&x=2", "/a", {"x": "a b+", "y": "", "": "z"}),
        ("/a?q=1?2=3#f", "/a", {"q": "1?2=3"}),
    ],
)
def test_a_target_is_a_path_and_a_query(target: str, path: str, query: dict[str, str]) -> None:
    found, values = path_and_query(target)
    assert found == path
    assert {name: values.get(name) for name in values} == query


@pytest.mark.parametrize("target", ["*", "a/b", "/%ff", "/%zz", "/%4", "/a%00b", "/a%0d%0ab"])
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(HttpError) as caught:
        path_and_query(target)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        *[(f"f={text}", False) for text in ("", "0", "no", "false", "none", "FALSE", "No", "+none+")],
        *[(f"f={text}", True) for text in ("1", "true", "True", "yes", "2", "off", "x")],
        ("f", False),
        ("g=1", False),
    ],
)
def test_a_flag_is_dockers_boolean(raw: str, value: bool) -> None:
    assert Query(raw).flag("f") is value


def test_a_flag_that_is_absent_has_its_default() -> None:
    assert Query("").flag("f", default=True) is True
    assert Query("f=0").flag("f", default=True) is False


def test_a_query_has_all_values_and_raw_ones() -> None:
    query = Query("t=a&t=b&path=%ff%2fx")
    assert query.get_all("t") == ("a", "b")
    assert query.get("t") == "a"
    assert query.get_all("none") == ()
    assert query.get_bytes("path") == b"\xff/x"
    with pytest.raises(HttpError, match="UTF-8"):
        query.get("path")


@pytest.mark.parametrize("text", ["x", "1.5", "٣", "--1", "-", "1e3", "9" * 20, "-1", "101"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(HttpError):
        Query(f"n={text}").integer("n", 7, least=0, most=100)


def test_a_number_is_read_or_defaulted() -> None:
    assert Query("n=42").integer("n", 7) == 42
    assert Query("n=-1").integer("n", 7, least=-1) == -1
    assert Query("n=").integer("n", 7) == Query("").integer("n", 7) == 7


def test_filters_are_an_object() -> None:
    assert Query("f=%7B%22a%22%3A%5B%22b%22%5D%7D").json("f") == {"a": ["b"]}
    assert Query("f=").json("f") == {}
    with pytest.raises(HttpError, match="'f' is not valid"):
        Query("f=[1]").json("f")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_no_target_does_worse_than_a_400(text: str) -> None:
    try:
        _, query = path_and_query("/" + text)
        for name in query:
            query.flag(name)
            query.json(name)
    except HttpError as error:
        assert error.status == 400  # noqa: PT017 - most targets are fine


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"{} x", "Extra data"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":' + b"9" * 5000 + b"}", "limit"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\uDFFF":1}', "surrogate"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "BOM"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (nested(DEPTH_LIMIT + 1), "deeper"),
        (nested(100_000), "deeper"),
        (b'{"a":' + b"[" * 100_000, "deeper"),
    ],
)
def test_json_that_would_hurt_later_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_object(raw)


def test_json_is_read() -> None:
    assert parse_object(b'{"a":[1,2.5,null,true,"\\ud83d\\ude00"]}') == {"a": [1, 2.5, None, True, "😀"]}
    assert parse_object(nested(DEPTH_LIMIT))
    assert len(parse_object(b'{"a":[' + b"{}," * 200 + b"{}]}")["a"]) == 201


async def test_a_body_is_joined_streamed_or_parsed() -> None:
    assert await request("POST", "/", b"ab", b"c").body() == b"abc"
    assert [chunk async for chunk in request("POST", "/", b"ab", b"c").body_stream()] == [b"ab", b"c"]
    assert await request("POST", "/", b'{"a":', b"1}").json() == {"a": 1}
    assert await request("POST", "/", b" ").json(default={"b": 2}) == {"b": 2}
    with pytest.raises(HttpError, match="not valid"):
        await request("POST", "/").json()


async def test_a_body_over_the_limit_is_a_413_and_unread_if_announced() -> None:
    with pytest.raises(HttpError) as caught:
        await request("POST", "/", b"ab", b"cd").body(limit=3)
    assert caught.value.status == 413
    assert await request("POST", "/", b"abc").body(limit=3) == b"abc"
    announced = request("POST", "/", b"abcd", headers=Headers([(b"Content-Length", b"4")]))
    with pytest.raises(HttpError):
        await announced.body(limit=3)
    assert await announced.body() == b"abcd"


def test_headers_have_no_case_and_no_secrets_in_their_repr() -> None:
    headers = Headers([(b"X-Registry-Auth", b"secret"), (b"Connection", b"a,  B"), (b"connection", b"c")])
    assert headers["x-registry-auth"] == "secret"
    assert headers.tokens("Connection") == ("a", "b", "c")
    assert headers.get_all("connection") == ("a,  B", "c")
    assert headers.get("none") is None
    assert "secret" not in repr(headers)


def test_an_error_is_dockers_object() -> None:
    response = HttpError(405, "no", {"Allow": "GET"}).response()
    assert response.status == 405
    assert ("Allow", "GET") in response.headers
    assert response.body == b'{"message":"no"}\n'
    assert Response.json("\udcff").body == b'"\\udcff"\n'


def router(*routes: str) -> Router:
    """Each route answers with its pattern, its parameters and the version."""
    result = Router()
    for route in routes:
        method, pattern = route.split()

        async def handler(request: Request, route: str = route) -> Response:
            params = " ".join(f"{name}={value}" for name, value in request.params.items())
            return Response.text(f"{route}|{params}|{request.version}")

        result.add(method, pattern, handler)
    return result


async def routed(router: Router, method: str, target: str) -> str:
    reply = await router(request(method, target))
    assert isinstance(reply, Response)
    return reply.body.decode()


IMAGES = (
    "DELETE /images/{name:path}",
    "GET /images/{name:path}/json",
    "GET /images/json",
    "GET /images/{name:path}/get",
    "GET /images/get",
    "POST /images/{name:path}/tag",
    "GET /containers/{id}/json",
    "HEAD /_ping",
    "GET /_ping",
    "GET /{any}/odd",
)


@pytest.mark.parametrize("routes", [IMAGES, IMAGES[::-1]])
@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [
        ("GET", "/images/json", "GET /images/json||None"),
        ("GET", "/v1.41/images/json", "GET /images/json||(1, 41)"),
        ("GET", "/images/a/json", "GET /images/{name:path}/json|name=a|None"),
        (
            "GET",
            "/v1.24/images/localhost:5000/a/b/json",
            "GET /images/{name:path}/json|name=localhost:5000/a/b|(1, 24)",
        ),
        ("GET", "/images/a%2Fb/json", "GET /images/{name:path}/json|name=a/b|None"),
        ("DELETE", "/images/a/b", "DELETE /images/{name:path}|name=a/b|None"),
        ("DELETE", "/images/json", "DELETE /images/{name:path}|name=json|None"),
        ("GET", "/containers/x%20y/json", "GET /containers/{id}/json|id=x y|None"),
        ("HEAD", "/_ping", "HEAD /_ping||None"),
        ("GET", "/what/odd", "GET /{any}/odd|any=what|None"),
        ("GET", "/images/odd", "GET /{any}/odd|any=images|None"),
    ],
)
async def test_the_most_exact_route_wins_in_any_order(
    routes: tuple[str, ...], method: str, target: str, answer: str
) -> None:
    assert await routed(router(*routes), method, target) == answer


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/images", "/images/", "/containers/a/b/json", "/v1.41", "/v1.41/", "/v1/_ping"]
)
async def test_no_route_is_a_404(target: str) -> None:
    with pytest.raises(HttpError, match="page not found") as caught:
        await routed(router(*IMAGES), "GET", target)
    assert caught.value.status == 404


async def test_a_path_without_the_method_is_a_405_that_says_which() -> None:
    with pytest.raises(HttpError) as caught:
        await routed(router(*IMAGES), "POST", "/images/json")
    assert caught.value.status == 405
    assert caught.value.headers == (("Allow", "DELETE, GET"),)


@pytest.mark.parametrize("pattern", ["no/slash", "/a/{id", "/a/{id:int}", "/a/x{id}"])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="route"):
        router(f"GET {pattern}")


def test_a_route_is_added_once_also_as_a_decorator() -> None:
    found = Router()

    @found.route("GET", "/a")
    async def handler(request: Request) -> None: ...

    with pytest.raises(ValueError, match="already"):
        found.add("GET", "/a", handler)
