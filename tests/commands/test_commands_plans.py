"""anprompt sweep: which runs, in which order and where, and which are finished."""

import heapq
import json
import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeping import ROOT, coop_on_shapes, methods

from anprompt.commands import sweep
from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import DATASETS, IMAGENET_VARIANTS, RunSpec, plan
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from anprompt.runs.recorded import record_config
from anprompt.sweeps import devices, scheduler
from anprompt.sweeps.costs import Costs
from anprompt.sweeps.finished import Configurations, find_finished
from anprompt.sweeps.work import WorkQueue

pytestmark = pytest.mark.slow

# Plans -----------------------------------------------------------------------------------------


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


# Finished runs ---------------------------------------------------------------------------------


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


TWELVE = (
    "ZeroshotCLIP,ZeroshotCLIP2,CoOp,CoCoOp,KgCoOp,VPT,IVLP,MaPLe,PromptSRC,MMRL,MMRLpp,ANPrompt"
)


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


# Order and places ------------------------------------------------------------------------------


def test_the_longest_start_first_and_tests_wait():
    runs = plan("base2new", methods("coop", "maple"), ["shapes", "dtd"], [1])
    seconds = {"coop": 1.0, "maple": 5.0}
    work = WorkQueue(runs, lambda run: seconds[str(run).split()[0]] + (run.dataset == "dtd"))
    assert len(work) == 8
    taken = [str(work.take()) for _ in range(4)]
    assert taken == [
        "maple dtd seed 1 train", "maple shapes seed 1 train",
        "coop dtd seed 1 train", "coop shapes seed 1 train",
    ]  # fmt: skip
    assert work.take() is None and len(work) == 4
    by_name = {str(run): run for run in runs}
    work.done(by_name["maple shapes seed 1 train"])
    assert str(work.take()) == "maple shapes seed 1 test"
    dropped = work.failed(by_name["coop dtd seed 1 train"])
    assert list(map(str, dropped)) == ["coop dtd seed 1 test"] and len(work) == 2


