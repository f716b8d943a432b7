"""Which records of the history somebody wants.

A selection has up to six sides. A record is wanted when it fits every side that says anything; it fits a side when
it fits any of that side's words, but for labels, of which it must have all.

==========  ===============================================================================================
streams     a stream's name, or a kind of them that ends in a slash: ``container/``
types       a tag, ``container.started``, or the beginning of some that ends in a dot: ``container.``
images      an image's id or the beginning of it, or a name; without a tag, it is any tag's
labels      ``key``, or ``key=value``
actors      a user's number, or a client's name, with or without the version behind its slash
command     the command's id, or the beginning of it
==========  ===============================================================================================

The image and the labels of a container are those that it was created with, which its later records don't repeat:
whoever asks passes in how to look them up (``Origin``). A tag's record has the images that it names and the labels
of the one it names now; an image's record has its own; a pull's has the name that was asked for, and its last one
the image. Other records have neither, and fit no word about them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypedDict

import attrs

from lading.events.codec import SCHEMAS, event_tag
from lading.events.container import Created
from lading.events.envelope import Actor, Record
from lading.events.errors import Invalid
from lading.events.facts import Event
from lading.events.ids import image_stream
from lading.events.image import ImageAdded, Pushed, Tagged, Untagged
from lading.events.reference import parse_reference
from lading.events.transfer import PullFinished, PullRequested

__all__ = ["EVERYTHING", "Lookup", "Origin", "Selection", "SelectionWords", "is_image", "origin_of", "select"]

_HEX = re.compile(r"[0-9a-f]{1,64}")
_COMMAND = re.compile(r"[0-9a-f]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_MOST: Final = 256
_LONGEST: Final = 8192


@attrs.frozen
class Origin:
    """What a container or an image was made with, and never changes: the image's id, its name, the labels.

    Of a pull, it is the name that was asked for.
    """

    image: str
    image_name: str
    labels: Mapping[str, str]


Lookup = Callable[[str], Origin | None]
"""Stream -> what the container or image in it was made with; None if nothing of it is known."""


def origin_of(event: Event) -> Origin | None:
    """The origin that ``event`` itself tells: that of a container, an image or a pull that begins with it."""
    if isinstance(event, Created):
        return Origin(event.spec.image, event.spec.image_name, event.spec.labels)
    if isinstance(event, ImageAdded):
        return Origin(event.image, "", event.config.labels)
    if isinstance(event, PullRequested):
        return Origin("", event.reference, {})
    return None


@attrs.frozen
class Selection:
    """A checked selection, from ``select``; the one that says nothing wants everything."""

    streams: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    types: frozenset[str] = frozenset()
    images: tuple[str, ...] = ()
    labels: tuple[tuple[str, str | None], ...] = ()
    users: frozenset[int] = frozenset()
    clients: frozenset[str] = frozenset()
    command: str = ""

    @property
    def everything(self) -> bool:
        """Whether it wants every record."""
        return self == EVERYTHING

    def wants(self, record: Record, lookup: Lookup) -> bool:
        """Whether ``record`` fits every side. ``lookup`` is asked only when the rest fits and doesn't say it."""
        if self.command and not record.command.startswith(self.command):
            return False
        if self.types and event_tag(record.event) not in self.types:
            return False
        if self.streams or self.kinds:
            stream = record.stream
            if stream not in self.streams and not stream.startswith(self.kinds or ("\0",)):
                return False
        if (self.users or self.clients) and not self._acted(record.actor):
            return False
        return not (self.images or self.labels) or self._made_so(record, lookup)

    def _acted(self, actor: Actor) -> bool:
        client = actor.client
        return actor.uid in self.users or client in self.clients or client.partition("/")[0] in self.clients

    def _made_so(self, record: Record, lookup: Lookup) -> bool:
        event = record.event
        if isinstance(event, Tagged | Untagged | Pushed | PullFinished):
            known = lookup(image_stream(event.image)) if self.labels else None
            name = ""
            if not isinstance(event, PullFinished):
                name = event.name
            elif self.images and (asked := lookup(record.stream)) is not None:
                name = asked.image_name
            made = [Origin(event.image, name, known.labels if known else {})]
            if isinstance(event, Tagged) and event.previous:
                made.append(Origin(event.previous, event.name, made[0].labels))
        elif record.stream.startswith(("container/", "image/", "pull/")):
            one = origin_of(event) or lookup(record.stream)
            made = [] if one is None else [one]
        else:
            return False
        return any(self._from_image(origin) and self._labelled(origin.labels) for origin in made)

    def _from_image(self, origin: Origin) -> bool:
        return not self.images or any(is_image(word, origin.image, origin.image_name) for word in self.images)

    def _labelled(self, labels: Mapping[str, str]) -> bool:
        return all(key in labels and (value is None or labels[key] == value) for key, value in self.labels)

    def needles(self) -> tuple[tuple[bytes, ...], ...]:
        """What the stored bytes of every wanted record contain: one, at least, of each of these groups.

        For leaving a record out undecoded. It says nothing of images and labels, which are stored elsewhere.
        """
        groups = []
        if self.streams or self.kinds:
            groups.append((*self.streams, *self.kinds))
        if self.types:
            groups.append(tuple(self.types))
        if self.clients and not self.users:
            groups.append(tuple(self.clients))
        if self.command:
            groups.append((self.command,))
        return tuple(tuple(word.encode() for word in group) for group in groups)


