"""The ``lading`` command."""
