"""The registry client: manifests and blobs, fetched and pushed (OCI distribution-spec v1.1, Docker's API v2).

It knows nothing of the engine, the log or the store. Importing it imports no HTTP client: httpx comes with the
first `Registry` that is opened.
"""

from lading.engine.registry.client import FetchedImage, FetchedManifest, ManifestFacts, Registry
from lading.engine.registry.credentials import Credentials, credentials_from_header
from lading.engine.registry.dockerconfig import CredentialStore
from lading.engine.registry.settings import RegistrySettings, load_settings
from lading.engine.registry.transfer import Blob
from lading.engine.registry.upload import Source

__all__ = [
    "Blob",
    "CredentialStore",
    "Credentials",
    "FetchedImage",
    "FetchedManifest",
    "ManifestFacts",
    "Registry",
    "RegistrySettings",
    "Source",
    "credentials_from_header",
    "load_settings",
]
