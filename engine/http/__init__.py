"""HTTP/1.1 over a Unix socket, for any handler."""
