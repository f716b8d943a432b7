"""Where credentials are kept: Docker's ``config.json``, and the credential helpers that it names.

Sources: docker/cli, ``cli/config/configfile`` and ``cli/config/credentials``; the helpers' protocol:
docker/docker-credential-helpers. A helper is the program ``docker-credential-NAME``, found in ``PATH``; it is told
what to do by its one argument, reads from its standard input and answers on its standard output.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from lading.engine.registry.credentials import Credentials, auth_key, split_auth
from lading.events.errors import HostError, Invalid
from lading.events.strictjson import parse_object

__all__ = ["CredentialStore"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILE_LIMIT = 4 << 20
_ANSWER_LIMIT = 1 << 20
_TIMEOUT = 30.0
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found"


class CredentialStore:
    """The credentials of one user of this machine.

    ``path``: of the configuration; by default ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``. Read
    anew for each question. ``timeout``: seconds that a helper may take.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        directory = self._environment.get("DOCKER_CONFIG") or os.path.join(
            self._environment.get("HOME") or "/root", ".docker"
        )
        self.path: Path = Path(path if path is not None else os.path.join(directory, "config.json"))
        self._timeout = timeout

    async def get(self, domain: str) -> Credentials | None:
        """What is known for the registry of ``domain`` (as in a reference: ``docker.io``, ``host:port``), or None.

        Raises ``Invalid`` for a configuration that can't be read, ``HostError`` for a helper that fails.
        """
        config = self._read()
        key = auth_key(domain)
        helper = _helper(config, key, domain)
        if helper is not None:
            found = await self._ask_helper(helper, key)
            if found is not None:
                return found
        auths = _table(config, "auths")
        entry = auths.get(key)
        if entry is None:
            wanted = _plain_host(key)
            entry = next((each for name, each in auths.items() if _plain_host(name) == wanted), None)
        return None if entry is None else _from_entry(entry, self.path) or None

    async def store(self, domain: str, credentials: Credentials) -> str:
        """Keep ``credentials`` for ``domain``: in the helper that is configured, or in the file (0600, atomic).

        Returns where, for people: the helper's name or the path. A crash leaves the old file or the new one.
        """
        config = self._read()
        key = auth_key(domain)
        helper = _helper(config, key, domain)
        if helper is not None:
            token = credentials.identity_token
            message = {
                "ServerURL": key,
                "Username": _TOKEN_USER if token else credentials.username,
                "Secret": token or credentials.password,
            }
            await self._run(helper, "store", json.dumps(message).encode())
            return helper
        entry: dict[str, str] = {}
        if credentials.username or credentials.password:
            text = f"{credentials.username}:{credentials.password}".encode()
            entry["auth"] = base64.b64encode(text).decode()
        if credentials.identity_token:
            entry["identitytoken"] = credentials.identity_token
        if credentials.registry_token:
            entry["registrytoken"] = credentials.registry_token
        auths = _table(config, "auths")
        config["auths"] = {name: each for name, each in auths.items() if _plain_host(name) != _plain_host(key)}
        config["auths"][key] = entry
        self._write(config)
        return str(self.path)

    async def erase(self, domain: str) -> bool:
        """Forget what is kept for ``domain``, in the helper and in the file; whether there was anything."""
        config = self._read()
        key = auth_key(domain)
        helper = _helper(config, key, domain)
        erased = False
        if helper is not None and await self._ask_helper(helper, key) is not None:
            await self._run(helper, "erase", key.encode())
            erased = True
        auths = _table(config, "auths")
        kept = {name: each for name, each in auths.items() if _plain_host(name) != _plain_host(key)}
        if len(kept) != len(auths):
            config["auths"] = kept
            self._write(config)
            erased = True
        return erased

    # -- the file ------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                raw = file.read(_FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise HostError("read the registries' credentials", str(self.path), error.errno or 0) from error
        if len(raw) > _FILE_LIMIT:
            raise Invalid("credentials file", str(self.path), f"it is longer than {_FILE_LIMIT} bytes")
        if not raw.strip():
            return {}
        try:
            return parse_object(raw)
        except ValueError as error:
            raise Invalid("credentials file", str(self.path), f"it is no JSON object: {error}") from None

    def _write(self, config: dict[str, Any]) -> None:
        """Beside it, then renamed over it; where the path is a link, over what it points at."""
        path = os.path.realpath(self.path)
        new = f"{path}.{secrets.token_hex(4)}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with open(descriptor, "w") as file:
                    json.dump(config, file, indent="\t")
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except BaseException:
                os.unlink(new)
                raise
        except OSError as error:
            raise HostError("write the registries' credentials", path, error.errno or 0) from error

    # -- helpers -------------------------------------------------------------------------------------------

    async def _ask_helper(self, helper: str, key: str) -> Credentials | None:
        answer = await self._run(helper, "get", key.encode())
        if answer is None:
            return None
        try:
            found = parse_object(answer)
            user, secret = found.get("Username", ""), found.get("Secret", "")
            if not isinstance(user, str) or not isinstance(secret, str):
                raise ValueError("Username and Secret must be strings")
        except ValueError:
            raise _helper_failed(helper, "get", "its answer is not the JSON of a credential helper") from None
        if user == _TOKEN_USER:
            return Credentials(identity_token=secret)
        return Credentials(user, secret) or None

    async def _run(self, helper: str, action: str, message: bytes) -> bytes | None:
        """What the helper prints, which is never shown, or None if it has nothing for ``get``."""
        program = shutil.which(f"docker-credential-{helper}", path=self._environment.get("PATH", os.defpath))
        if program is None:
            raise _helper_failed(helper, action, f"docker-credential-{helper} is not in PATH")
        process = await trio.lowlevel.open_process(
            [program, action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )
        output = bytearray()
        done = False
        try:
            with trio.move_on_after(self._timeout):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_tell, process, message)
                    assert process.stdout is not None
                    async for chunk in process.stdout:
                        output += chunk
                        if len(output) > _ANSWER_LIMIT:
                            raise _helper_failed(helper, action, f"it printed more than {_ANSWER_LIMIT} bytes")
                await process.wait()
                done = True
        except BaseExceptionGroup as group:
            failures = [each for each in group.exceptions if isinstance(each, HostError)]
            if not failures:
                raise
            raise failures[0] from None
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                if process.stdin is not None:
                    await process.stdin.aclose()
                if process.stdout is not None:
                    await process.stdout.aclose()
        if not done:
            raise _helper_failed(helper, action, f"it did not answer within {self._timeout:g} s")
        if process.returncode:
            if action == "get" and _NOT_FOUND in output[:1000].decode(errors="replace").lower():
                return None
            raise _helper_failed(helper, action, f"it ended with exit code {process.returncode}")
        return bytes(output)


