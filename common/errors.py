"""The one exception that means "the request was wrong", not "the program is wrong"."""

import os

DEAD_WORKER = "DataLoader worker (pid"  # how torch begins to say that one was killed
_FROM_WORKER = "Caught UsageError in DataLoader worker"


class UsageError(ValueError):
    """Wrong input: a name, a path, a value, a file.

    The message is one line that says what is wrong, where, and how to mend it. Commands print it
    without a traceback and exit with code 2.
    """

    def __init__(self, message: str):
        message = str(message)
        if message.startswith(_FROM_WORKER):
            # torch re-raises a worker's exception with the whole traceback as its message; the
            # original line is the last one.
            message = message.rstrip().rsplit("UsageError: ", 1)[-1]
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    """Return a message in one line; of a word or a list that is endless, the two ends."""
    words = (_ends(word, 400) for word in message.split())
    return _ends(" ".join(words), 2000)


def _ends(text: str, limit: int) -> str:
    half = limit // 2 - 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line; of an ``OSError`` the file and the reason.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "a.json"))
    'a.json: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
        message = ": ".join([" -> ".join(names), error.strerror] if names else [error.strerror])
    else:
        message = str(error)
    return _one_line(message) or type(error).__name__
