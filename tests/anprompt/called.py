"""Commands as ``python -m anprompt`` calls them: bad input is a line on stderr and status 2."""

import functools
from collections.abc import Sequence

from anprompt.__main__ import main


def _call(name: str, arguments: Sequence) -> int:
    return main([name, *map(str, arguments)])


table, report, robustness = (
    functools.partial(_call, name) for name in ("table", "report", "robustness")
)