async def _tell(process: trio.Process, message: bytes) -> None:
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError):  # it did not read; its exit code says why
        await process.stdin.send_all(message)
    await process.stdin.aclose()


def _helper_failed(helper: str, action: str, why: str) -> HostError:
    return HostError(
        f"{action} credentials with the helper", helper, 0, f"{why}; see credsStore in the configuration"
    )


def _helper(config: dict[str, Any], key: str, domain: str) -> str | None:
    helpers = _table(config, "credHelpers")
    name = helpers.get(key) or helpers.get(domain) or config.get("credsStore")
    if not name:
        return None
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise Invalid("credential helper", name, "a helper's name is of letters, digits, '_', '.' and '-'")
    return name


def _table(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _plain_host(key: str) -> str:
    """As Docker compares names: without scheme and path."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _from_entry(entry: Any, path: Path) -> Credentials:
    if not isinstance(entry, dict):
        raise Invalid("credentials file", str(path), "an entry of auths is not an object")
    found = {}
    for name in ("username", "password", "auth", "identitytoken", "registrytoken"):
        value = entry.get(name) or ""
        if not isinstance(value, str):
            raise Invalid("credentials file", str(path), f"{name} of an entry of auths is not a string")
        found[name] = value
    if found["auth"]:
        try:
            found["username"], found["password"] = split_auth(found["auth"])
        except ValueError:
            raise Invalid("credentials file", str(path), "an auth is not base64 of user:password") from None
    return Credentials(found["username"], found["password"], found["identitytoken"], found["registrytoken"])
