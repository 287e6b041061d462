"""anprompt sweep: which runs there are."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from sweeping import ROOT, TWELVE, coop_on_shapes, methods

from anprompt.commands import sweep
from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import DATASETS, IMAGENET_VARIANTS, RunSpec, plan
from anprompt.sweeps import scheduler

pytestmark = pytest.mark.slow


def test_seed_by_seed_and_what_learns_nothing_once():
    runs = plan("base2new", methods("zsclip", "coop"), ["shapes"], [1, 2])
    assert list(map(str, runs)) == [
        "zsclip shapes seed 1 train",
        "zsclip shapes seed 1 test",
        "coop shapes seed 1 train",
        "coop shapes seed 1 test",
        "coop shapes seed 2 train",
        "coop shapes seed 2 test",
    ]


def test_cross_dataset_trains_once_a_method_and_leaves_the_source_out():
    targets = ["caltech101", "eurosat", "dtd"]
    runs = plan("crossdata", methods("coop"), targets, [1], [16], "caltech101")
    assert list(map(str, runs)) == [
        "coop caltech101 seed 1 train",
        "coop caltech101 to eurosat seed 1 test",
        "coop caltech101 to dtd seed 1 test",
    ]
    assert [run.needs for run in runs] == [None, runs[0], runs[0]]
    (train, *_) = plan("domaingen", methods("coop"), ["imagenet_a"], [1], [16], "caltech101")
    assert train == runs[0]  # both protocols read the same training


def test_few_shot_runs_every_number_of_shots():
    runs = plan("fewshot", methods("zsclip", "coop"), ["dtd"], [1, 2], [1, 16])
    assert list(map(str, runs)) == [
        "zsclip dtd 1 shots seed 1",
        "coop dtd 1 shots seed 1",
        "coop dtd seed 1",
        "coop dtd 1 shots seed 2",
        "coop dtd seed 2",
    ]


def test_defaults_are_the_protocols(tree):
    def planned(*arguments: str) -> list[RunSpec]:
        return sweep.runs_for(sweep.parse(arguments, sweep.make_parser())[0])

    assert {run.dataset for run in planned("base2new")} == set(DATASETS)
    some = planned("fewshot", "--methods", "zsclip,coop,maple")
    assert [run.method for run in some[:3]] == ["ZeroshotCLIP", "CoOp", "MaPLe"]
    assert {run.shots for run in planned("fewshot")} == {1, 2, 4, 8, 16}
    across = planned("crossdata", "--methods", "coop", "--seeds", "1")
    assert [run.dataset for run in across] == DATASETS  # the source first, then the others
    general = planned("domaingen", "--methods", "coop", "--seeds", "1")
    assert [run.dataset for run in general] == ["imagenet", *IMAGENET_VARIANTS]
    named = planned("crossdata", "--source", "dtd", "--targets", "eurosat", "--seeds", "1")
    assert {run.source for run in named} == {"dtd"}


def test_other_configurations_are_named_and_have_logs_of_their_own(tree):
    arguments = ["base2new", "--methods", "anprompt", "--datasets", "shapes", "--seeds", "1"]
    arguments += ["--cfg", "ANPrompt=vit_b16,ablations/no_noise"]
    runs = sweep.runs_for(sweep.parse(arguments, sweep.make_parser())[0])
    assert list(map(str, runs)) == [
        "anprompt shapes seed 1 train",
        "anprompt shapes seed 1 test",
        "anprompt (no_noise) shapes seed 1 train",
        "anprompt (no_noise) shapes seed 1 test",
    ]
    assert len({scheduler.log_file(run, Environment.read()) for run in runs}) == 4
    assert [run.needs for run in runs] == [None, runs[0], None, runs[2]]
    arguments[-1:] = ["ANPrompt=vit_b16", "--cfg", "anprompt=ablations/no_noise,vit_b16"]
    assert sweep.runs_for(sweep.parse(arguments, sweep.make_parser())[0]) == runs


def test_logs_which_are_locks_are_of_one_backbone(tree):
    (run, _) = coop_on_shapes()
    other = replace(run, backbone="ViT-B/16")
    logs = [scheduler.log_file(item, Environment.read()).name for item in (run, other)]
    assert logs[0] == "base2new_coop_shapes_seed_3_train.log"
    assert logs[1] == "base2new_coop_shapes_seed_3_train_ViT-B_16.log"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--methods", "coop,cop"], ["'cop'", "coop"]),
        (["--datasets", "eurosatt"], ["'eurosatt'", "eurosat"]),
        (["--seeds", "1,x"], ["--seeds", "'x'"]),
        (["--seeds", ","], ["--seeds"]),
        (["--shots", "0"], ["--shots", "'0'"]),
        (["--methods", ","], ["no method named"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["--cfg", "coop="], ["'coop='", "METHOD=CONFIG"]),
        (["--methods", "coop", "--cfg", "coop=no_such"], ["'no_such'"]),
        (["--methods", "coop", "--cfg", "maple=vit_b16"], ["maple is not among --methods"]),
        (["OPTIM.MAX_EPOCH", "1"], ["OPTIM.MAX_EPOCH 1", "after --"]),
    ],
)
def test_bad_input_is_one_line(arguments, said, stand_in, capsys):
    from anprompt.__main__ import main

    try:
        status = main(["sweep", "base2new", *arguments])
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert (status, len(error.splitlines())) == (2, 1)
    assert all(text in error for text in said)


def test_only_drawn_data_and_ones_own_images_need_no_folder(stand_in, monkeypatch):
    monkeypatch.delenv("DATA")
    with pytest.raises(ValueError, match="DATA is not set"):
        stand_in("fewshot")
    arguments = ["--methods", "coop", "--seeds", "1", "--shots", "1"]
    assert stand_in("fewshot", "--datasets", "shapes,imagefolder", *arguments)[0] == 0


def test_plans_of_ten_thousand_runs(tree, monkeypatch, capsys):
    """In seconds, and without torch (test_planning_needs_no_torch)."""
    monkeypatch.setenv("DRY_RUN", "1")
    began = time.process_time()
    seeds = ",".join(map(str, range(1, 47)))
    assert sweep.main(["base2new", "--methods", TWELVE, "--seeds", seeds]) == 0
    assert "0 of 10164 runs are done" in capsys.readouterr().out
    assert time.process_time() - began < 5


def test_planning_needs_no_torch(tree):
    program = (
        "import sys; from anprompt.commands import sweep; "
        f"assert sweep.main(['base2new', '--status', '--methods', '{TWELVE}']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "704 runs: 0 finished, 0 running, 0 stopped, 704 waiting\n"
