"""The format of log.txt: its result, and the settings that upstream's code prints on top.

One reader for CoOp, CoCoOp, MaPLe, PromptSRC, MMRL and this repository. Needs no torch.
"""

import ast
import re
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.reading import read_bytes
from common.schema import PERCENT

END_OF_TRAINING = ("Finish training", "Finished training")
START_OF_RESULT = "=> result"
ARGUMENTS = "** Arguments **"
CONFIG_BLOCK = "** Config **"
ENTRY = re.compile(r"^( *)(\w+):(?: (.*))?$")


def parse_log(path: Path, keyword: str = "accuracy", is_test_log: bool = False) -> float | None:
    """Return the last ``* keyword: 12.3%`` of a log, in percent; None where there is none yet.

    Results printed while training went on do not count, unless ``is_test_log`` says that the log is
    of an evaluation, which has no training to finish.

    Raises:
        UsageError: the log cannot be read, or its result is no share.
    """
    pattern = re.compile(rf"\* {re.escape(keyword)}: ([\d.eE+-]+)%")
    counts = False
    value = None
    for line in read_lines(path):
        line = line.strip()
        counts = counts or line in END_OF_TRAINING or (is_test_log and line == START_OF_RESULT)
        match = pattern.search(line)
        if match and counts:
            value = _share(match.group(1), path)
    return value


def read_lines(path: Path) -> list[str]:
    """Return the lines of a log, in whatever encoding.

    Raises:
        UsageError: it cannot be read.
    """
    return read_bytes(path).decode("utf-8", "replace").splitlines()


def _share(text: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not PERCENT.holds(value):
        raise UsageError(f"{path}: a result of {text}% is none; remove the log, or run again")
    return value


def log_files(folder: Path) -> list[Path]:
    """Return a run's logs, the latest first. Dates sort as text, log.txt itself is the oldest."""
    return sorted((path for path in folder.glob("log.txt*") if path.is_file()), reverse=True)


def final_result(
    folder: Path, keyword: str = "accuracy", is_test_log: bool = False
) -> tuple[Path, float] | None:
    """Return a run's latest log that has a result, and the result in percent; else None."""
    for path in log_files(folder):
        value = parse_log(path, keyword, is_test_log)
        if value is not None:
            return path, value
    return None


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the command line's arguments and the settings (dotted names) that a log starts with.

    Both are empty where the log does not print them.
    """
    lines = read_lines(path)
    return _block(lines, ARGUMENTS), _block(lines, CONFIG_BLOCK)


def _block(lines: list[str], title: str) -> dict[str, Any]:
    """Return entries below a title, up to the first line that is none. Indentation nests names."""
    values: dict[str, Any] = {}
    if title not in lines:
        return values
    nodes: list[tuple[int, str]] = []  # the open ones: indentation, name with a final dot
    for line in lines[lines.index(title) + 2 :]:  # a line of asterisks follows
        entry = ENTRY.match(line)
        if not entry:
            break
        indent, name, text = len(entry.group(1)), entry.group(2), entry.group(3)
        while nodes and nodes[-1][0] >= indent:
            nodes.pop()
        prefix = nodes[-1][1] if nodes else ""
        if text is None:  # a node; an empty text ends in a space
            nodes.append((indent, f"{prefix}{name}."))
        else:
            values[prefix + name] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return list(value) if isinstance(value, tuple) else value
