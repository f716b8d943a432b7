"""Volumes, and whatever else a container mounts."""
