"""Where sweeps run in tests: an empty OUTPUT, and stand-ins for train.py."""

import pytest
from sweeping import STAND_IN, VARIABLES

from anprompt.commands import sweep
from anprompt.protocols import environment as environments
from anprompt.sweeps import devices, scheduler


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The variables of an empty OUTPUT."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "no downloads"))
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an output"))
    monkeypatch.setenv("DATA", str(tmp_path))
    return tmp_path / "an output"


@pytest.fixture
def stand_in(tree, tmp_path, monkeypatch):
    """Calls ``anprompt sweep`` with stand-ins for train.py; its status and what they noted."""
    script, calls = tmp_path / "train.sh", tmp_path / "calls"
    script.write_text(STAND_IN)
    calls.touch()
    monkeypatch.setattr(environments, "TRAIN", ["bash", str(script)])
    monkeypatch.setattr(scheduler, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    monkeypatch.setattr(sweep, "problems", lambda *_: [])
    monkeypatch.setenv("CALLS", str(calls))

    def go(*arguments: str, command=sweep) -> tuple[int, list[str]]:
        calls.write_text("")
        return command.main(list(arguments)), calls.read_text().splitlines()

    return go
