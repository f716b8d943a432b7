"""The asynchronous engine: the only place with trio."""
