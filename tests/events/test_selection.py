"""Selections: a record is wanted exactly when a plain reading of the words says so, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import strategies as own
from hypothesis import given
from hypothesis import strategies as st

from lading.events.codec import SCHEMAS, encode_record, event_tag
from lading.events.container import Created, KillRequested
from lading.events.envelope import Actor, Record
from lading.events.errors import Invalid
from lading.events.ids import CommandId
from lading.events.image import ImageAdded, ImageConfig, LayerAdded, Pushed, Tagged, Untagged
from lading.events.selection import EVERYTHING, Lookup, Origin, origin_of, select
from lading.events.spec import ContainerSpec
from lading.events.transfer import PullFinished, PullProgressed, PullRequested

ID = "a" * 64
IMAGE = "sha256:" + "1b" * 32
OTHER = "sha256:" + "2c" * 32
SPEC = ContainerSpec(IMAGE, "shop/web:1", (), ("true",), labels={"team": "a", "tier": "front"})


def nobody(stream: str) -> Origin | None:
    raise AssertionError(f"asked for {stream}, which the record tells itself")


def knows(found: Mapping[str, Origin]) -> Lookup:
    return found.get


def record(event: Any, stream: str = f"container/{ID}", **more: Any) -> Record:
    plain = Record(
        7, stream, 3, "e" * 32, 5, Actor(1000, 100, 9, "docker/28.2"), CommandId("c" * 32), 0, event, b""
    )
    return attrs.evolve(plain, **more)


def test_what_says_nothing_wants_everything() -> None:
    assert select() == EVERYTHING
    assert select().everything
    assert EVERYTHING.wants(record(KillRequested("SIGTERM")), nobody)
    assert not select(types=["tag.set"]).everything


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({"streams": [f"container/{ID}"]}, True),
        ({"streams": ["container/"]}, True),
        ({"streams": ["image/", "container/"]}, True),
        ({"streams": ["image/"]}, False),
        ({"streams": ["container"]}, False),
        ({"streams": [f"container/{ID[:12]}"]}, False),
        ({"types": ["container.kill-requested"]}, True),
        ({"types": ["container."]}, True),
        ({"types": ["container.k", "container."]}, None),
        ({"types": ["container.started"]}, False),
        ({"actors": ["1000"]}, True),
        ({"actors": [1000]}, True),
        ({"actors": ["docker"]}, True),
        ({"actors": ["docker/28.2"]}, True),
        ({"actors": ["dock"]}, False),
        ({"actors": [0, "python"]}, False),
        ({"actors": [0, "docker"]}, True),
        ({"command": "c" * 32}, True),
        ({"command": "cc"}, True),
        ({"command": "d"}, False),
        ({"types": ["container."], "actors": ["python"]}, False),
    ],
)
def test_each_side_reads_its_words(words: Any, wanted: bool | None) -> None:
    if wanted is None:
        with pytest.raises(Invalid):
            select(**words)
    else:
        assert select(**words).wants(record(KillRequested("SIGTERM")), nobody) is wanted


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (["shop/web:1"], True),
        (["shop/web"], True),
        (["docker.io/shop/web:1"], True),
        (["docker.io/shop/web"], True),
        ([IMAGE], True),
        (["1b1b"], True),
        (["sha256:1b1b"], True),
        (["2c", "shop/web"], True),
        (["shop/web:2"], False),
        (["web"], False),
        (["shop/we"], False),
        (["sha256:2c"], False),
        (["b1"], False),
    ],
)
def test_an_image_is_an_id_its_beginning_or_a_name(images: list[str], wanted: bool) -> None:
    origin = {f"container/{ID}": Origin(SPEC.image, SPEC.image_name, SPEC.labels)}
    selection = select(images=images)
    assert selection.wants(record(KillRequested("SIGTERM")), knows(origin)) is wanted
    assert selection.wants(record(Created(ID, "x", SPEC)), nobody) is wanted  # type: ignore[arg-type]
    tagged = Tagged("docker.io/shop/web:1", IMAGE, "")  # type: ignore[arg-type]
    assert selection.wants(record(tagged, "tag/docker.io/shop/web:1"), nobody) is wanted


def test_a_tag_is_found_by_the_image_that_it_left() -> None:
    moved = record(Tagged("docker.io/shop/web:1", IMAGE, OTHER), "tag/docker.io/shop/web:1")  # type: ignore[arg-type]
    assert select(images=["2c2c"]).wants(moved, nobody)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["team"], True),
        (["team=a"], True),
        (["team=a", "tier"], True),
        (["team=b"], False),
        (["team=a", "nope"], False),
        (["team="], False),
    ],
)
def test_labels_must_all_be_there(labels: list[str], wanted: bool) -> None:
    found = Origin(IMAGE, "", SPEC.labels)
    lookup = knows({f"container/{ID}": found, f"image/{IMAGE}": found})
    added = ImageAdded(IMAGE, (), (), ImageConfig(labels=SPEC.labels), "", "", "", "import", "")  # type: ignore[arg-type]
    selection = select(labels=labels)
    assert selection.wants(record(KillRequested("SIGTERM")), lookup) is wanted
    assert selection.wants(record(added, f"image/{IMAGE}"), nobody) is wanted
    tagged = Tagged("docker.io/library/a:1", IMAGE, "")  # type: ignore[arg-type]
    assert selection.wants(record(tagged, "tag/docker.io/library/a:1"), lookup) is wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({"images": ["shop/web"]}, {"requested", "progressed", "finished", "pushed", "untagged"}),
        ({"images": ["shop/web:1"]}, {"requested", "progressed", "finished", "pushed", "untagged"}),
        ({"images": ["shop/web:2"]}, set()),
        ({"images": [IMAGE[7:19]]}, {"finished", "pushed", "untagged"}),
        ({"labels": ["team=a"]}, {"finished", "pushed", "untagged"}),
        ({"labels": ["team=b"]}, set()),
        ({"images": ["shop/web"], "labels": ["team=a"]}, {"finished", "pushed", "untagged"}),
    ],
)
def test_what_moves_an_image_is_known_by_its_name_its_id_and_its_labels(words: Any, wanted: set[str]) -> None:
    name = "docker.io/shop/web:1"
    asked = PullRequested(name, "linux/amd64")
    lookup = knows(
        {"pull/x": origin_of(asked) or Origin("", "", {}), f"image/{IMAGE}": Origin(IMAGE, "", SPEC.labels)}
    )
    events: dict[str, tuple[Any, str]] = {
        "requested": (asked, "pull/x"),
        "progressed": (PullProgressed(1, 0, 5, 0), "pull/x"),
        "finished": (PullFinished(IMAGE, IMAGE, 5), "pull/x"),  # type: ignore[arg-type]
        "pushed": (Pushed(IMAGE, name, IMAGE, 5), f"image/{IMAGE}"),  # type: ignore[arg-type]
        "untagged": (Untagged(name, IMAGE), f"tag/{name}"),  # type: ignore[arg-type]
    }
    selection = select(**words)
    assert {
        kind for kind, (event, stream) in events.items() if selection.wants(record(event, stream), lookup)
    } == wanted


def test_what_nobody_knows_the_origin_of_fits_no_word_about_it() -> None:
    layer = LayerAdded(IMAGE, IMAGE, "", 0, 0, 0, False)  # type: ignore[arg-type]
    for words in ({"images": ["1b"]}, {"labels": ["team"]}):
        assert not select(**words).wants(record(KillRequested("SIGTERM")), knows({}))  # type: ignore[arg-type]
        assert not select(**words).wants(record(layer, f"layer/{IMAGE}"), nobody)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        {"types": ["container"]},
        {"types": ["container.start"]},
        {"types": [""]},
        {"types": ["."]},
        {"streams": [""]},
        {"streams": ["a\0b"]},
        {"streams": ["\udcff"]},
        {"streams": ["x" * 9000]},
        {"streams": ["x"] * 300},
        {"images": ["UPPER"]},
        {"images": ["a b"]},
        {"labels": ["=a"]},
        {"labels": [""]},
        {"actors": [""]},
        {"command": "x"},
        {"command": "c" * 33},
        {"command": "C" * 32},
        {"command": "c\n"},
    ],
)
def test_words_that_nothing_could_fit_are_refused(words: Any) -> None:
    with pytest.raises(Invalid):
        select(**words)


choices = st.fixed_dictionaries(
    {},
    optional={
        "streams": st.lists(st.sampled_from(["container/", "image/", "tag/", "layer/", "engine"]), min_size=1),
        "types": st.lists(st.sampled_from([*SCHEMAS, "container.", "tag."]), min_size=1),
        "actors": st.lists(st.sampled_from(["0", "1", "docker", "python"]), min_size=1),
        "command": st.sampled_from(["0", "1", "a", "ff"]),
    },
)
subjects = st.builds(
    attrs.evolve,
    own.records,
    stream=st.sampled_from([f"container/{ID}", f"image/{IMAGE}", "tag/x", "engine", "containers"]),
    actor=st.builds(
        Actor, uid=st.none() | st.integers(0, 2), client=st.sampled_from(["", "docker", "docker/1", "python"])
    ),
)


@given(choices, subjects)
def test_wanted_is_what_a_plain_reading_says(words: dict[str, Any], subject: Record) -> None:
    tag, client = event_tag(subject.event), subject.actor.client
    plain = [
        any(
            subject.stream == word or (word[-1] == "/" and subject.stream.startswith(word))
            for word in words["streams"]
        )
        if "streams" in words
        else True,
        any(tag == word or (word[-1] == "." and tag.startswith(word)) for word in words["types"])
        if "types" in words
        else True,
        any(word in (str(subject.actor.uid), client, client.split("/")[0]) for word in words["actors"])
        if "actors" in words
        else True,
        subject.command.startswith(words.get("command", "")),
    ]
    selection = select(**words)
    assert selection.wants(subject, nobody) is all(plain)


@given(choices, subjects)
def test_the_needles_are_in_the_bytes_of_every_record_that_is_wanted(
    words: dict[str, Any], subject: Record
) -> None:
    selection = select(**words)
    stored, _ = encode_record(subject, bytes(32))
    if selection.wants(subject, nobody):
        assert all(any(word in stored for word in group) for group in selection.needles())


@given(own.records)
def test_only_what_begins_a_container_an_image_or_a_pull_tells_its_origin(subject: Record) -> None:
    found = origin_of(subject.event)
    assert (found is not None) == isinstance(subject.event, Created | ImageAdded | PullRequested)
