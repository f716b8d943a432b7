"""How records change the views: names, tags, sizes; and that what can't happen is refused."""

from __future__ import annotations

from typing import Any

import pytest
from histories import histories
from hypothesis import given
from plainviews import MemoryViews

from lading.events.container import (
    Created,
    Exited,
    Phase,
    Removed,
    RemoveRequested,
    Renamed,
    Started,
    StartRequested,
)
from lading.events.envelope import UNKNOWN, Proposed, Record
from lading.events.errors import AlreadyExists, InUse, LadingError, NotFound, WrongPhase
from lading.events.ids import container_stream, image_stream, layer_stream, tag_stream
from lading.events.image import (
    ArchiveState,
    GoingState,
    ImageAdded,
    ImageConfig,
    ImageRemoved,
    ImageState,
    LayerAdded,
    LayerArchived,
    LayerPacked,
    LayerRemoved,
    LayerRemoveRequested,
    ManifestAdded,
    ManifestsState,
    Tagged,
    TagState,
    Untagged,
)
from lading.events.spec import ContainerSpec, ProcessId
from lading.events.store import StoreCreated
from lading.events.transfer import (
    LeaseReleased,
    LeaseState,
    LeaseTaken,
    PullFailed,
    PullFinished,
    PullProgressed,
    PullRequested,
    PullState,
    lease_stream,
    pull_stream,
)
from lading.events.views import (
    ARCHIVES,
    CLAIMS,
    CONTAINERS,
    GOING,
    IMAGES,
    LAYERS,
    LEASES,
    MANIFESTS,
    PULLS,
    TAGS,
    VIEWS,
    project,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
LOW, HIGH = "sha256:" + "3" * 64, "sha256:" + "4" * 64
SPEC = ContainerSpec(ONE, "app", (), ("true",))
CONFIG = ImageConfig(cmd=("true",))
APP, WEB = "docker.io/library/app:1", "docker.io/library/web:1"


class Told:
    """Views, and the records folded into them."""

    def __init__(self) -> None:
        self.views = MemoryViews()
        self.position = 0

    def tell(self, stream: str, event: Any, time: int = 5) -> None:
        self.position += 1
        project(Record(self.position, stream, 1, "0" * 32, time, UNKNOWN, "0" * 32, 0, event, b""), self.views)

    def container(self, which: str, *events: Any) -> None:
        for event in events:
            self.tell(container_stream(which), event)

    def image(self, which: str, *layers: str, time: int = 5) -> None:
        event = ImageAdded(which, layers, (), CONFIG, "", "amd64", "linux", "import", "")
        self.tell(image_stream(which), event, time)

    def tag(self, name: str, image: str, previous: str = "") -> None:
        self.tell(tag_stream(name), Tagged(name, image, previous))

    def names(self) -> dict[str, str]:
        prefix = "container-name/"
        claims = {key: state for view, key, state in self.views.items() if view is CLAIMS}
        return {key.removeprefix(prefix): state.holder.partition("/")[2] for key, state in claims.items()}

    def tags(self, image: str) -> tuple[str, ...]:
        state = self.views.get(IMAGES, image)
        assert state is not None
        return state.tags


@pytest.fixture
def told() -> Told:
    return Told()


def test_views_have_names_of_their_own() -> None:
    """A view's name is part of its keys: NUL ends it, so none may hold one."""
    names = [view.name for view in VIEWS]
    assert len(set(names)) == len(names)
    assert not any("\0" in name for name in names)


def test_created_container_has_its_state_and_its_name(told: Told) -> None:
    told.container(A, Created(A, "web", SPEC))
    state = told.views.get(CONTAINERS, A)
    assert state is not None
    assert (state.id, state.name, state.spec, state.phase, state.created_at) == (A, "web", SPEC, Phase.CREATED, 5)
    assert told.names() == {"web": A}


def test_a_name_is_one_containers(told: Told) -> None:
    told.container(A, Created(A, "web", SPEC))
    with pytest.raises(AlreadyExists) as refused:
        told.container(B, Created(B, "web", SPEC))
    assert (refused.value.kind, refused.value.name, refused.value.holder) == ("container", "web", A)
    assert "already in use by aaaaaaaaaaaa; remove or rename that container" in str(refused.value)


def test_rename_frees_the_old_name_and_claims_the_new(told: Told) -> None:
    told.container(A, Created(A, "web", SPEC), Renamed("web", "api"))
    assert told.names() == {"api": A}
    told.container(B, Created(B, "web", SPEC))
    assert told.names() == {"api": A, "web": B}
    with pytest.raises(AlreadyExists):
        told.container(B, Renamed("web", "api"))


def test_two_containers_can_swap_their_names_by_way_of_a_third(told: Told) -> None:
    told.container(A, Created(A, "web", SPEC))
    told.container(B, Created(B, "api", SPEC))
    told.container(A, Renamed("web", "spare"))
    told.container(B, Renamed("api", "web"))
    told.container(A, Renamed("spare", "api"))
    assert told.names() == {"web": B, "api": A}


def test_removed_container_is_forgotten_and_its_name_is_free(told: Told) -> None:
    told.container(A, Created(A, "web", SPEC), RemoveRequested(False))
    assert told.names() == {"web": A}
    told.container(A, Removed("web"))
    assert told.names() == {}
    assert told.views.get(CONTAINERS, A) is None
    told.container(B, Created(B, "web", SPEC))
    assert told.names() == {"web": B}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (StartRequested(1), WrongPhase),
        (Exited(1, 0, 1), WrongPhase),
        (Renamed("web", "api"), WrongPhase),
        (Removed("web"), WrongPhase),
    ],
)
def test_events_of_a_container_that_is_not_there_are_refused(told: Told, event: Any, error: type) -> None:
    with pytest.raises(error):
        told.container(C, event)
    assert told.views.get(CONTAINERS, C) is None


