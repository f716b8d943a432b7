"""Seals: a signature over the head of a log, by which any later change of what it covers is found.

The chain says that a history is consistent in itself; whoever can write the store can also write a new history
with a new chain. A seal that was made before, and is kept elsewhere, says what the chain was: with the public key
anybody can prove that the log still begins with exactly the records that were sealed. What is sealed::

    {"chain":"<hex>","format":"lading-seal","position":1234,"public_key":"<hex>",
     "recorded":"2026-01-01T00:00:00.000000000Z","sealed":"2026-01-02T00:00:00.000000000Z","store":"<id>","version":1}

(in one line, names sorted, no spaces). The signature (Ed25519, RFC 8032) is over the line ``lading-seal-v1``, a
newline, and these bytes; the seal file is the same object with ``signature`` in it, and a newline. ``recorded`` is
the time of the record at ``position``. Only ``check_seal`` says anything about a log: it takes the public key from
whoever asks, never from the seal.

``cryptography`` is imported only when something is signed or checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from lading.events.codec import GENESIS, decode_record
from lading.events.errors import Invalid, NotFound, SealInvalid
from lading.events.moments import utc_time
from lading.storage.recordlines import canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from lading.storage.log import Log

__all__ = ["Held", "Seal", "check_seal", "make_keys", "make_seal", "parse_seal", "seal_head"]

_DOMAIN = b"lading-seal-v1\n"
_NAME = "lading-seal"
_VERSION = 1
_LONGEST = 4096
_PAGE = 1000
_CHAIN = len(GENESIS)
_FORMS = {
    "chain": re.compile(r"[0-9a-f]{64}"),
    "public_key": re.compile(r"[0-9a-f]{64}"),
    "recorded": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", re.ASCII),
    "sealed": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", re.ASCII),
    "signature": re.compile(r"[0-9a-f]{128}"),
    "store": re.compile(r"[0-9a-f]{32}"),
}
_KEY = "give an Ed25519 key in PEM; `lading keygen FILE` or `openssl genpkey -algorithm ed25519` make one"


@attrs.frozen
class Seal:
    """What a seal says. ``recorded`` and ``sealed`` are RFC 3339 times, the rest of the texts hexadecimal."""

    store: str
    position: int
    chain: str
    recorded: str
    sealed: str
    public_key: str
    signature: str = ""

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return _DOMAIN + canonical(self._facts())

    @property
    def content(self) -> bytes:
        """The bytes of the seal's file."""
        return canonical(dict(sorted({**self._facts(), "signature": self.signature}.items()))) + b"\n"

    def _facts(self) -> dict[str, Any]:
        facts = attrs.asdict(self) | {"format": _NAME, "version": _VERSION}
        del facts["signature"]
        return dict(sorted(facts.items()))


@attrs.frozen
class Held:
    """A seal that holds: its facts, and the ``head`` that the log has now, at or past its position."""

    seal: Seal
    head: int


