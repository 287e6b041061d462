"""anprompt sweep: which runs are finished, and what a dry run shows of the others."""

import json
import shlex
from pathlib import Path

import pytest
from sweeping import ROOT, coop_on_shapes, methods

from anprompt.commands import sweep
from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import plan
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from anprompt.runs.recorded import record_config
from anprompt.sweeps import devices, scheduler
from anprompt.sweeps.finished import Configurations, find_finished

pytestmark = pytest.mark.slow


@pytest.fixture
def finish(tree, monkeypatch):
    """Puts down what a run of CoOp on Shapes would leave behind."""
    monkeypatch.delenv("DATA")

    def put(stage: str) -> None:
        (run,) = [run for run in coop_on_shapes() if run.stage == stage]
        cfg = build_cfg(make_parser().parse_args(run.argv(tree)))
        Path(cfg.OUTPUT_DIR).mkdir(parents=True)
        record_config(cfg)
        results = {"finished": True, "accuracy": 61.25}
        (Path(cfg.OUTPUT_DIR) / "results.json").write_text(json.dumps(results))

    return put


def finished(*options: str) -> list[str]:
    """The stages of CoOp on Shapes that are finished."""
    found = find_finished(coop_on_shapes(), Environment.read(), options)
    assert all(results["accuracy"] == 61.25 for results in found.values())
    return [run.stage for run in found]


def test_a_finished_run_is_recognised_by_its_settings(finish, tree):
    assert finished() == []
    finish("train")
    assert finished() == ["train"]
    assert finished("OPTIM.MAX_EPOCH", "3") == []
    assert finished("OPTIM.NO_SUCH", "3") == []
    (results,) = tree.rglob("results.json")
    results.write_text("{")
    assert finished() == []


def test_a_test_is_finished_where_its_training_is(finish, tree):
    finish("test")
    assert finished() == []
    finish("train")
    assert finished() == ["train", "test"]
    (trained,) = tree.glob("base2new/train_base/**/seed3")
    (results,) = tree.glob("base2new/test_new/**/results.json")
    file = "prompt_learner/model.pth.tar-200"
    (trained / file).parent.mkdir()
    (trained / file).write_text("another one")
    identity = {"checkpoint": {file: "of the one that was read"}}
    results.write_text(json.dumps(json.loads(results.read_text()) | {"identity": identity}))
    assert finished() == ["train"]


def test_configurations_built_for_many_runs_are_those_of_train_py(tree):
    for options in ([], ["OPTIM.MAX_EPOCH", "3"], ["SEED", "7"]):
        environment = Environment.read()
        configurations = Configurations(environment, options)
        for protocol in ("base2new", "crossdata", "fewshot"):
            runs = plan(
                protocol, methods("zsclip", "coop", "anprompt"), ["imagenet", "eurosat"], [1, 2],
                [1, 16], "caltech101",
            )  # fmt: skip
            for run in runs:
                argv = environment.argv(run, options)
                alone = build_cfg(make_parser().parse_args(argv)).dump()
                assert configurations.of(run).dump() == alone


def test_finished_runs_are_not_started(finish, monkeypatch, capsys):
    for stage in ("train", "test"):
        finish(stage)

    def refuse(run, *_):
        raise AssertionError(f"started {run}")

    monkeypatch.setattr(scheduler, "Process", refuse)
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds"]
    assert sweep.main([*command, "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "[1/2] coop shapes seed 3 train", "[2/2] coop shapes seed 3 test",
    ]  # fmt: skip
    assert all("61.2%  earlier" in line for line in lines[1:])
    with pytest.raises(AssertionError, match="started coop shapes seed 4 train"):
        sweep.main([*command, "4"])


def test_a_dry_run_shows_the_commands_of_what_is_not_finished(finish, monkeypatch, capsys):
    finish("train")
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(scheduler, "Process", None)
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "3"]
    assert sweep.main(command) == 0
    first, test, line, told = capsys.readouterr().out.splitlines()
    assert first == "coop shapes seed 3 train   61.2%  earlier"
    assert test == "coop shapes seed 3 test:"
    words = shlex.split(line)
    assert words[1] == str(ROOT / "train.py") and words[-2:] == ["DATASET.SUBSAMPLE_CLASSES", "new"]
    assert told == "1 of 2 runs are done; nothing was started."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "99"], "--gpus 99: there is no GPU 99"),
        (["--plugin", "nowhere.py"], "--plugin nowhere.py: no such file"),
        (["--slurm", "mem=1G"], "it stands with --cluster slurm"),
        (["--cluster", "slurm", "--slurm", "time=soon"], "expected minutes"),
        (["--cluster", "slurm", "--gpus", "0"], "--slurm gpus_per_node=N"),
        (["--shard-minutes", "0"], "--shard-minutes 0: expected"),
        (["--", "OPTIM.LR", "-1"], "OPTIM.LR -1.0: takes a number above 0"),
        (["--", "OPTIM.RATE", "1"], "unknown config key OPTIM.RATE"),
        (["--", "OPTIM.LR"], "'OPTIM.LR' stands alone"),
        (["--", "--quiet"], "flags stand before"),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "reproduce"])
def test_a_dry_run_refuses_what_a_run_refuses(command, arguments, said, tree, monkeypatch, capsys):
    from anprompt.__main__ import main

    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    chosen = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "3"]
    assert main([command, *chosen, *arguments]) == 2
    printed = capsys.readouterr()
    error = [line for line in printed.err.splitlines() if not line.startswith("Backbone: ")]
    assert len(error) == 1 and said in error[0] and not printed.out
    if arguments[0] == "--":
        monkeypatch.delenv("DRY_RUN")
        assert main([command, *chosen, "--print-commands", *arguments]) == 2
        printed = capsys.readouterr()
        assert said in printed.err and not printed.out
