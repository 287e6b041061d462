"""docs/TROUBLESHOOTING.md quotes only what the code says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/TROUBLESHOOTING.md").read_text(encoding="utf-8")
PACKAGES = ("anprompt", "clip", "common", "dassl", "datasets", "noise", "trainers")
HOLE = "\0"


def texts_of(path: Path) -> list[str]:
    """All string literals of a file, adjacent ones joined, ``HOLE`` for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_every_message_is_in_the_code():
    rows = PAGE[PAGE.index("## Messages") : PAGE.index("## Symptoms")]
    messages = re.findall(r"^\| `(.+?)` \|", rows, re.M)
    assert len(messages) > 25
    texts = [
        text
        for path in [
            ROOT / "train.py",
            *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py")),
        ]
        for text in texts_of(path)
    ] + [path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("*.sh")]
    missing = []
    for message in messages:
        parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
        pattern = re.compile(r".*?".join(parts), re.S)
        if not any(pattern.search(text) and len(text) > 10 for text in texts):
            missing.append(message)
    assert not missing


def test_every_setting_and_command_is_there():
    from anprompt.__main__ import COMMANDS

    settings = (ROOT / "docs/SETTINGS.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([A-Z]+\.[A-Z_]+)", PAGE):
        assert name.split(".")[-1] in settings, name
    for name in re.findall(r"python -m anprompt (\w+)", PAGE):
        assert name in COMMANDS, name
    for name in re.findall(r"-r (\S+\.txt)", PAGE):
        assert (ROOT / name).is_file(), name