def make_keys() -> tuple[bytes, bytes]:
    """A new key pair as PEM: the private key (PKCS #8, not encrypted), and the public one."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def make_seal(private_key: bytes, store: str, position: int, chain: bytes, recorded: int, sealed: int) -> Seal:
    """The seal of a log whose record at ``position``, of the time ``recorded`` (ns UTC), has the chain ``chain``.

    ``private_key`` is PEM; ``sealed`` is the time now (ns UTC). ``Invalid`` for a key that is no Ed25519 key.
    """
    key = _private(private_key)
    public = key.public_key().public_bytes_raw().hex()
    seal = Seal(store, position, chain.hex(), utc_time(recorded), utc_time(sealed), public)
    seal = attrs.evolve(seal, signature=key.sign(seal.message).hex())
    return parse_seal(seal.content)


def seal_head(private_key: bytes, store: str, log: Log, sealed: int) -> Seal:
    """The seal of ``log``, of the store ``store``, as it is now. Proves nothing of what is before its last record.

    Raises ``NotFound`` for a log without records, ``StoreCorrupt`` for a last one that can't be read.
    """
    position = log.head()
    page = log.read_raw(position - 1, 1) if position else []
    if not page:
        raise NotFound("record to seal in the log of store", store)
    [(position, stored)] = page
    return make_seal(private_key, store, position, stored[-_CHAIN:], decode_record(stored, position).time, sealed)


def parse_seal(content: bytes) -> Seal:
    """The seal whose file has ``content``; its signature is not looked at. ``SealInvalid`` for anything else."""
    if len(content) > _LONGEST:
        raise SealInvalid("form", f"a seal has at most {_LONGEST} bytes, this has more")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise SealInvalid("form", "it is not JSON") from None
    if type(value) is not dict or value.get("format") != _NAME:
        raise SealInvalid("form", "it does not say that it is a seal")
    version = value.pop("version", None)
    if type(version) is not int or version < 1:
        raise SealInvalid("form", "it has no version")
    if version > _VERSION:
        why = f"it has version {version}; this release reads up to {_VERSION}: install a newer lading"
        raise SealInvalid("form", why)
    del value["format"]
    if value.keys() != {field.name for field in attrs.fields(Seal)}:
        raise SealInvalid("form", "it has not exactly the entries of a seal")
    for name, form in _FORMS.items():
        if type(value[name]) is not str or form.fullmatch(value[name]) is None:
            raise SealInvalid("form", f"its {name} is none")
    if type(value["position"]) is not int or not 1 <= value["position"] < 2**64:
        raise SealInvalid("form", "its position is none")
    seal = Seal(**value)
    if seal.content != content:
        raise SealInvalid("form", "it was changed: it is not written as a seal is")
    return seal


def check_seal(
    seal: Seal,
    public_key: bytes,
    log: Log,
    store: str,
    *,
    after: int = 0,
    chain: bytes = GENESIS,
    archived: bytes | None = None,
) -> Held:
    """Prove that ``log``, of the store ``store``, still has exactly the records that ``seal`` was made over.

    ``public_key`` (PEM) is the one to believe. The whole chain is walked, up to the sealed position: from the
    first record, or, if the log was compacted, from the one after position ``after``, whose chain is ``chain``.
    ``archived``: for a seal from before that, the chain at its position, as the archives prove it. What was
    appended since is not looked at.

    Raises ``SealInvalid`` whose ``fact`` is ``key``, ``signature``, ``store``, ``position`` or ``chain``, and
    ``Invalid`` for a ``public_key`` that is no Ed25519 key.
    """
    _check_signature(seal, _public(public_key))
    if seal.store != store:
        raise SealInvalid("store", f"it is of store {seal.store}, and this is store {store}")
    head = log.head()
    if seal.position > head:
        raise SealInvalid("position", f"records up to {seal.position} were sealed, and the log ends at {head}")
    if seal.position < after and archived is None:
        raise SealInvalid("position", f"records up to {after} were moved to an archive: check the seal with that")
    found = archived if seal.position < after else _walk(log, after, chain, seal.position)
    if found is None or found.hex() != seal.chain:
        why = "the log is consistent in itself, but this or an earlier record is not the one that was sealed"
        raise SealInvalid("chain", why, seal.position)
    return Held(seal, head)


def _walk(log: Log, after: int, chain: bytes, last: int) -> bytes:
    """The chain at position ``last``, computed from every record after ``after``."""
    position = after
    while position < last:
        page = log.read_raw(position, min(_PAGE, last - position))
        if not page:
            raise SealInvalid("chain", "the record is missing", position + 1)
        for at, stored in page:
            position += 1
            if at != position:
                raise SealInvalid("chain", "the record is missing", position)
            chain = hashlib.sha256(chain + stored[:-_CHAIN]).digest()
            if chain != stored[-_CHAIN:]:
                raise SealInvalid("chain", "the record does not follow from the one before it", position)
    return chain


def _check_signature(seal: Seal, key: Ed25519PublicKey) -> None:
    from cryptography.exceptions import InvalidSignature

    own = key.public_bytes_raw().hex()
    if seal.public_key != own:
        raise SealInvalid("key", f"it was made with the key {seal.public_key[:16]}..., not with {own[:16]}...")
    try:
        key.verify(bytes.fromhex(seal.signature), seal.message)
    except InvalidSignature:
        raise SealInvalid("signature", "what it says is not what was signed with that key") from None


def _private(pem: bytes) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise Invalid("private key", "", f"it is encrypted with a password; {_KEY}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid("private key", "", f"it can't be read as one; {_KEY}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid("private key", _kind(key), f"only Ed25519 keys seal; {_KEY}")
    return key


def _public(pem: bytes) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid("public key", "", "it can't be read as one; give the PEM file that ends in .pub") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid("public key", _kind(key), "only Ed25519 keys seal; give the one that belongs to the seal")
    return key


def _kind(key: object) -> str:
    """``RSA`` for what is called _RSAPrivateKey or RSAPublicKey."""
    return type(key).__name__.lstrip("_").removesuffix("PrivateKey").removesuffix("PublicKey")
