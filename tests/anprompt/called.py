"""Commands as ``python -m anprompt`` calls them: bad input is a line on stderr and status 2."""

from collections.abc import Callable, Sequence

import anprompt.commands.report
import anprompt.commands.robustness
import anprompt.commands.table
from common import cli


def _called(main: Callable[[list[str]], int], name: str) -> Callable[[Sequence[str]], int]:
    return lambda arguments: cli.run(main, name, [str(argument) for argument in arguments])


table = _called(anprompt.commands.table.main, "anprompt table")
report = _called(anprompt.commands.report.main, "anprompt report")
robustness = _called(anprompt.commands.robustness.main, "anprompt robustness")
