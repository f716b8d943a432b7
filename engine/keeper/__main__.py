"""``python -m lading.engine.keeper RUN_DIR``: see ``keeper.main``."""

from lading.engine.keeper.keeper import main

main()
