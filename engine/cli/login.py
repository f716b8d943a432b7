"""``lading login`` and ``logout``, and what every command sends to a registry by way of the engine.

Credentials are kept where Docker's client keeps them, so that either program knows them: in the configuration
``~/.docker/config.json`` (``DOCKER_CONFIG``), or in the credential helper that it names. They are looked up here,
on the caller's side, and go to the engine in the header of the one request that needs them.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from lading.engine.cli.client import CLIENT, Place, run_with_engine, target

if TYPE_CHECKING:
    from lading.engine.http.client import Client
    from lading.engine.registry.credentials import Credentials

__all__ = ["COMMANDS", "registry_headers"]

_DEFAULT = "docker.io"


async def registry_headers(reference: str) -> dict[str, str]:
    """The headers of a request about ``reference``: who we are, and what its registry should know us by.

    Raises ``Invalid`` and ``HostError`` for a configuration or a helper that doesn't work.
    """
    from lading.engine.registry.dockerconfig import CredentialStore
    from lading.events.errors import Invalid
    from lading.events.reference import parse_reference

    try:
        domain = parse_reference(reference).domain
    except Invalid:
        return CLIENT  # the engine says what is wrong with it
    found = await CredentialStore().get(domain)
    return CLIENT if found is None else CLIENT | {"X-Registry-Auth": _encoded(_fields(found, domain))}


def _fields(credentials: Credentials, domain: str) -> dict[str, str]:
    """Docker's AuthConfig (Engine API, "Authentication")."""
    from lading.engine.registry.credentials import auth_key

    fields = {
        "username": credentials.username,
        "password": credentials.password,
        "identitytoken": credentials.identity_token,
        "registrytoken": credentials.registry_token,
        "serveraddress": auth_key(domain),
    }
    return {name: value for name, value in fields.items() if value}


def _encoded(fields: dict[str, str]) -> str:
    import base64

    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def _domain(server: str | None) -> str:
    """The registry's name out of what people write: with a scheme, with a path, or not at all."""
    bare = (server or _DEFAULT).removeprefix("https://").removeprefix("http://").partition("/")[0]
    return _DEFAULT if bare in (f"index.{_DEFAULT}", f"registry-1.{_DEFAULT}") else bare


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  lading login registry.example -u ann\n"
        "  lading login registry.example -u ann --password-stdin < secret"
    )
)
@click.option("-u", "--username", metavar="NAME", help="Who to log in as.")
@click.option("--password-stdin", is_flag=True, help="Read the password or token from standard input.")
@click.argument("server", metavar="[SERVER]", required=False)
@click.pass_obj
def login(place: Place, server: str | None, username: str | None, password_stdin: bool) -> int:
    """Log in to a registry, and remember it.

    SERVER is a registry's name, without one Docker Hub. The credentials are tried first, and then kept where
    Docker's client keeps them: see ~/.docker/config.json.
    """
    domain = _domain(server)
    if password_stdin and not username:
        raise click.UsageError("With --password-stdin say who it is: --username NAME.")
    if not password_stdin and not sys.stdin.isatty():
        raise click.UsageError("Standard input is no terminal to be asked on: use -u NAME --password-stdin.")
    user = username or click.prompt("Username", err=True)
    if password_stdin:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    else:
        password = click.prompt("Password", hide_input=True, err=True)
    if not user or not password:
        raise click.UsageError("The user's name and the password must not be empty.")

    async def work(client: Client) -> int:
        from lading.engine.registry.credentials import Credentials
        from lading.engine.registry.dockerconfig import CredentialStore

        known = Credentials(user, password)
        kind = CLIENT | {"Content-Type": "application/json"}
        body = json.dumps(_fields(known, domain)).encode()
        async with await client.request("POST", target("auth"), headers=kind, body=body) as reply:
            await reply.check()
            answer = await reply.json()
        if token := answer.get("IdentityToken"):
            known = Credentials(user, identity_token=token)
        kept = await CredentialStore().store(domain, known)
        print(f"credentials are kept in {kept}", file=sys.stderr)
        print(answer["Status"])
        return 0

    return run_with_engine(place, work)


@click.command(epilog="\b\nExample:\n  lading logout registry.example")
@click.argument("server", metavar="[SERVER]", required=False)
def logout(server: str | None) -> int:
    """Forget the credentials for a registry."""
    import trio

    from lading.engine.registry.dockerconfig import CredentialStore

    domain = _domain(server)
    if trio.run(CredentialStore().erase, domain):
        print(f"Removing login credentials for {domain}")
    else:
        print(f"Not logged in to {domain}")
    return 0


COMMANDS = (login, logout)
