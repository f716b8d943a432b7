"""Following a selection: exactly what a plain pass over the whole history would have picked."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from growing import SPEC, STREAM, grow
from histories import histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.engine.history.follow import History
from lading.engine.history.journal import Journal, open_journal
from lading.events.envelope import Actor, Record
from lading.events.ids import CommandId, container_stream
from lading.events.selection import select
from lading.storage.environment import open_log
from lading.storage.log import Log
from lading.storage.lookback import Lookback

choices = st.fixed_dictionaries(
    {},
    optional={
        "types": st.lists(st.sampled_from(["container.", "container.created", "tag.set", "image."]), min_size=1),
        "images": st.lists(st.sampled_from(["0", "a", "sha256:3", "a:1", "docker.io/library/b"]), min_size=1),
        "actors": st.lists(st.sampled_from([0, 7, "even"]), min_size=1),
        "command": st.sampled_from(["0", "1"]),
        "streams": st.lists(st.sampled_from(["container/", "tag/", "engine"]), min_size=1),
    },
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(histories(), choices, st.integers(0, 20), st.data())
def test_a_selection_gives_what_a_plain_fold_of_the_log_gives(
    tmp_path_factory: pytest.TempPathFactory, members: Any, words: Any, after: int, data: st.DataObject
) -> None:
    """From disk and from memory, page by page, with labels and images looked up rather than known."""

    async def run() -> None:
        log = open_log(tmp_path_factory.mktemp("log") / "log", "id")
        async with open_journal(log) as journal:
            history = History(journal)
            half = len(members) // 2
            await append(journal, members[:half], 0)
            begun = min(after, history.position)
            live = history.follow(begun, **words)
            await append(journal, members[half:], half)
            everything = history.read(0)
            if data.draw(st.booleans()):
                labels = [pair for record in everything for pair in _labels(record).items() if pair[0]]
                if labels:
                    key, value = data.draw(st.sampled_from(labels))
                    if "=" not in key and "\0" not in key + value:
                        words["labels"] = [data.draw(st.sampled_from([key, f"{key}={value}"]))]
            wanted = [record for record in _naive(everything, words) if record.position > after]
            pages = history.pages(after, **words)
            assert [record async for page in pages for record in page] == wanted
            if "labels" not in words:
                wanted = [record for record in _naive(everything, words) if record.position > begun]
                assert [await anext(live) for _ in wanted] == wanted
        log.close()

    trio.run(run)


async def append(journal: Journal, members: Any, begin: int) -> None:
    for number, member in enumerate(members, begin):
        actor = Actor(number % 9, client="even" if number % 2 == 0 else "odd/1")
        await journal.append(member, actor=actor, command=CommandId(f"{number:032x}"[::-1]))


def _labels(record: Record) -> dict[str, str]:
    event: Any = record.event
    holder = getattr(event, "spec", None) or getattr(event, "config", None)
    return dict(getattr(holder, "labels", {}))


def _naive(records: list[Record], words: Any) -> list[Record]:
    """The same in one pass over everything, with everything that was ever created in two dicts."""
    made = {record.stream: record for record in records if record.version == 1}
    selection = select(**{key: value for key, value in words.items() if key not in ("images", "labels")})
    found = []
    for record in records:
        event: Any = record.event
        first: Any = made[record.stream].event
        if record.stream.startswith("tag/"):
            images, names = {event.image, getattr(event, "previous", "")} - {""}, {event.name}
            labels = _labels(made[f"image/{event.image}"])
        elif record.stream.startswith("container/"):
            images, names, labels = {first.spec.image}, {first.spec.image_name}, _labels(made[record.stream])
        elif record.stream.startswith("image/"):
            images, names, labels = {first.image}, set(), _labels(made[record.stream])
        elif record.stream.startswith("pull/"):
            images, names, labels = {getattr(event, "image", "")}, {first.reference}, {}
        else:
            images, names, labels = set(), set(), {}
        fits = True
        if "images" in words:
            wanted = words["images"]
            fits = any(_is(word, image, name) for word in wanted for image in images for name in names or {""})
        if "labels" in words:
            pairs = [word.partition("=") for word in words["labels"]]
            all_there = all(key in labels and (not eq or labels[key] == value) for key, eq, value in pairs)
            fits = fits and bool(images) and all_there
        if fits and selection.wants(record, lambda stream: None):
            found.append(record)
    return found


def _is(word: str, image: str, name: str) -> bool:
    full = {"a:1": {"docker.io/library/a:1", "a:1"}, "docker.io/library/b": {"docker.io/library/b:1", "b:1", "b"}}
    if word in full:
        return name in full[word] or name == word
    return image.startswith("sha256:" + word.removeprefix("sha256:")) or _familiar(word, name)


def _familiar(word: str, name: str) -> bool:
    """Whether ``word``, a letter, names ``name`` in any tag."""
    bare = name.removeprefix("docker.io/library/")
    return not word.startswith("sha256:") and bare.partition(":")[0] == word


async def test_what_is_known_of_a_container_whose_beginning_is_gone(
    log: Log, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its origin and its states come from the views as they were before the oldest record that is kept."""
    await grow(journal, 10)
    records = log.read()
    whole = [Lookback(log).step(record) for record in records]
    read_stream = Log.read_stream
    monkeypatch.setattr(Log, "first", 6)

    def read_what_is_kept(self: Log, stream: str, after: int = 0, limit: int = 1000) -> list[Record]:
        return read_stream(self, stream, max(after, 5), limit)

    monkeypatch.setattr(Log, "read_stream", read_what_is_kept)
    past = Lookback(log)
    assert [past.step(record) for record in records[5:]] == whole[5:]
    assert [Lookback(log).step(record) for record in records[5:]] == whole[5:], "asked for one alone"
    assert whole[0][0] is None
    monkeypatch.setattr(Log, "get", lambda self, view, key: None)  # it is removed, too
    origin = Lookback(log).origin(STREAM)
    assert origin is not None
    assert (origin.image, origin.image_name, dict(origin.labels)) == (SPEC.image, "app", {"team": "a"})
    assert Lookback(log).origin("engine") is None
    assert Lookback(log).origin(container_stream("f" * 64)) is None
