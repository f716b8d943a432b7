"""One layer as a stream: decompressed, hashed on both sides, and bounded.

The compression is told by the first bytes and never by a file name or media type. Decoding is done in
this process with the standard library; no external program ever runs on these bytes. A new format is one more
:class:`Decoder` and one line in ``_FORMATS``.

Sources: OCI image-spec layer.md (tar, tar+gzip); RFC 1952 for gzip: a stream is a series of members.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from lading.events.errors import BadLayer, HostError, ImageInvalid
from lading.storage.tar import CHUNK, ByteSource

__all__ = ["ByteSource", "Decoder", "LayerStream"]

_SNIFF: Final = 16  # bytes needed to tell any of the formats
_SUPPORTED = "uncompressed tar and gzip"


class Decoder(Protocol):
    """Turns compressed pieces into plain ones, holding at most its window and what it was last fed."""

    def decode(self, raw: bytes, most: int) -> bytes:
        """At most ``most`` plain bytes from what was fed before and ``raw``; feed b"" while it has ``pending``.

        Raises :class:`ImageInvalid` when the data is not in the format.
        """
        ...

    @property
    def pending(self) -> bool:
        """Whether plain bytes may come without more raw ones."""
        ...

    def finish(self) -> None:
        """Called at the end of the raw stream; raises :class:`ImageInvalid` if that is too early."""
        ...


class _Gzip:
    """Every member of a gzip stream; zeros after the last are padding, anything else is refused."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._raw = b""
        self._padding = False

    @property
    def pending(self) -> bool:
        return bool(self._raw)

    def decode(self, raw: bytes, most: int) -> bytes:
        raw = self._raw + raw if self._raw else raw
        self._raw = b""
        if raw and (self._member.eof or self._padding):
            raw = self._next_member(raw)
        if not raw:
            return b""
        try:
            plain = self._member.decompress(raw, most)
        except zlib.error as error:
            raise BadLayer(f"its gzip compression is corrupt ({error})") from error
        self._raw = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return plain

    def _next_member(self, raw: bytes) -> bytes:
        if not self._padding and raw[:1] == b"\x1f":
            self._member = zlib.decompressobj(wbits=31)
            return raw
        if raw.strip(b"\0"):
            raise BadLayer("there is something else after the end of its gzip data")
        self._padding = True
        return b""

    def finish(self) -> None:
        if not self._member.eof and not self._padding:
            raise BadLayer("its gzip data is cut off")


class _Plain:
    pending = False

    def decode(self, raw: bytes, most: int) -> bytes:
        return raw

    def finish(self) -> None:
        pass


_FORMATS: dict[str, tuple[re.Pattern[bytes], Callable[[], Decoder] | None]] = {
    "gzip": (re.compile(rb"\x1f\x8b\x08"), _Gzip),
    "zstd": (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), None),
    "xz": (re.compile(rb"\xfd7zXZ\0"), None),
    "bzip2": (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), None),
    "lz4": (re.compile(rb"\x04\x22\x4d\x18"), None),
    "zip": (re.compile(rb"PK\x03\x04"), None),
}


class LayerStream:
    """The plain bytes of the layer that ``source`` gives, compressed or not.

    ``stop`` is called before each piece is read from ``source`` or decoded; what it raises goes through.
    ``max_bytes`` bounds the plain bytes. When :meth:`read` has given b"", ``digest`` and ``compressed_size``
    are of the bytes as they came and ``diff_id`` and ``size`` of the plain ones, all of them to the very end.
    Raises :class:`ImageInvalid` for a wrong or unsupported format, :class:`HostError` when ``source`` raises
    OSError, and whatever else ``source`` raises.
    """

    def __init__(self, source: ByteSource, *, max_bytes: int, stop: Callable[[], None] = lambda: None) -> None:
        self.compression = ""
        self.compressed_size = 0
        self.size = 0
        self._source = source
        self._max_bytes = max_bytes
        self._stop = stop
        self._decoder: Decoder | None = None
        self._ended = False
        self._raw_hash = hashlib.sha256()
        self._plain_hash = self._raw_hash  # the same bytes need hashing only once

    @property
    def digest(self) -> str:
        """Of the bytes as they came, ``sha256:<hex>``."""
        return f"sha256:{self._raw_hash.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Of the plain bytes, ``sha256:<hex>``."""
        return f"sha256:{self._plain_hash.hexdigest()}"

    def read(self, n: int, /) -> bytes:
        """1 to ``n`` plain bytes (the first time perhaps a few more), or b"" at the end."""
        if self._decoder is None:
            self._decoder, raw = self._sniff()
        else:
            raw = b"" if self._decoder.pending else self._read_raw(n)
        while True:
            if not raw and not self._decoder.pending:
                if not self._ended:
                    self._decoder.finish()
                    self._ended = True
                return b""
            plain = self._decoder.decode(raw, n)
            if plain:
                break
            raw = b"" if self._decoder.pending else self._read_raw(n)
        self.size += len(plain)
        if self.size > self._max_bytes:
            raise BadLayer(f"it is larger than the limit of {self._max_bytes} bytes")
        if self._plain_hash is not self._raw_hash:
            self._plain_hash.update(plain)
        return plain

    def _read_raw(self, n: int) -> bytes:
        self._stop()
        try:
            raw = self._source.read(min(n, CHUNK))
        except OSError as error:
            raise HostError("read", "the layer", error.errno or 0) from error
        self._raw_hash.update(raw)
        self.compressed_size += len(raw)
        return raw

    def _sniff(self) -> tuple[Decoder, bytes]:
        start = b""
        while len(start) < _SNIFF and (more := self._read_raw(CHUNK)):
            start += more
        for name, (magic, decoder) in _FORMATS.items():
            if magic.match(start):
                if decoder is None:
                    raise ImageInvalid(
                        f"the layer is {name} data, which is not supported; supported are {_SUPPORTED}: "
                        "build or pull the image with one of those"
                    )
                self.compression = name
                self._plain_hash = hashlib.sha256()
                return decoder(), start
        self.compression = "none"
        return _Plain(), start
