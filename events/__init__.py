"""The pure core: values in, values out; no clock, no randomness, no I/O."""

from lading.events.claims import *
from lading.events.claims import __all__ as _claims
from lading.events.compaction import *
from lading.events.compaction import __all__ as _compaction
from lading.events.container import *
from lading.events.container import __all__ as _container
from lading.events.envelope import *
from lading.events.envelope import __all__ as _envelope
from lading.events.errors import *
from lading.events.errors import __all__ as _errors
from lading.events.execs import *
from lading.events.execs import __all__ as _execs
from lading.events.ids import *
from lading.events.ids import __all__ as _ids
from lading.events.image import *
from lading.events.image import __all__ as _image
from lading.events.settings import *
from lading.events.settings import __all__ as _settings
from lading.events.spec import *
from lading.events.spec import __all__ as _spec
from lading.events.store import *
from lading.events.store import __all__ as _store
from lading.events.upkeep import *
from lading.events.upkeep import __all__ as _upkeep
from lading.events.volume import *
from lading.events.volume import __all__ as _volume

__all__ = [
    *_claims,
    *_compaction,
    *_container,
    *_envelope,
    *_errors,
    *_execs,
    *_ids,
    *_image,
    *_settings,
    *_spec,
    *_store,
    *_upkeep,
    *_volume,
]
