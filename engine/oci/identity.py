"""Who a container runs as: Docker's ``User`` string, read against the container's own files.

The string is ``user``, ``user:group`` or empty, each part a name or a number (moby's
``github.com/moby/sys/user``, GetExecUser; passwd(5), group(5)). The files are the image's, so they are
hostile: they are opened inside the root with openat2(2), only if they are regular files, only up to 10 MiB,
and their lines end at a line feed and at nothing else. The image can't have a host file read, can't make the
engine wait on a fifo, touch a device, or fill its memory.

A number is ASCII digits and at most 2147483647; it is never looked up as a name, so an entry *called* 1000
can't make ``USER 1000`` into root. What only resembles a number (``+1``, ``1_000``, ``0x0``, other scripts'
digits) is refused, because the next program to read it may take it for one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from lading.events.errors import HostError, Invalid
from lading.storage import linux

__all__ = ["MAX_ID", "Identity", "resolve", "resolve_groups"]

MAX_ID: Final = 2**31 - 1

_FILE_LIMIT: Final = 10 * 1024 * 1024
_MAX_GROUPS: Final = 65536  # NGROUPS_MAX, setgroups(2)
_NUMBER: Final = re.compile(rb"[0-9]+")
_NAME: Final = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")
_LIKE_A_NUMBER: Final = re.compile(rb"[0-9][0-9_]*|0[xXoObB][0-9A-Fa-f_]*")
_BLANKS: Final = b" \t\r\v\f"
_DEFAULT_HOME: Final = "/"


@attrs.frozen
class Identity:
    """Numbers for the runtime. ``additional_gids`` has ``gid`` first, then exactly what /etc/group says.

    ``home`` is an absolute path, "/" when the files name none.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


@attrs.frozen
class _Account:
    name: bytes
    uid: int
    gid: int
    home: str


@attrs.frozen
class _Group:
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def _number(word: bytes) -> int | None:
    """The id that ``word`` is, or None when it isn't one or is out of range."""
    # The length comes first: Python refuses to convert thousands of digits.
    if _NUMBER.fullmatch(word) is None or len(word.lstrip(b"0")) > 10:
        return None
    value = int(word)
    return value if value <= MAX_ID else None


def _read(root: int, path: bytes, user: str) -> bytes:
    """The bytes of ``path`` inside the directory ``root``; empty when there is no such file."""
    try:
        found = linux.openat2(
            path, os.O_PATH, resolve=linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS, dir_fd=root
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return b""
        if error.errno == errno.ELOOP:
            raise Invalid("user", user, f"the image's /{path.decode()} is a loop of links") from None
        raise HostError("open the container's", f"/{path.decode()}", error.errno or 0) from error
    try:
        # O_PATH first: opening a device for real may already do something (rewind, reset, arm a watchdog).
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise Invalid("user", user, f"the image's /{path.decode()} is not a regular file")
        try:
            fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError("read the container's", f"/{path.decode()}", error.errno or 0) from error
    finally:
        os.close(found)
    with open(fd, "rb", buffering=0) as file:
        # A sparse file may claim a terabyte; both its claim and what it yields are bounded.
        if os.fstat(fd).st_size <= _FILE_LIMIT:
            content = bytearray()
            while len(content) <= _FILE_LIMIT and (chunk := file.read(_FILE_LIMIT + 1 - len(content))):
                content += chunk
            if len(content) <= _FILE_LIMIT:
                return bytes(content)
    raise Invalid("user", user, f"the image's /{path.decode()} is larger than {_FILE_LIMIT} bytes")


def _lines(content: bytes, needle: bytes) -> Iterator[list[bytes]]:
    """The fields of each line with ``needle`` in it that is neither a comment nor holds a NUL.

    ``needle`` saves the parsing of lines that can't matter; one that contains it need not match.
    """
    # Not splitlines(): a form feed or a carriage return inside a field would begin a forged line.
    for line in content.split(b"\n"):
        if needle in line and b"\0" not in line:
            line = line.strip(_BLANKS)
            if not line.startswith(b"#"):
                yield line.split(b":")


def _accounts(content: bytes, needle: bytes) -> Iterator[_Account]:
    for fields in _lines(content, needle):
        if len(fields) < 4 or not fields[0]:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        home = _DEFAULT_HOME
        if len(fields) > 5 and fields[5].startswith(b"/"):
            try:
                home = fields[5].decode()
            except UnicodeDecodeError:
                # A runtime's configuration is UTF-8 and couldn't carry it.
                home = _DEFAULT_HOME
        yield _Account(fields[0], uid, gid, home)


def _groups(content: bytes, needle: bytes) -> Iterator[_Group]:
    for fields in _lines(content, needle):
        if len(fields) < 3 or not fields[0]:
            continue
        gid = _number(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(b",")) if len(fields) > 3 else ())