def test_one_thread_each_on_a_cpu(monkeypatch):
    def share(*given) -> tuple[int, str]:
        places, _ = devices.slots(*given)
        return len(places), places[0].environment["OMP_NUM_THREADS"]

    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    monkeypatch.setattr(devices, "_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share() == (4, "1")
    assert [share(jobs) for jobs in (1, 2, 8)] == [(1, "1"), (2, "1"), (8, "1")]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert share() == (2, "4")


def test_every_visible_gpu_takes_a_run(monkeypatch):
    monkeypatch.setattr(devices, "torch_has_gpu_support", lambda: True)
    monkeypatch.setattr(devices, "_count_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def gpus(*given, **more) -> list[str]:
        return [
            place.environment["CUDA_VISIBLE_DEVICES"] for place in devices.slots(*given, **more)[0]
        ]

    assert gpus() == ["0", "1", "2", "3"]
    assert gpus(per_gpu=2, gpus="1,3") == ["1", "3", "1", "3"]
    assert gpus(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8932f937,7")
    assert gpus() == ["5", "GPU-8932f937", "7"]
    assert gpus(gpus="0-1") == ["5", "GPU-8932f937"]  # numbers count the visible ones, as torch's
    with pytest.raises(ValueError, match="no GPU 3; GPUs 0 to 2 are visible"):
        devices.slots(gpus="3")
    with pytest.raises(ValueError, match="expected numbers"):
        devices.slots(gpus="2-1")
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert devices.visible_gpus() == []
    with pytest.raises(ValueError, match="no GPU is visible"):
        devices.slots(gpus="0")


def test_a_torch_without_gpu_support_is_known_without_importing_it():
    import torch

    has_support = bool(torch.version.cuda or torch.version.hip)
    assert devices.torch_has_gpu_support() == has_support


def test_expectations_come_from_similar_runs():
    train, test = plan("base2new", methods("coop"), ["shapes"], [1])
    costs = Costs()
    guess = costs.seconds(train)
    assert guess > costs.seconds(test) > 0 and "guess" in costs.about()
    for seconds in (30.0, 50.0):
        costs.learn(train, seconds)
    costs.learn(test, 6.0)
    assert "3 finished" in costs.about()
    assert costs.total([train, test], 1) == pytest.approx(46.0)
    assert costs.total([train, test], 2) == pytest.approx(40.0)  # the longest takes its time
    (larger,) = plan("fewshot", methods("coop"), ["shapes"], [1], [16])
    assert costs.seconds(larger) > 2 * costs.seconds(train)  # twice the classes
    (other, _) = plan("base2new", methods("maple"), ["shapes"], [1])
    share = Costs().seconds(other) / guess
    assert costs.seconds(other) == pytest.approx(40.0 * share)
    assert costs.total([], 3) == 0
    for run in plan("fewshot", methods("cliplora"), ["shapes", "imagenet"], [1], [4]):
        work = Costs().work(run)
        assert work.epochs * work.n_train == 500 * 4 * work.batch  # whatever the classes


def test_expectations_come_from_results_of_the_same_kind_of_device():
    (run,) = plan("fewshot", methods("coop"), ["dtd"], [1], [4])
    results = {
        "trainer": "CoOp", "backbone": "small", "shots": 4, "classnames": ["a"] * 47,
        "num_test": 1692, "epochs": 100, "train_seconds": 400.0, "test_seconds": 12.0,
        "device": "NVIDIA A100", "peak_memory_mb": 3072.0,
        "config": {"DATALOADER": {"TRAIN_X": {"BATCH_SIZE": 32}}},
    }  # fmt: skip
    gpu, cpu = Costs("gpu"), Costs("cpu")
    for costs in (gpu, cpu):
        costs.learn_from_results(results)
        costs.learn_from_results({**results, "train_seconds": "long"})
        costs.learn_from_results({"trainer": "CoOp"})
    assert gpu.seconds(run) == pytest.approx(420.0) and gpu.gigabytes([run]) == pytest.approx(3.0)
    assert cpu.n_known == 0


def test_published_times_are_met_roughly():
    """MaPLe on ImageNet's base classes: an hour on an A100; the whole table some 100 hours."""
    (train, _) = plan("base2new", methods("maple"), ["imagenet"], [1], backbone="ViT-B/16")
    assert 1800 < Costs("gpu").seconds(train) < 7200
    assert Costs("gpu", ["OPTIM.MAX_EPOCH", "10"]).seconds(train) > 1.8 * Costs("gpu").seconds(
        train
    )
    runs = plan("base2new", methods(*TWELVE.split(",")), DATASETS, [1, 2, 3], backbone="ViT-B/16")
    assert 30 < Costs("gpu").total(runs, 1) / 3600 < 300


def test_four_gpus_are_kept_busy():
    """200 runs of known length, started as a sweep does, the expectations wrong by a third."""
    runs = plan("base2new", methods("coop", "maple", "anprompt"), DATASETS, range(1, 5))[:200]
    draw = random.Random(3)
    length = {run: draw.uniform(1, 60) for run in runs}
    expected = {run: length[run] * draw.uniform(0.67, 1.5) for run in runs}
    work = WorkQueue(runs, expected.__getitem__)
    now, ended, ends = 0.0, set(), []
    while work or ends:
        while len(ends) < 4 and (run := work.take()) is not None:
            assert run.needs is None or run.needs in ended
            heapq.heappush(ends, (now + length[run], str(run), run))
        now, _, run = heapq.heappop(ends)
        ended.add(run)
        work.done(run)
    assert len(ended) == 200
    assert sum(length.values()) / (4 * now) > 0.95


def test_gpus_share_the_runs(stand_in, monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["0", "1", "2", "3"])
    monkeypatch.setenv("PAUSE", "1")  # so that the six of the beginning overlap
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd,ucf101,imagenet", "--shots", "1"]
    status, noted = stand_in(*command, "--gpus", "1-3", "--per-gpu", "2")
    first = [line.split(" | ") for line in noted if line.startswith("start")]
    assert status == 0
    assert {variables.split()[-1] for _, variables, _ in first} == {"1", "2", "3"}
    assert sum("/imagenet/" in run for run, *_ in first[:6]) == 3  # the longest go first


def test_running_epochs_are_shown(capsys, monkeypatch, stand_in):
    assert scheduler.epoch_in("epoch [1/50] batch\nepoch [2/50] batch [3/4]") == "2/50 "
    assert scheduler.epoch_in("loading") == ""
    monkeypatch.setattr(scheduler, "SAY_SECONDS", 0.05)
    monkeypatch.setenv("PAUSE", "0.3")
    stand_in("fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1", "--seeds", "1")
    assert "running: coop dtd 1 shots seed 1 0:00" in capsys.readouterr().out


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_minutes(seconds, text):
    assert scheduler.minutes(seconds) == text
