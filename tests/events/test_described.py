"""Records as JSON objects: nothing is lost on the way there and back, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import strategies as own
from hypothesis import given
from hypothesis import strategies as st

from lading.events.described import as_dict, from_dict
from lading.events.envelope import Record
from lading.events.errors import Invalid
from lading.events.moments import utc_time


@given(own.records)
def test_a_record_survives_json(record: Record) -> None:
    record = attrs.evolve(record, chain=bytes(32))
    shown = as_dict(record)
    assert from_dict(json.loads(json.dumps(shown))) == record
    fields = {field.name for field in attrs.fields(Record)} - {"event"} | {"type", "data", "utc"}
    assert set(shown) == fields
    assert shown["utc"] == utc_time(record.time)


@given(own.records, st.data())
def test_what_is_not_quite_one_is_refused(record: Record, data: st.DataObject) -> None:
    """A field that is missing or of another type, at the top, in the actor or in the event."""
    shown: dict[str, Any] = json.loads(json.dumps(as_dict(record)))
    inside = data.draw(st.sampled_from([shown, shown["actor"], *([shown["data"]] if shown["data"] else [])]))
    key = data.draw(st.sampled_from(sorted(inside.keys() - {"utc"})))
    if data.draw(st.booleans()):
        del inside[key]
    else:
        inside[key] = 1.5
    with pytest.raises(Invalid, match="has not the form"):
        from_dict(shown)
