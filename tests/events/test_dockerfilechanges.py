"""The instructions that only a commit takes, and the config that comes of it."""

from __future__ import annotations

import json

import pytest

from lading.events.dockerfilechanges import RunConfig, apply_changes, change_run
from lading.events.errors import ImageInvalid, Invalid
from lading.events.ids import Digest
from lading.events.image import ImageConfig
from lading.events.imageconfig import Healthcheck, HistoryEntry, parse_config
from lading.events.imagedocument import child_document, with_diff_ids

S = 10**9
DIFF = Digest("sha256:" + "a" * 64)


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("HEALTHCHECK NONE", Healthcheck(("NONE",))),
        ("HEALTHCHECK CMD curl -f http://localhost", Healthcheck(("CMD-SHELL", "curl -f http://localhost"))),
        (
            'healthcheck --interval=1m30s --retries=3 CMD ["a"]',
            Healthcheck(("CMD", "a"), 90 * S, retries=3),
        ),
        (
            "HEALTHCHECK --timeout=1.5s --start-period=2h --start-interval=250ms CMD x",
            Healthcheck(("CMD-SHELL", "x"), 0, 3 * S // 2, 7200 * S, S // 4),
        ),
    ],
)
def test_healthchecks(line: str, check: Healthcheck) -> None:
    assert change_run([line], RunConfig()).healthcheck == check


@pytest.mark.parametrize(
    "line",
    [
        "HEALTHCHECK",
        "HEALTHCHECK curl",
        "HEALTHCHECK CMD",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --interval=1m NONE",
        "HEALTHCHECK --interval=1m --interval=2m CMD x",
        "HEALTHCHECK --interval CMD x",
        "HEALTHCHECK --interval=1 CMD x",
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK --interval=999999999999h CMD x",
        "HEALTHCHECK --retries=x CMD x",
        "HEALTHCHECK --retries=٣ CMD x",
        "HEALTHCHECK --nope=1s CMD x",
        "ONBUILD",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD from x",
        "RUN x",
        "COPY a b",
        "SHELL x",
    ],
)
def test_what_is_refused(line: str) -> None:
    with pytest.raises(Invalid):
        change_run([line], RunConfig())


def test_an_import_has_no_healthcheck_and_no_triggers() -> None:
    for line in ("ONBUILD RUN x", "HEALTHCHECK NONE"):
        with pytest.raises(Invalid, match="not a valid change command"):
            apply_changes([line])


def test_the_shell_runs_lines() -> None:
    run = change_run(["CMD a b", "ENTRYPOINT x", "ONBUILD RUN y"], RunConfig(shell=("/bin/bash", "-lc")))
    assert run.config.cmd == ("/bin/bash", "-lc", "a b")
    assert run.config.entrypoint == ("/bin/bash", "-lc", "x")
    assert run.on_build == ("RUN y",)


def test_a_childs_config_keeps_its_parents_platform_and_history() -> None:
    parent = {
        "architecture": "arm64",
        "variant": "v8",
        "os": "linux",
        "os.version": "1",
        "config": {"Env": ["A=1"], "Shell": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "first", "empty_layer": True}],
        "unknown": 1,
    }
    run = RunConfig(
        ImageConfig(cmd=("a",), volumes=("/v",), labels={"k": "v"}, stop_signal="SIGINT"),
        ("RUN x",),
        Healthcheck(("CMD", "x"), S),
    )
    entry = HistoryEntry("2026-01-01T00:00:00Z", "sh", "me", "why")
    content = child_document(
        json.dumps(parent).encode(), run, [DIFF], [entry], created="2026-01-01T00:00:00Z", container="c" * 64
    )
    document = json.loads(content)
    assert (document["os.version"], "unknown" in document, document["container"]) == ("1", False, "c" * 64)
    parsed = parse_config(content)
    assert (parsed.config, parsed.on_build, parsed.healthcheck) == (run.config, run.on_build, run.healthcheck)
    assert (parsed.architecture, parsed.variant, parsed.diff_ids) == ("arm64", "v8", (DIFF,))
    assert [step.created_by for step in parsed.history] == ["first", "sh"]
    assert parse_config(with_diff_ids(content, [])).diff_ids == ()
    assert json.loads(with_diff_ids(content, [DIFF])) == document
    with pytest.raises(ImageInvalid):
        child_document(b"[]", run, [], [], created="")
