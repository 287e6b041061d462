"""Say what the running Python has of a requirements file.

Usage: python scripts/check_python.py requirements.txt

Prints the version of torch that is installed (an empty line where none is), then how much is to be
downloaded for what is missing, in MB, then the missing requirements, one a line. Uses the standard
library and pip's own copy of ``packaging`` only, because it runs before anything is installed.
"""

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        Requirement = None

# Roughly, with what they bring along; torch with CUDA takes ten times as much.
MEGABYTES = {
    "torch": 250,
    "torchvision": 10,
    "open-clip-torch": 15,
    "scikit-learn": 50,
    "numpy": 20,
}
MEGABYTES |= {"matplotlib": 25, "tensorboard": 15, "ruff": 15, "mypy": 15}
OTHERS = 3


def requirement_lines(path: Path) -> list[str]:
    """Return the requirements in ``path``, comments dropped and ``-r FILE`` lines followed."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            lines += requirement_lines(path.parent / line[3:].strip())
        elif line:
            lines.append(line)
    return lines


def is_satisfied(line: str) -> bool:
    """Return whether a requirement is installed in a version that will do."""
    requirement = Requirement(line) if Requirement else None
    version = version_of(requirement.name if requirement else re.split(r"[^\w.-]", line)[0])
    if version is None or requirement is None:
        return version is not None
    return requirement.specifier.contains(version, prereleases=True)


def version_of(name: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def megabytes(lines: list[str]) -> int:
    """Return roughly how much is to be downloaded for these requirements."""
    names = [re.split(r"[^\w.-]", line)[0].replace("_", "-").lower() for line in lines]
    return sum(MEGABYTES.get(name, OTHERS) for name in names)


if __name__ == "__main__":
    missing = [line for line in requirement_lines(Path(sys.argv[1])) if not is_satisfied(line)]
    print(version_of("torch") or ("unknown" if importlib.util.find_spec("torch") else ""))
    print(megabytes(missing))
    print("\n".join(missing))
