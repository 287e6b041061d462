"""python -m anprompt methods."""

import pytest

from anprompt.commands.methods import FACTS, main, rows
from common.errors import UsageError


def test_every_method_is_listed_with_its_facts():
    listed = {row[0]: row for row in rows([])}
    assert set(FACTS) <= set(listed)
    assert listed["TCP"][1] == "tcp"
    assert listed["TCP"][4] == "MIT"
    assert listed["TCP"][5] == "base-to-new, few-shot, cross-dataset, domain generalisation"


def test_methods_by_name(capsys):
    assert main(["maple", "CLIPLoRA"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["MaPLe", "CLIPLoRA"]
    with pytest.raises(UsageError, match="mapel"):
        rows(["mapel"])
