"""A seal holds for exactly the records it was made over, and for no others, however they were changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pasts import STORE, Stored, rechained, some_past

from lading.events.codec import GENESIS
from lading.events.errors import Invalid, LadingError, NotFound, SealInvalid
from lading.storage.seal import Held, Seal, check_seal, make_keys, make_seal, parse_seal, seal_head

PRIVATE, PUBLIC = make_keys()
PAST = some_past()
NOW = 1_800_000_000_123_456_789


@attrs.frozen
class Kept:
    """The part of a log that seals look at, with what it holds given."""

    records: Stored

    def head(self) -> int:
        return self.records[-1][0] if self.records else 0

    def read_raw(self, after: int = 0, limit: int = 1000) -> Stored:
        return [each for each in self.records if each[0] > after][:limit]


def sealed(records: Stored = PAST, key: bytes = PRIVATE) -> Seal:
    return seal_head(key, STORE, Kept(records), NOW)  # type: ignore[arg-type]


def check(seal: Seal, records: Stored, key: bytes = PUBLIC, store: str = STORE, **base: Any) -> Held:
    return check_seal(seal, key, Kept(records), store, **base)  # type: ignore[arg-type]


SEAL = sealed()


def test_a_seal_holds_for_what_it_was_made_over_and_says_so() -> None:
    assert check(SEAL, PAST) == Held(SEAL, len(PAST))
    assert (SEAL.store, SEAL.position, SEAL.chain) == (STORE, len(PAST), PAST[-1][1][-32:].hex())
    assert SEAL.sealed == "2027-01-15T08:00:00.123456789Z"
    assert SEAL.recorded == "2026-01-01T00:00:00.000000009Z"
    assert parse_seal(SEAL.content) == SEAL
    assert SEAL.content.isascii()
    assert SEAL.content.count(b"\n") == 1


def test_a_seal_holds_while_the_log_grows() -> None:
    for position in range(1, len(PAST) + 1):
        assert check(sealed(PAST[:position]), PAST).head == len(PAST)


def test_of_a_compacted_log_what_is_left_is_checked() -> None:
    """From a base position on, whose chain somebody else vouches for; not before it, nor with another chain."""
    for after in range(len(PAST)):
        chain = PAST[after - 1][1][-32:] if after else GENESIS
        assert check(SEAL, PAST[after:], after=after, chain=chain).head == len(PAST)
    with pytest.raises(SealInvalid) as refused:
        check(SEAL, PAST[3:], after=3, chain=b"x" * 32)
    assert (refused.value.fact, refused.value.position) == ("chain", 4)
    with pytest.raises(SealInvalid) as refused:
        check(sealed(PAST[:2]), PAST[3:], after=3, chain=PAST[2][1][-32:])
    assert refused.value.fact == "position"


def changed_body(past: Stored, at: int, field: int, value: Any) -> Stored:
    body = msgpack.unpackb(past[at][1][:-32])
    body[field] = value
    return [*past[:at], (at + 1, msgpack.packb(body) + past[at][1][-32:]), *past[at + 1 :]]


def swapped(past: Stored, at: int) -> Stored:
    return [*past[:at], (at + 1, past[at + 1][1]), (at + 2, past[at][1]), *past[at + 2 :]]


OTHER = some_past(3)
TAMPERED: dict[str, Callable[[int], Stored]] = {
    "altered": lambda at: changed_body(PAST, at, 5, 1),
    "altered by who asked": lambda at: changed_body(PAST, at, 6, [1, 1, 1, ""]),
    "altered and chained anew": lambda at: rechained(changed_body(PAST, at, 5, 1)),
    "removed": lambda at: PAST[:at] + PAST[at + 1 :],
    "removed and counted anew": lambda at: rechained(PAST[:at] + PAST[at + 1 :] + OTHER[len(PAST) :]),
    "reordered": lambda at: swapped(PAST, min(at, len(PAST) - 2)),
    "reordered and chained anew": lambda at: rechained(swapped(PAST, min(at, len(PAST) - 2))),
    "replaced": lambda at: [*PAST[:at], (at + 1, OTHER[-1][1]), *PAST[at + 1 :]],
    "inserted": lambda at: rechained([*PAST[:at], OTHER[-1], *PAST[at:]]),
    "its chain altered": lambda at: [
        *PAST[:at],
        (at + 1, PAST[at][1][:-1] + bytes((PAST[at][1][-1] ^ 1,))),
        *PAST[at + 1 :],
    ],
}


@pytest.mark.parametrize("at", range(len(PAST)))
@pytest.mark.parametrize("how", TAMPERED)
def test_every_record_that_is_not_the_one_that_was_sealed_is_found(how: str, at: int) -> None:
    """Also when everything after it was made consistent again, as somebody would who can write the store."""
    with pytest.raises(SealInvalid) as refused:
        check(SEAL, TAMPERED[how](at))
    assert refused.value.fact == "chain" or (how, refused.value.fact) == ("removed", "position")
    if "anew" in how or how == "inserted":
        assert refused.value.position in (at + 1, len(PAST))
    elif refused.value.position:
        assert refused.value.position - at in (0, 1, 2)


def test_a_truncated_log_is_found() -> None:
    for length in range(len(PAST)):
        with pytest.raises(
            SealInvalid, match=rf"up to {len(PAST)} were sealed, and the log ends at {length}"
        ) as no:
            check(SEAL, PAST[:length])
        assert no.value.fact == "position"


def test_another_stores_log_is_found() -> None:
    """By its identity; and by its records, should it claim the same one."""
    other = "1" * 32
    with pytest.raises(SealInvalid) as refused:
        check(SEAL, some_past(store=other), store=other)
    assert refused.value.fact == "store"
    with pytest.raises(SealInvalid) as refused:
        check(SEAL, some_past(store=other))
    assert refused.value.fact == "chain"


def test_a_seal_from_another_key_is_found() -> None:
    """Also if it claims to be of the right one: what it says of its key is never believed."""
    private, public = make_keys()
    forged = sealed(key=private)
    assert check(forged, PAST, key=public).seal == forged
    with pytest.raises(SealInvalid) as refused:
        check(forged, PAST)
    assert refused.value.fact == "key"
    with pytest.raises(SealInvalid) as refused:
        check(attrs.evolve(forged, public_key=SEAL.public_key), PAST)
    assert refused.value.fact == "signature"


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Seal)])
def test_an_edited_seal_is_found_whichever_fact_was_edited(field: str) -> None:
    value = getattr(SEAL, field)
    other = value - 1 if isinstance(value, int) else value[:-2] + ("0" if value[-2] != "0" else "1") + value[-1:]
    edited = parse_seal(attrs.evolve(SEAL, **{field: other}).content)
    assert edited != SEAL
    with pytest.raises(SealInvalid) as refused:
        check(edited, PAST)
    assert refused.value.fact == ("key" if field == "public_key" else "signature")


def test_every_changed_character_of_a_seal_file_is_found() -> None:
    content = SEAL.content
    for at in range(len(content)):
        for other in (content[at] ^ 1, content[at] ^ 0x20):
            with pytest.raises(SealInvalid):
                check(parse_seal(content[:at] + bytes((other,)) + content[at + 1 :]), PAST)
        with pytest.raises(SealInvalid):
            parse_seal(content[:at])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b"x" * 5000,
        b"\xff",
        b'{"format":"lading-export"}',
        b'{"format":"lading-seal"}',
        b'{"format":"lading-seal","version":true}',
        SEAL.content.replace(b'"version":1', b'"version":2'),
        SEAL.content.replace(b'"version":1', b'"version":0'),
        SEAL.content.replace(b'"version":1', b'"more":1,"version":1'),
        SEAL.content.replace(b'{"chain"', b'{ "chain"'),
        SEAL.content.replace(b'{"chain"', b'{"version":1,"chain"'),
        SEAL.content.replace(b'"position":10', b'"position":true'),
        SEAL.content.replace(b'"position":10', b'"position":1' + b"0" * 3000),
        SEAL.content.replace(b'"position":10', b'"position":0'),
        SEAL.content.replace(SEAL.store.encode(), "٠".encode() * 32),
        SEAL.content + b"\n",
    ],
)
def test_what_is_no_seal_is_refused(content: bytes) -> None:
    with pytest.raises(SealInvalid) as refused:
        parse_seal(content)
    assert refused.value.fact == "form"


@given(
    st.binary(max_size=300)
    | st.builds(lambda at, more: SEAL.content[:at] + more, st.integers(0, 500), st.binary())
)
def test_a_fuzzed_seal_raises_nothing_but_our_own(content: bytes) -> None:
    try:
        assert parse_seal(content) == SEAL
    except SealInvalid:
        return


@given(st.binary(max_size=200) | st.builds(lambda at, more: PRIVATE[:at] + more, st.integers(0, 120), st.binary()))
def test_a_fuzzed_key_raises_nothing_but_our_own(pem: bytes) -> None:
    for use in (lambda: sealed(key=pem), lambda: check(SEAL, PAST, key=pem)):
        try:
            use()
        except LadingError:
            continue


def openssl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=stdin, check=True, capture_output=True).stdout


def test_openssl_keys_seal_and_openssl_checks(tmp_path: Path) -> None:
    """A key that openssl made works, and a seal can be checked without this program at all."""
    private = openssl("genpkey", "-algorithm", "ed25519")
    public = openssl("pkey", "-pubout", stdin=private)
    seal = sealed(key=private)
    assert check(seal, PAST, key=public).seal == seal
    facts = {name: value for name, value in json.loads(seal.content).items() if name != "signature"}
    message = b"lading-seal-v1\n" + json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    for name, content in (("pub", public), ("msg", message), ("sig", bytes.fromhex(seal.signature))):
        (tmp_path / name).write_bytes(content)
    files = {name: str(tmp_path / name) for name in ("pub", "msg", "sig")}
    words = ("-verify", "-pubin", "-inkey", files["pub"], "-rawin", "-in", files["msg"], "-sigfile", files["sig"])
    assert b"Verified Successfully" in openssl("pkeyutl", *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"), "'RSA'.*only Ed25519 keys seal"),
        (("-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "'EC'.*only Ed25519"),
        (("-algorithm", "ed448"), "'Ed448'.*only Ed25519"),
        (("-algorithm", "x25519"), "'X25519'.*only Ed25519"),
        (("-algorithm", "ed25519", "-aes256", "-pass", "pass:x"), "encrypted with a password"),
    ],
)
def test_other_keys_are_refused_in_words(words: tuple[str, ...], why: str) -> None:
    private = openssl("genpkey", *words)
    with pytest.raises(Invalid, match=why):
        sealed(key=private)
    if "password" not in why:
        with pytest.raises(Invalid, match=why):
            check(SEAL, PAST, key=openssl("pkey", "-pubout", stdin=private))


@pytest.mark.parametrize(
    "pem", [b"", b"x", PUBLIC, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key_is_refused(pem: bytes) -> None:
    with pytest.raises(Invalid, match="lading keygen"):
        sealed(key=pem)


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    with pytest.raises(Invalid, match=r"ends in \.pub"):
        check(SEAL, PAST, key=PRIVATE)


def test_an_empty_log_has_nothing_to_seal() -> None:
    with pytest.raises(NotFound):
        sealed([])


def test_times_beyond_the_calendar_are_no_seal() -> None:
    """What can't be written as a seal is not made."""
    assert make_seal(PRIVATE, STORE, 1, GENESIS, 2**63 - 1, 2**64 - 1).recorded.startswith("2262-")
