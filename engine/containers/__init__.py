"""Containers: made, run, supervised, changed, removed."""
