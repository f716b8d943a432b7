"""The log as trio tasks use it: appended to in groups, followed, verified, kept."""
