"""What a disk refuses, told apart from every other fault, whoever wrote: Python, C++ or a thread.

    ENOSPC, EDQUOT           no room
    EROFS, EACCES, EFBIG     not allowed here, or not so large
    EIO                      the disk itself

Files written by C++ fail with an error of any type that has only the text of these.
"""

from __future__ import annotations

import errno
import os

_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NUMBERS = (*_ROOM, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)


def refusal(error: BaseException) -> tuple[str, str] | None:
    """Reason and remedy, both a few lower-case words; None for what is no fault of the disk.

    An OSError that has a number is judged by that alone, anything else by its text.
    """
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None:
        text = str(error).lower()
        number = next((n for n in _NUMBERS if os.strerror(n).lower() in text), None)
    if number not in _NUMBERS:
        return None
    remedy = "make room" if number in _ROOM else "see to the folder and its disk"
    return os.strerror(number).lower(), remedy
