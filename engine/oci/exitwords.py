"""Exit codes from the words of an OCI runtime that could not execute a command."""

from __future__ import annotations

__all__ = ["classify_failure"]


def classify_failure(why: str) -> tuple[int, str]:
    """Docker's exit code for a runtime's words, and words that Docker's clients know.

    127: the executable is missing; 126: it can't be executed; 125: anything else.
    """
    text = why.lower()
    if "not found in $path" in text or ("no such file or directory" in text and "exec" in text):
        phrase = "executable file not found in $PATH" if "in $path" in text else "no such file or directory"
        return 127, why if phrase in why else f"{why}: {phrase}"
    if any(
        words in text for words in ("exec format error", "permission denied", "is a directory", "open executable")
    ):
        return 126, why if "permission denied" in why else f"{why}: permission denied"
    return 125, why
