"""Docker's Engine API over the engine: routes, shapes, streams."""