EVERYTHING = Selection()


class SelectionWords(TypedDict, total=False):
    """What ``select`` takes, for whoever passes it on."""

    streams: Iterable[str]
    types: Iterable[str]
    images: Iterable[str]
    labels: Iterable[str]
    actors: Iterable[str | int]
    command: str


def select(
    *,
    streams: Iterable[str] = (),
    types: Iterable[str] = (),
    images: Iterable[str] = (),
    labels: Iterable[str] = (),
    actors: Iterable[str | int] = (),
    command: str = "",
) -> Selection:
    """The selection of these words, or ``Invalid`` for one that nothing could ever fit."""
    sides = {
        "stream": tuple(streams),
        "type": tuple(types),
        "image": tuple(images),
        "label": tuple(labels),
        "actor": tuple(map(str, actors)),
        "command": (command,) if command else (),
    }
    for side, words in sides.items():
        _check(side, words)
    exact = frozenset(word for word in sides["stream"] if not word.endswith("/"))
    if command and _COMMAND.fullmatch(command) is None:
        raise Invalid("command", command, "an id is 32 hexadecimal digits; the first ones will do")
    numbers = [word for word in sides["actor"] if _NUMBER.fullmatch(word)]
    return Selection(
        exact,
        tuple(sorted({*sides["stream"]} - exact)),
        frozenset(tag for word in sides["type"] for tag in _tags(word)),
        tuple(map(_image_word, sides["image"])),
        tuple(_label(word) for word in sides["label"]),
        frozenset(map(int, numbers)),
        frozenset(sides["actor"]) - frozenset(numbers),
        command,
    )


def _check(side: str, words: tuple[str, ...]) -> None:
    if len(words) > _MOST:
        raise Invalid(f"{side}s", f"{len(words)} of them", f"at most {_MOST} can be looked for at once")
    for word in words:
        if not word or len(word) > _LONGEST or "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise Invalid(
                side, word[:_LONGEST], f"it is empty, has more than {_LONGEST} characters, or is no text"
            )


def _tags(word: str) -> list[str]:
    if word in SCHEMAS:
        return [word]
    found = [tag for tag in SCHEMAS if word.endswith(".") and tag.startswith(word)]
    if not found:
        raise Invalid("type", word, f"give one of {', '.join(SCHEMAS)}, or the beginning of some: container.")
    return found


def _label(word: str) -> tuple[str, str | None]:
    key, equals, value = word.partition("=")
    if not key:
        raise Invalid("label", word, "give key or key=value")
    return key, value if equals else None


def _image_word(word: str) -> str:
    if _HEX.fullmatch(word.removeprefix("sha256:")) is None:
        parse_reference(word)
    return word


def is_image(word: str, image: str, name: str) -> bool:
    """Whether ``word`` is the id ``image``, its beginning, or ``name`` in another form or without its tag."""
    bare = word.removeprefix("sha256:")
    if _HEX.fullmatch(bare) and image.removeprefix("sha256:").startswith(bare):
        return True
    if word == name:
        return True
    if bare != word:
        return False
    try:
        wanted, known = parse_reference(word), parse_reference(name)
    except Invalid:  # it was made by an id, which is no name
        return False
    if (wanted.domain, wanted.path) != (known.domain, known.path):
        return False
    if wanted.digest is not None:
        return wanted.digest == known.digest
    return ":" not in word.rpartition("/")[2] or wanted.tag == known.tag
