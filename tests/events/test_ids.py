"""Identifiers: matched whole, ASCII only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from strategies import container_ids, container_names, digests

from lading.events.errors import Invalid
from lading.events.ids import (
    chain_id,
    check_container_id,
    check_container_name,
    check_digest,
    container_stream,
    image_stream,
    layer_stream,
    tag_stream,
)

HEX = "0123456789abcdef" * 4


@given(container_ids, digests, container_names)
def test_well_formed_identifiers_come_back_unchanged(container: str, digest: str, name: str) -> None:
    assert check_container_id(container) == container
    assert check_digest(digest) == digest
    assert check_container_name(name) == name


@pytest.mark.parametrize(
    "text",
    ["", HEX[1:], HEX + "0", HEX.upper(), HEX + "\n", "\n" + HEX, "g" * 64, "٣" * 64, "０" * 64, HEX[:-1] + " "],
)
def test_a_container_id_is_64_lower_case_digits(text: str) -> None:
    with pytest.raises(Invalid, match="64 lower-case hexadecimal digits") as refused:
        check_container_id(text)
    assert (refused.value.field, refused.value.value) == ("container id", text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX}\n",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}{HEX}",
        f"sha256:{HEX}/..",
        f"sha256:../{HEX[3:]}",
        f"sha256:{'٣' * 64}",
        f" sha256:{HEX}",
        "sha256:",
    ],
)
def test_a_digest_is_sha256_and_64_digits(text: str) -> None:
    """Nothing that could climb out of a directory, or be a second spelling of the same digest."""
    with pytest.raises(Invalid, match="a digest is"):
        check_digest(text)


@pytest.mark.parametrize("text", ["ab", "A9", "0_", "a.b-c_d", "a" * 255, "9..", HEX])
def test_names_that_docker_takes(text: str) -> None:
    assert check_container_name(text) == text


@pytest.mark.parametrize(
    "text", ["", "a", ".a", "_a", "-a", "a\n", "ab\n", "a b", "a/b", "a:b", "a\0b", "äb", "a٣", "a" * 256, "/ab"]
)
def test_names_that_docker_refuses(text: str) -> None:
    with pytest.raises(Invalid, match="two to 255 characters"):
        check_container_name(text)


def test_long_values_are_shortened_in_the_message() -> None:
    with pytest.raises(Invalid) as refused:
        check_container_name("x" * 10_000)
    assert len(str(refused.value)) < 300


def test_chain_ids_follow_the_image_spec() -> None:
    """ChainID(L0) = DiffID(L0); ChainID(L0|..|Ln) = sha256(ChainID(L0|..|Ln-1) + " " + DiffID(Ln))."""
    one, two, three = (f"sha256:{digit * 64}" for digit in "123")
    assert chain_id(None, one) == one
    below = "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    assert chain_id(one, two) == below
    assert chain_id(chain_id(one, two), three) == (
        "sha256:" + hashlib.sha256(f"{below} {three}".encode()).hexdigest()
    )
    assert chain_id(one, two) != chain_id(two, one)


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (container_stream, "container/x"),
        (image_stream, "image/x"),
        (layer_stream, "layer/x"),
        (tag_stream, "tag/x"),
    ],
)
def test_streams_are_named_by_what_they_hold(stream: Callable[[str], str], name: str) -> None:
    """Stored in every record: a change here is a change of format."""
    assert stream("x") == name