def test_a_container_is_created_once(told: Told) -> None:
    """Another ``Created`` would start its life over, and leave its first name taken for ever."""
    told.container(A, Created(A, "web", SPEC), StartRequested(1), Started(1, ProcessId("boot", 1, 1)))
    with pytest.raises(LadingError):
        told.container(A, Created(A, "api", SPEC))


@pytest.mark.parametrize("last", [Renamed("api", "new"), Removed("api")])
def test_an_outdated_name_in_an_event_frees_nobody_elses(told: Told, last: Any) -> None:
    """What is freed is the name the container has now, by the views, or the event is refused."""
    told.container(A, Created(A, "web", SPEC))
    told.container(B, Created(B, "api", SPEC))
    try:
        told.container(A, *([RemoveRequested(False)] if isinstance(last, Removed) else []), last)
    except LadingError:
        pass
    else:
        assert told.names() == ({"api": B, "new": A} if isinstance(last, Renamed) else {"api": B})


def test_layer_is_known_by_its_chain_id(told: Told) -> None:
    told.tell(layer_stream(LOW), LayerAdded(LOW, HIGH, "", 10, 20, 3, True))
    layer = told.views.get(LAYERS, LOW)
    assert layer is not None
    assert (layer.chain, layer.diff_id, layer.parent, layer.size) == (LOW, HIGH, "", 10)
    assert (layer.disk_bytes, layer.inodes, layer.opaque) == (20, 3, True)


def test_image_is_as_large_as_its_layers_on_disk(told: Told) -> None:
    told.tell(layer_stream(LOW), LayerAdded(LOW, HIGH, "", 10, 4096, 3, False))
    told.tell(layer_stream(HIGH), LayerAdded(HIGH, LOW, LOW, 10, 8192, 3, False))
    told.image(ONE, LOW, HIGH, time=77)
    told.image(TWO)
    assert told.views.get(IMAGES, ONE) == ImageState(
        ONE, (LOW, HIGH), (), CONFIG, "", "amd64", "linux", "import", "", added_at=77, size=12288, tags=()
    )
    bare = told.views.get(IMAGES, TWO)
    assert bare is not None
    assert bare.size == 0


def test_tag_moves_between_images(told: Told) -> None:
    told.image(ONE)
    told.image(TWO)
    told.tag(WEB, ONE)
    told.tag(APP, ONE)
    assert told.tags(ONE) == (APP, WEB)
    told.tag(APP, TWO, previous=ONE)
    assert (told.tags(ONE), told.tags(TWO)) == ((WEB,), (APP,))
    assert told.views.get(TAGS, APP) == TagState(APP, TWO, 5)
    told.tag(APP, ONE, previous=TWO)
    assert (told.tags(ONE), told.tags(TWO)) == ((APP, WEB), ())


def test_tagging_again_changes_nothing_but_since_when(told: Told) -> None:
    told.image(ONE)
    told.tag(APP, ONE)
    told.tell(tag_stream(APP), Tagged(APP, ONE, ONE), time=9)
    assert told.tags(ONE) == (APP,)
    assert told.views.get(TAGS, APP) == TagState(APP, ONE, 9)


def test_a_tag_is_on_one_image_whatever_the_event_remembers(told: Told) -> None:
    """Two that tagged at once both remember no image before theirs; the later one has the tag."""
    told.image(ONE)
    told.image(TWO)
    told.tag(APP, ONE)
    told.tag(APP, TWO, previous="")
    assert (told.tags(ONE), told.tags(TWO)) == ((), (APP,))


def test_an_image_that_is_added_again_keeps_its_tags(told: Told) -> None:
    told.image(ONE)
    told.tag(APP, ONE)
    told.image(ONE)
    assert told.tags(ONE) == (APP,)


def test_a_name_that_is_taken_away_is_no_images(told: Told) -> None:
    told.image(ONE)
    told.tag(APP, ONE)
    told.tag(WEB, ONE)
    told.tell(tag_stream(APP), Untagged(APP, ONE))
    assert told.views.get(TAGS, APP) is None
    assert told.tags(ONE) == (WEB,)


