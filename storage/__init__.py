"""Synchronous I/O: LMDB and files. Knows nothing of trio."""
