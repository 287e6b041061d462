"""Print the lines of a requirements file that the running Python does not satisfy, one a line.

Usage: python scripts/missing_requirements.py requirements.txt

Uses the standard library and pip's own copy of ``packaging`` only, because it runs before anything
is installed.
"""

import importlib.metadata
import sys
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement


def requirement_lines(path: Path) -> list[str]:
    """The requirements in ``path``, comments dropped and ``-r FILE`` lines followed."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            lines += requirement_lines(path.parent / line[3:].strip())
        elif line:
            lines.append(line)
    return lines


def is_satisfied(line: str) -> bool:
    requirement = Requirement(line)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    for requirement_line in requirement_lines(Path(sys.argv[1])):
        if not is_satisfied(requirement_line):
            print(requirement_line)