@pytest.mark.parametrize("event", [Untagged(WEB, ONE), Untagged(APP, TWO)])
def test_only_a_name_that_points_there_is_taken_away(told: Told, event: Untagged) -> None:
    told.image(ONE)
    told.image(TWO)
    told.tag(APP, ONE)
    with pytest.raises(NotFound):
        told.tell(tag_stream(event.name), event)


def test_an_image_goes_with_its_manifests_and_not_before_its_names(told: Told) -> None:
    told.image(ONE)
    told.tag(APP, ONE)
    told.tell(image_stream(ONE), ManifestAdded(ONE, LOW, "a", 10))
    told.tell(image_stream(ONE), ManifestAdded(ONE, HIGH, "b", 5))
    told.tell(image_stream(ONE), ManifestAdded(ONE, LOW, "a", 10))
    assert told.views.get(MANIFESTS, ONE) == ManifestsState((LOW, HIGH), ("a", "b"), 15)
    with pytest.raises(InUse):
        told.tell(image_stream(ONE), ImageRemoved(ONE))
    told.tell(tag_stream(APP), Untagged(APP, ONE))
    told.tell(image_stream(ONE), ImageRemoved(ONE))
    assert told.views.get(IMAGES, ONE) is None
    assert told.views.get(MANIFESTS, ONE) is None
    with pytest.raises(NotFound):
        told.tell(image_stream(ONE), ImageRemoved(ONE))


def test_a_layer_is_going_until_it_is_gone(told: Told) -> None:
    told.tell(layer_stream(LOW), LayerAdded(LOW, HIGH, "", 10, 20, 3, True))
    told.tell(layer_stream(LOW), LayerArchived(LOW, "split", "", 0, "", 512))
    told.tell(layer_stream(LOW), LayerPacked(LOW, HIGH, 7, "gzip"))
    assert told.views.get(ARCHIVES, LOW) == ArchiveState("split", "", 0, "", 512, HIGH, 7, "gzip")
    told.tell(layer_stream(LOW), LayerRemoveRequested(LOW), time=9)
    assert told.views.get(LAYERS, LOW) is None
    assert told.views.get(ARCHIVES, LOW) is None
    assert told.views.get(GOING, LOW) == GoingState(LOW, 9)
    with pytest.raises(NotFound):
        told.tell(layer_stream(LOW), LayerRemoveRequested(LOW))
    told.tell(layer_stream(LOW), LayerRemoved(LOW))
    assert told.views.get(GOING, LOW) is None


def test_pulls_and_leases_are_there_until_they_end(told: Told) -> None:
    pull, lease = "a" * 32, "b" * 32
    told.tell(pull_stream(pull), PullRequested(APP, "linux/amd64"), time=3)
    told.tell(pull_stream(pull), PullProgressed(3, 1, 100, 40))
    assert told.views.get(PULLS, pull) == PullState(APP, "linux/amd64", 3, 3, 1, 100, 40)
    told.tell(pull_stream(pull), PullFailed("cut off"))
    assert told.views.get(PULLS, pull) is None
    told.tell(lease_stream(lease), LeaseTaken("push", (LOW,)))
    assert told.views.get(LEASES, lease) == LeaseState("push", (LOW,), 5)
    told.tell(lease_stream(lease), LeaseReleased("push"))
    assert told.views.get(LEASES, lease) is None
    for stream, event in (
        (pull_stream(pull), PullProgressed(3, 1, 100, 40)),
        (pull_stream(pull), PullFinished(ONE, LOW, 1)),
        (lease_stream(lease), LeaseReleased("push")),
    ):
        with pytest.raises(NotFound):
            told.tell(stream, event)


def test_a_store_is_in_no_view(told: Told) -> None:
    told.tell("engine", StoreCreated("0" * 32, 1))
    assert list(told.views.items()) == []


@pytest.mark.slow
@given(histories())
def test_views_agree_with_each_other_after_any_history(history: list[tuple[Proposed, ...]]) -> None:
    """Names are exactly the containers' names; an image's tags are exactly those that point at it."""
    told = Told()
    for member in history:
        for proposed in member:
            told.tell(proposed.stream, proposed.event)
    tables: dict[str, dict[str, Any]] = {view.name: {} for view in VIEWS}
    for view, key, state in told.views.items():
        tables[view.name][key] = state
    containers, images = tables["container"], tables["image"]
    assert told.names() == {state.name: key for key, state in containers.items()}
    assert all(state.phase is not Phase.DELETED and state.id == key for key, state in containers.items())
    tags = {name: state.image for name, state in tables["tag"].items()}
    assert tags == {tag: key for key, state in images.items() for tag in state.tags}
    assert sum(len(state.tags) for state in images.values()) == len(tags)
