"""Signal names, as Docker's clients write them: ``TERM``, ``SIGTERM``, ``15``, ``RTMIN+3``."""

from __future__ import annotations

import re
import signal

from lading.events.errors import Invalid

__all__ = ["check_signal", "signal_number"]

_REALTIME = re.compile(r"SIGRT(?:MIN(\+[0-9]{1,2})?|MAX(-[0-9]{1,2})?)")
_NUMBER = re.compile(r"[0-9]{1,3}")


def check_signal(text: str) -> str:
    """``text`` as a canonical name such as ``SIGTERM`` (or a number for an unnamed one), or ``Invalid``."""
    number = signal_number(text)
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def signal_number(text: str) -> int:
    """The number of the signal called ``text``, 1 to 64, or ``Invalid``."""
    number = 0
    if _NUMBER.fullmatch(text):
        number = int(text)
    elif text.isascii():
        name = text.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if match := _REALTIME.fullmatch(name):
            base = signal.SIGRTMIN if "MIN" in name else signal.SIGRTMAX
            number = int(base) + int(match[1] or match[2] or 0)
            number = number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
        elif name in signal.Signals.__members__:
            number = int(signal.Signals[name])
    if not 1 <= number <= int(signal.SIGRTMAX):
        raise Invalid("signal", text, "give a name such as SIGTERM or a number from 1 to 64")
    return number
