"""Image references: which are taken, what they mean, and that they mean the same when read again."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lading.events.errors import Invalid
from lading.events.ids import tag_stream
from lading.events.reference import Reference, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "domain", "path", "tag", "digest"),
    [
        ("nginx", "docker.io", "library/nginx", "latest", None),
        ("nginx:1.25", "docker.io", "library/nginx", "1.25", None),
        ("library/nginx", "docker.io", "library/nginx", "latest", None),
        ("docker.io/nginx", "docker.io", "library/nginx", "latest", None),
        ("docker.io/library/nginx:x", "docker.io", "library/nginx", "x", None),
        ("user/app", "docker.io", "user/app", "latest", None),
        ("a/b/c/d", "docker.io", "a/b/c/d", "latest", None),
        (f"nginx@{DIGEST}", "docker.io", "library/nginx", None, DIGEST),
        (f"nginx:1@{DIGEST}", "docker.io", "library/nginx", "1", DIGEST),
        ("ghcr.io/a/b", "ghcr.io", "a/b", "latest", None),
        ("ghcr.io/a", "ghcr.io", "a", "latest", None),
        ("localhost/a", "localhost", "a", "latest", None),
        ("localhost:5000/a:t", "localhost:5000", "a", "t", None),
        ("host:5000/a", "host:5000", "a", "latest", None),
        ("host:5000", "docker.io", "library/host", "5000", None),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest", None),
        ("[2001:db8::1]/a", "[2001:db8::1]", "a", "latest", None),
        ("192.168.0.1/a:t", "192.168.0.1", "a", "t", None),
        ("Host/a", "Host", "a", "latest", None),
        ("EXAMPLE.com/a", "EXAMPLE.com", "a", "latest", None),
        ("a-b.c-d/e", "a-b.c-d", "e", "latest", None),
        ("a__b/c.d/e-f/g--h", "docker.io", "a__b/c.d/e-f/g--h", "latest", None),
        ("a:_", "docker.io", "library/a", "_", None),
        ("a:A.b-C_9", "docker.io", "library/a", "A.b-C_9", None),
        ("a:" + "t" * 128, "docker.io", "library/a", "t" * 128, None),
        (f"{HEX}:t", "docker.io", f"library/{HEX}", "t", None),
        (HEX[:-1], "docker.io", f"library/{HEX[:-1]}", "latest", None),
        (HEX + "0", "docker.io", f"library/{HEX}0", "latest", None),
        (f"user/{HEX}", "docker.io", f"user/{HEX}", "latest", None),
    ],
)
def test_reference_means(text: str, domain: str, path: str, tag: str | None, digest: str | None) -> None:
    assert parse_reference(text) == Reference(domain, path, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "/", "a/", "/a", "a//b", "a:", ":t", "a@", "@", "a::b", "a:b:c", "a:b/c", "a@b", "docker.io/"),
        *("nginx\n", "nginx:t\n", "ghcr.io/a\n", "\nnginx", "ngi nx", "nginx :t", "nginx: t", "nginx\0"),
        *("Nginx", "user/App", "ghcr.io/A/b", "nGinx:t", "a/B"),
        *("-a", "a-", "_a", "a_", ".a", "a.", "a..b", "a___b", "a._b", "a-_b", "a/.b", "../a", "a/..", "a/../b"),
        *("a:.t", "a:-t", "a:t/u", "a:tä", "a:" + "t" * 129, "ä", "a٣", "ａ", "ghcr.io/а", "a:٣"),
        *("host:/a", "host:port/a", "host:٥/a", "host:-1/a", ".host/a", "host./a", "-host.x/a", "host-.x/a"),
        *("ho_st.x/a", "[::1/a", "::1]/a", "[]/a", "[::g]/a", "[::1]5000/a", "[::1]", "http://a/b", "a?b", "a#b"),
        *(f"a@{DIGEST}\n", f"a@{DIGEST.upper()}", f"a@{DIGEST}0", f"a@{DIGEST}@{DIGEST}", f"a@sha512:{HEX}{HEX}"),
        *(f"@{DIGEST}", HEX, f"a@{HEX}", "a" * 600, "x/" * 200 + "y"),
    ],
)
def test_what_is_not_a_reference_is_invalid(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_reference(text)
    assert refused.value.field in ("image reference", "digest")


def test_a_path_of_sha256_and_a_tag_of_digits_is_just_a_name() -> None:
    """As in Docker: without an ``@`` it is the repository sha256."""
    assert parse_reference(DIGEST) == Reference("docker.io", "library/sha256", HEX)


@pytest.mark.parametrize(
    ("text", "name", "repository", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx", "nginx:latest"),
        ("docker.io/user/a:1", "docker.io/user/a:1", "user/a", "user/a:1"),
        ("ghcr.io/library/a", "ghcr.io/library/a:latest", "ghcr.io/library/a", "ghcr.io/library/a:latest"),
        (f"a@{DIGEST}", "docker.io/library/a", "a", f"a@{DIGEST}"),
        (f"a:1@{DIGEST}", "docker.io/library/a:1", "a", f"a:1@{DIGEST}"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b", "library/a/b:latest"),
    ],
)
def test_full_and_familiar_forms(text: str, name: str, repository: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (reference.name, reference.repository, reference.familiar) == (name, repository, familiar)


components = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", fullmatch=True).filter(
    lambda text: len(text) < 20
)
labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
domains = st.builds(lambda host, tld, port: f"{host}.{tld}{port}", labels, labels, st.sampled_from(("", ":5000")))
paths = st.lists(components, min_size=1, max_size=3).map("/".join)
tails = st.sampled_from(("", ":t", ":V1.0_x", f"@{DIGEST}", f":t@{DIGEST}"))


@given(
    st.builds(lambda domain, path, tail: f"{domain}/{path}{tail}", domains | st.just("localhost"), paths, tails)
)
@example(f"docker.io/a/b:t@{DIGEST}")
def test_the_full_name_is_read_back_as_the_same_reference(text: str) -> None:
    reference = parse_reference(text)
    full = reference.name + (f"@{reference.digest}" if reference.digest else "")
    assert parse_reference(full) == reference


@given(st.lists(st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True), min_size=1, max_size=3).map("/".join), tails)
@example("library/a/b", ":t")
@example("library/a", "")
def test_the_familiar_name_is_read_back_as_the_same_reference(path: str, tail: str) -> None:
    """What Docker shows can be typed in again, and is the same image."""
    if path.startswith("localhost/"):
        return
    reference = parse_reference(path + tail)
    assert parse_reference(reference.familiar) == reference


@given(st.text(max_size=30) | st.text("aA0./:@-_[]\n", max_size=30))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        reference = parse_reference(text)
    except Invalid:
        return
    assert parse_reference(reference.name).path == reference.path


@pytest.mark.parametrize("text", ["a" * 250 + "." + "b" * 255 + "/c", "a.b/" + "/".join(["c" * 49] * 5) + ":t"])
def test_every_name_that_is_taken_fits_the_log(text: str) -> None:
    """LMDB's keys have at most 511 bytes, and a tag's stream is a key with a version behind it."""
    try:
        reference = parse_reference(text)
    except Invalid:
        return
    assert len(tag_stream(reference.name).encode()) + 9 <= 511