def _part(kind: str, word: str, user: str) -> tuple[bytes, int | None]:
    """One half of the string as bytes, and as a number if it is one. Refuses all that is neither."""
    text = word.encode(errors="surrogateescape") if word.isascii() else b""
    if _NUMBER.fullmatch(text):
        number = _number(text)
        if number is None:
            raise Invalid("user", user, f"a {kind} id is at most {MAX_ID}")
        return text, number
    if _NAME.fullmatch(text) is None or _LIKE_A_NUMBER.fullmatch(text):
        raise Invalid("user", user, f"the {kind} should be a name in ASCII or a plain number from 0 to {MAX_ID}")
    return text, None


def resolve(rootfs: str, user: str) -> Identity:
    """The identity that ``user`` has in the container whose root is the directory ``rootfs``.

    As Docker: "" is uid 0; a number that /etc/passwd doesn't know has gid 0; the first matching entry wins;
    a user without an explicit group also gets each group that lists the user's name, and with one gets that
    group alone. Lines that don't parse are passed over. Blocks for two small reads; changes nothing.

    Raises :class:`Invalid` (field ``user``) for a malformed string, a name that the files don't have, or a
    file that is not a regular one or too large; :class:`HostError` when the machine refuses a read.
    """
    user_word, colon, group_word = user.partition(":")
    if colon and not user_word:
        raise Invalid("user", user, "there is no user before the colon")
    name, uid = _part("user", user_word, user) if user_word else (b"", 0)
    group_name, gid = _part("group", group_word, user) if group_word else (b"", None)
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError("open the container's root", rootfs, error.errno or 0) from error
    try:
        needle = name if uid is None else b"%d" % uid
        accounts = _accounts(_read(root, b"etc/passwd", user), needle)
        account = next(
            (each for each in accounts if (each.name == name if uid is None else each.uid == uid)), None
        )
        if account is None:
            if uid is None:
                raise Invalid("user", user, f"unable to find user {user_word}: no matching entries in passwd file")
            account = _Account(b"", uid, 0, _DEFAULT_HOME)
        if gid is not None or (not group_name and not account.name):
            groups: list[_Group] = []
        else:
            groups = list(_groups(_read(root, b"etc/group", user), group_name or account.name))
    finally:
        os.close(root)
    extra: list[int] = []
    if not group_word:
        gid = account.gid
        extra = [group.gid for group in groups if account.name in group.members]
    elif gid is None:
        gid = next((group.gid for group in groups if group.name == group_name), None)
        if gid is None:
            raise Invalid("user", user, f"unable to find group {group_word}: no matching entries in group file")
    gids = tuple(dict.fromkeys((gid, *extra)))
    if len(gids) > _MAX_GROUPS:
        raise Invalid("user", user, f"it is in {len(gids)} groups; the kernel's limit is {_MAX_GROUPS}")
    return Identity(account.uid, gid, gids, account.home)


def resolve_groups(rootfs: str, groups: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers of ``groups`` (names, or numbers as they are) in the container with root ``rootfs``, each once.

    Raises as ``resolve`` does, for the field ``group``. Reads the file only for a name.
    """
    parts = [_part("group", group, group) for group in groups]
    known: dict[bytes, int] = {}
    if any(number is None for _, number in parts):
        try:
            root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError("open the container's root", rootfs, error.errno or 0) from error
        try:
            content = _read(root, b"etc/group", ",".join(groups))
        finally:
            os.close(root)
        for group in reversed(list(_groups(content, b""))):  # so that the first of a name is the one that counts
            known[group.name] = group.gid
    found = []
    for name, number in parts:
        gid = known.get(name) if number is None else number
        if gid is None:
            raise Invalid("group", name.decode(), "unable to find it: no matching entries in group file")
        found.append(gid)
    return tuple(dict.fromkeys(found))
