"""Images: how they come, what is told of them, how they go."""
