"""The parent of the containers, a process that outlives the engine, and both ends of what the two say."""
