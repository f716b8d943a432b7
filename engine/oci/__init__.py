"""What the OCI runtime is told, and which runtime that is."""
