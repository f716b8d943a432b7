"""What an append may depend on: claims that only one can have, and a command that is tried again."""

from __future__ import annotations

import re

import attrs
import pytest
from logbook import ACTOR, BORN, cid, does, dump, made, put, told

from lading.events.claims import Claim, ClaimReleased, ClaimTaken, claim_stream
from lading.events.container import Renamed, StartRequested
from lading.events.envelope import Proposed
from lading.events.errors import AlreadyExists, CommandReused, InUse, Refused
from lading.events.ids import CommandId, container_stream
from lading.events.views import CLAIMS
from lading.storage.environment import open_log
from lading.storage.log import Append, Log

PORT = Claim("host-port", "0.0.0.0:8080/tcp")
FIRST, SECOND = container_stream(cid(1)), container_stream(cid(2))
COMMAND = CommandId("5" * 32)


def takes(holder: str, claim: Claim = PORT) -> Proposed:
    return Proposed(claim_stream(claim), ClaimTaken(claim.kind, claim.name, holder))  # type: ignore[arg-type]


def releases(holder: str, claim: Claim = PORT) -> Proposed:
    return Proposed(claim_stream(claim), ClaimReleased(claim.kind, claim.name, holder))  # type: ignore[arg-type]


def ask(log: Log, *events: Proposed, command: str = COMMAND, once: bool = True) -> object:
    ids = tuple(f"{log.position:016x}{number:016x}" for number in range(len(events)))
    (answer,) = log.append([Append(events, ids, 1000 + log.position, ACTOR, CommandId(command), once=once)])
    return answer


# -- claims ---------------------------------------------------------------------------------------------


def test_a_claim_is_one_holders_until_it_is_released(log: Log) -> None:
    told(log, made(1), made(2))
    told(log, does(1, StartRequested(1)), takes(FIRST))
    before = dump(log)
    refused = ask(log, does(2, StartRequested(1)), takes(SECOND))
    assert isinstance(refused, AlreadyExists)
    assert (refused.kind, refused.name, refused.holder) == ("host-port", PORT.name, cid(1))
    assert re.fullmatch(r"the host port 0\.0\.0\.0:8080/tcp is already in use by 0{12}; .*", str(refused))
    assert dump(log) == before
    refused = ask(log, releases(SECOND))
    assert isinstance(refused, InUse)
    assert dump(log) == before
    told(log, takes(FIRST))  # asking again for what one has is fine
    told(log, releases(FIRST))
    assert log.get(CLAIMS, PORT.key) is None
    assert isinstance(ask(log, releases(FIRST)), InUse)
    told(log, does(2, StartRequested(1)), takes(SECOND))
    held = log.get(CLAIMS, PORT.key)
    assert held is not None
    assert held.holder == SECOND
    history = [type(record.event).__name__ for record in log.read_stream(claim_stream(PORT))]
    assert history == ["ClaimTaken", "ClaimTaken", "ClaimReleased", "ClaimTaken"]
    log.verify()


def test_of_two_claims_in_one_batch_the_first_wins(log: Log) -> None:
    """Decided in the transaction itself: each sees what those before it will write."""
    told(log, made(1), made(2))
    members = [Append((takes(holder),), ("0" * 32,), 5, ACTOR, COMMAND) for holder in (SECOND, FIRST)]
    first, second = log.append(members)
    assert not isinstance(first, Refused)
    assert isinstance(second, AlreadyExists)
    assert second.holder == cid(2)


def test_claims_of_other_kinds_do_not_collide(log: Log) -> None:
    told(
        log,
        made(1, "data"),
        takes(SECOND, Claim("volume-name", "data")),
        takes(SECOND, Claim("network-name", "data")),
    )
    assert [key for key, _ in log.scan(CLAIMS)] == ["container-name/data", "network-name/data", "volume-name/data"]


# -- a command that is tried again ----------------------------------------------------------------------


def test_a_retried_command_is_answered_with_its_first_result(log: Log) -> None:
    """Whatever happened since, and after the log was closed and opened; nothing is appended."""
    first = ask(log, made(1), does(1, StartRequested(1)))
    told(log, does(1, Renamed("name1", "other")))
    before = dump(log)
    assert ask(log, made(2, "name1"), does(2, StartRequested(1))) == first
    assert dump(log) == before
    path = log.path
    log.close()
    log.__init__(open_log(path).db)  # type: ignore[misc]
    assert ask(log, made(3), does(3, StartRequested(1))) == first
    log.rebuild()
    assert ask(log, made(3), does(3, StartRequested(1))) == first
    log.verify()


def test_a_retry_in_the_same_batch_is_a_retry(log: Log) -> None:
    members = [Append((made(number),), (f"{number:032x}",), 5, ACTOR, COMMAND, once=True) for number in (1, 2)]
    first, second = log.append(members)
    assert first == second
    assert log.position == 1


def test_what_a_command_leads_to_later_is_no_retry(log: Log) -> None:
    """Outcomes carry the command of their intent, and are appended."""
    first = ask(log, made(1))
    ask(log, does(1, StartRequested(1)), once=False)
    assert [record.position for record in log.read_command(COMMAND)] == [1, 2]
    assert ask(log, made(2)) == first


@pytest.mark.parametrize("event", [made(2), does(2, StartRequested(1)), does(1, StartRequested(1), 1)])
def test_a_command_id_of_another_request_is_refused(log: Log, event: Proposed) -> None:
    told(log, made(1), made(2, "b"))
    assert not isinstance(ask(log, does(1, Renamed("name1", "a"), 1)), Refused)
    before = dump(log)
    refused = ask(log, event)
    assert isinstance(refused, CommandReused)
    assert (refused.command, refused.position) == (COMMAND, 3)
    assert dump(log) == before


def test_a_refused_command_can_be_tried_again(log: Log) -> None:
    """A refusal is no result: it changed nothing, so that the same command may succeed later."""
    told(log, made(1, "web"))
    assert isinstance(ask(log, made(2, "web")), AlreadyExists)
    told(log, does(1, Renamed("web", "old")))
    assert not isinstance(ask(log, made(2, "web")), Refused)


def test_a_command_shows_all_that_it_did(log: Log) -> None:
    ask(log, BORN, made(1))
    ask(log, made(2), command="6" * 32)
    ask(log, does(1, StartRequested(1)), once=False)
    assert [record.position for record in log.read_command(COMMAND)] == [1, 2, 4]
    assert [record.position for record in log.read_command("6" * 32)] == [3]
    assert log.read_command("6" * 31) == log.read_command("x" * 600) == log.read_command("\udcff") == []


@pytest.mark.parametrize("damage", ["count", "gone", "more"])
def test_a_damaged_index_of_commands_is_found(log: Log, damage: str) -> None:
    ask(log, BORN, made(1))
    ask(log, made(2), command="6" * 32)
    [first, second] = sorted(dump(log)["command"])
    if damage == "count":
        put(log, "command", first, (3).to_bytes(8, "big"))
    elif damage == "gone":
        put(log, "command", second, None)
    else:
        put(log, "command", second[:-1] + b"\x09", (1).to_bytes(8, "big"))
    with pytest.raises(Exception, match="index of command"):
        log.verify()
    log.rebuild()
    assert attrs.astuple(log.verify())[0] == 3
