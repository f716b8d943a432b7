"""Errors as Docker would have said them: statuses, and the words that clients look for.

Source: moby ``errdefs`` and ``distribution/errors.go`` (v27).
"""

from __future__ import annotations

from typing import Final

from lading.engine.api.mountspecs import volume_name_words
from lading.engine.http.message import HttpError, Response
from lading.events.errors import (
    AlreadyExists,
    Ambiguous,
    CannotStart,
    EngineClosed,
    ImageInvalid,
    InUse,
    Invalid,
    LadingError,
    NotFound,
    NotInHistory,
    Refused,
    StoreBroken,
    Unauthorized,
)
from lading.events.reference import parse_reference

__all__ = ["error_response", "failure_words", "pull_failure"]

_COMMAND_IS_WRONG: Final = (126, 127)


def error_response(error: LadingError) -> Response:
    """``error`` as an answer."""
    return Response.error(_status(error), failure_words(error))


def _status(error: LadingError) -> int:
    match error:
        case NotFound() | NotInHistory():
            return 404
        case Ambiguous() | Invalid() | ImageInvalid():
            return 400
        case Refused():
            return 409
        case CannotStart():
            return 400 if error.exit_code in _COMMAND_IS_WRONG else 500
        case Unauthorized():
            return 401
        case StoreBroken() | EngineClosed():
            return 503
        case _:
            return 500


def failure_words(error: Exception) -> str:
    """What ``error`` says to a person."""
    match error:
        case HttpError():
            return error.message
        case NotFound(kind="image"):
            return f"No such image: {_with_tag(error.name)}"
        case NotFound(kind="volume"):
            return f"get {error.name}: no such volume"
        case NotFound():
            return f"No such {error.kind}: {error.name}"
        case Ambiguous():
            return f"multiple IDs found with provided prefix: {error.prefix}"
        case AlreadyExists(kind="container"):
            return (
                f'Conflict. The container name "/{error.name}" is already in use by container "{error.holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        case InUse(kind="volume"):
            return f"remove {error.name}: volume is in use - [{', '.join(error.users)}]"
        case Invalid(field="volume name"):
            return f"create {error.value}: {volume_name_words(error)}"
        case Invalid(field="mount" | "mount target" | "mount source" | "mount option" | "volumes-from"):
            return error.why
        case Invalid(field="container name"):
            return f"Invalid container name ({error.value}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        case _:
            return str(error)


def pull_failure(error: LadingError, reference: str) -> LadingError | HttpError:
    """What a pull of ``reference`` says for ``error``: it is the registry that doesn't have it, or won't tell.

    A registry refuses strangers in the same way whether there is such an image or not: both are a 404, as in
    Docker.
    """
    name = parse_reference(reference)
    match error:
        case NotFound(kind="image"):
            return HttpError(404, f"manifest for {error.name} not found: manifest unknown")
        case NotFound() if "platform" in error.kind:
            platform, _, rest = error.name.partition(" ")
            return HttpError(
                404, f"no matching manifest for {platform} in the manifest list entries {rest}".rstrip()
            )
        case Unauthorized():
            why = f"{error.why}; {error.hint}" if error.hint else error.why
            return HttpError(
                404,
                f"pull access denied for {name.repository}, repository does not exist or may require "
                f"'docker login': {why}",
            )
        case _:
            return error


def _with_tag(name: str) -> str:
    try:
        return parse_reference(name).familiar
    except Invalid:
        return name
