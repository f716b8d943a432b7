"""Whom a TLS connection trusts: the system's authorities, and those that the administrator gave for one registry.

A directory for each host below the directories of the settings, as Docker has it below ``/etc/docker/certs.d``::

    HOST[:PORT]/ca.crt         authorities (any ``*.crt``)
    HOST[:PORT]/client.cert    who we are (any ``*.cert``, with the ``*.key`` of the same name beside it)
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from lading.events.errors import HostError, Invalid

__all__ = ["tls_context"]


def tls_context(host: str, directories: Sequence[str], *, verify: bool) -> ssl.SSLContext:
    """The context for connections to ``host`` (``host[:port]``); without ``verify`` anybody is believed.

    Raises ``Invalid`` for a certificate that can't be used, ``HostError`` for one that can't be read.
    """
    if verify:
        context = ssl.create_default_context()
        if not _system_has_authorities():
            import certifi

            context.load_verify_locations(certifi.where())
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading the system's authorities takes 20 ms
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for directory in directories:
        place = Path(directory, host)
        try:
            files = sorted(place.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise HostError("read the certificates in", str(place), error.errno or 0) from error
        for file in files:
            _add(context, file)
    return context


def _add(context: ssl.SSLContext, file: Path) -> None:
    try:
        if file.suffix == ".crt":
            context.load_verify_locations(file)
        elif file.suffix == ".cert":
            key = file.with_suffix(".key")
            if not key.exists():
                raise Invalid("client certificate", str(file), f"its key is missing: put it into {key}")
            context.load_cert_chain(file, key, password=_no_password)
    except ssl.SSLError as error:
        raise Invalid("certificate", str(file), f"OpenSSL can't use it: {error.reason or error}") from None
    except OSError as error:
        raise HostError("read the certificate", str(file), error.errno or 0) from error


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    return ""


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    return any(place and os.path.exists(place) for place in (paths.cafile, paths.capath))
