"""A handle on one container: what can be asked of it and done with it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from lading.engine.containers.lifecycle import Lifecycle
from lading.engine.containers.output import OutputReader
from lading.engine.core import Caller, new_caller
from lading.engine.execs.execution import ExecResult, ExecStream, exec_spec, execute, open_exec
from lading.engine.files.changing import container_changes
from lading.engine.files.committing import CommitOptions, commit_container
from lading.engine.files.copying import Archive, PathStat, get_archive, put_archive, stat_path
from lading.engine.files.forking import fork_container
from lading.engine.images.images import opened
from lading.engine.images.unpacking import Source
from lading.engine.nursery import together
from lading.engine.retry import deciding
from lading.events.dockerfilechanges import RunConfig
from lading.events.envelope import Actor
from lading.events.image import ImageState
from lading.storage.changes import Change

if TYPE_CHECKING:
    pass

__all__ = ["Container"]


class Container(Lifecycle):
    """A handle on one container. Cheap: it holds an id, and asks the views when it is asked.

    Every method raises ``NotFound`` once the container is removed, and ``WrongPhase`` when the lifecycle
    doesn't allow it now. Who asks is ``actor`` (this process, unless given), or ``caller`` with the command id
    as well; a retry (``Caller.once``) does nothing twice, and is answered by what the first try led to. A
    cancelled method either never appended its intent, or what it intended is carried out by the engine without
    it.
    """

    async def exec(
        self,
        args: Sequence[str],
        *,
        env: Sequence[str] = (),
        working_dir: str | None = None,
        user: str | None = None,
        privileged: bool = False,
        tty: bool = False,
        stdin: bytes | None = None,
        timeout: float | None = None,
        capture: int = 16 << 20,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> ExecResult:
        """Run ``args`` in it beside its own command, to the end: exit code and up to ``capture`` bytes of output.

        Environment, directory and user are the container's own where nothing is asked; ``env``: ``K=V``, or
        ``K`` to take it away. ``tty``: a terminal, all output is ``stdout`` then. After ``timeout`` seconds it
        is killed.

        A cancel kills the command, with what it started in its session, and is delivered when that is over and
        recorded; what left the session lives on with the container. Raises ``WrongPhase`` when the container
        doesn't run or is paused, ``Invalid``, ``NotFound``, ``HostError``. A command that can't be executed is no
        error but exit code 126 or 127. A retry (``Caller.once``) gets the exit code, and no output.
        """
        spec = exec_spec(
            args,
            env=env,
            working_dir=working_dir,
            user=user,
            privileged=privileged,
            tty=tty,
            stdin=stdin is not None,
        )
        core, caller = self._containers.core, caller or new_caller(actor=actor)
        return await execute(core, self.id, spec, caller, stdin=stdin, timeout=timeout, capture=capture)

    def exec_stream(
        self,
        args: Sequence[str],
        *,
        env: Sequence[str] = (),
        working_dir: str | None = None,
        user: str | None = None,
        privileged: bool = False,
        tty: bool = False,
        stdin: bool = True,
        size: tuple[int, int] = (0, 0),
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> AbstractAsyncContextManager[ExecStream]:
        """Run ``args`` in it for the time of a block, which gets the streams: ``async with ... as process``.

        As ``exec`` otherwise. ``size``: rows and columns of the terminal. Leaving the block, by a cancel or
        otherwise, kills what is left of the command and waits for its end.
        """
        spec = exec_spec(
            args, env=env, working_dir=working_dir, user=user, privileged=privileged, tty=tty, stdin=stdin
        )
        core, caller = self._containers.core, caller or new_caller(actor=actor)
        return open_exec(core, self.id, spec, caller, size)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal this size; nothing happens if it has none, or doesn't run."""
        self._containers.core.link.resize(self.id, rows, columns)

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: int = 0,
        until: int = 0,
        stdout: bool = True,
        stderr: bool = True,
    ) -> OutputReader:
        """What it printed, as an async iterator of ``LogPiece``; as a context manager, it closes its file.

        ``tail``: only the last so many lines. ``since``, ``until``: nanoseconds UTC, 0 for no bound. ``follow``:
        go on until its run ends.
        """
        _ = self.state
        streams = frozenset(number for number, wanted in ((1, stdout), (2, stderr)) if wanted)
        return OutputReader(
            self._containers.core, self.id, follow=follow, tail=tail, since=since, until=until, streams=streams
        )

    async def stat_path(self, path: str) -> PathStat:
        """What is at ``path`` in it; see ``engine.copying``. Raises ``NotFound`` and ``HostError``."""
        return await stat_path(self._containers.core, self.id, path)

    def get_archive(self, path: str) -> AbstractAsyncContextManager[Archive]:
        """The tar of what is at ``path`` in it, to be read in ``async with``; see ``engine.copying``."""
        return get_archive(self._containers.core, self.id, path)

    async def put_archive(
        self,
        path: str,
        source: str | os.PathLike[str] | Source,
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Extract the tar ``source`` (a path, an open file, or an async iterable of its bytes) into its directory
        ``path``; see ``engine.copying``."""
        with opened(source) as archive:
            await put_archive(
                self._containers.core,
                self.id,
                path,
                archive,
                no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                copy_uid_gid=copy_uid_gid,
            )

    async def commit(
        self,
        name: str | None = None,
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
        config: RunConfig | None = None,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> ImageState:
        """An image of what it is now, called ``name`` if given; see ``engine.committing``.

        Nothing is copied of one that doesn't run. ``changes``: Dockerfile instructions. ``pause``: one that runs
        is held still while it is copied. Raises ``Invalid``, ``NotFound``, ``ImageInvalid`` and ``HostError``.
        """
        options = CommitOptions(
            name=name, author=author, message=message, changes=changes, pause=pause, config=config
        )
        core, caller = self._containers.core, caller or new_caller(actor=actor)
        async with deciding(core, caller):
            return await commit_container(core, self.id, options, caller)

    async def fork(
        self,
        n: int = 1,
        *,
        names: Sequence[str] | None = None,
        start: bool = False,
        command: Sequence[str] | None = None,
        actor: Actor | None = None,
        caller: Caller | None = None,
    ) -> list[Container]:
        """``n`` new containers that go on from its files and are set up like it; see ``engine.forking``.

        Nothing is copied of one that doesn't run. ``names``: one each. ``command`` in place of its own. ``start``:
        they are started, too, all at once. Raises ``Invalid``, ``AlreadyExists``, ``CannotStart`` and
        ``HostError``.
        """
        core, caller = self._containers.core, caller or new_caller(actor=actor)
        async with deciding(core, caller):
            made = await fork_container(core, self.id, n, names, command, caller)
        forks = [Container(self._containers, each) for each in made]
        if start:
            own = Caller(caller.actor, caller.command)
            await together(*(partial(each.start, caller=own) for each in forks if each.state.run == 0))
        return forks

    def changes(self) -> AbstractAsyncContextManager[AsyncGenerator[list[Change], None]]:
        """What it changed of its image's files, sorted by path, a page at a time; see ``storage.changes``."""
        return container_changes(self._containers.core, self.state)
