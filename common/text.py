"""Text of unknown origin, made fit to be shown."""

import re

# Control characters (a terminal obeys some), those that reverse the direction of writing, and
# halves of surrogate pairs, which no file can hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def plain(text: object) -> str:
    r"""Return text without control characters, in one line.

    >>> plain("a\x1b[31m\nb")
    'a [31m b'
    """
    return _CONTROL.sub(" ", str(text))
