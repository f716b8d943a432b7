"""An asynchronous, event-sourced container engine."""
