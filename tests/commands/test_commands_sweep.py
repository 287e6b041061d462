"""anprompt sweep: what happens when runs fail, wait or are stopped, and tables.

A stand-in for train.py notes what it was called with and writes results.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeping import ROOT, coop_on_shapes, parse, starts

from anprompt.commands import ablations, reproduce, sweep
from anprompt.protocols import environment as environments
from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.sweeps import checks, interrupts, processes, scheduler
from anprompt.sweeps.costs import Costs

pytestmark = pytest.mark.slow

# Running ---------------------------------------------------------------------------------------


def test_runs_get_their_arguments_and_environment(stand_in, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "2"]
    status, noted = stand_in(*command, "--cfg", "coop=rn50", "--", "OPTIM.MAX_EPOCH", "2")
    assert status == 0
    run, variables, arguments = noted[0].split(" | ")
    assert run == "start base2new/train_base/shapes/shots_16/CoOp/rn50-small/seed2"
    assert variables == "3 none"
    assert arguments.endswith("DATASET.SUBSAMPLE_CLASSES base OPTIM.MAX_EPOCH 2")
    command = ["crossdata", "--methods", "maple", "--source", "dtd", "--targets", "ucf101"]
    _, noted = stand_in(*command, "--seeds", "1", "--shots", "4")
    assert starts(noted) == [
        "crossdata train dtd MaPLe seed1",
        "crossdata test dtd ucf101 MaPLe seed1",
    ]


def test_a_failure_stops_no_other_run_and_is_listed(stand_in, monkeypatch, capsys, tree):
    monkeypatch.setenv("FAIL", "train_base/shapes/shots_16/CoOp/vit_b16_ctxv1-small/seed1")
    command = ["base2new", "--methods", "coop,maple", "--datasets", "shapes", "--seeds", "1,2"]
    status, noted = stand_in(*command)
    assert status == 1
    started = starts(noted)
    assert "base2new test_new shapes CoOp seed1" not in started and len(started) == 7
    printed = capsys.readouterr().out
    log = tree / "logs/base2new_coop_shapes_seed_1_train.log"
    assert "    the reason" in printed and "the reason" in log.read_text()
    listed = printed.split("2 of 8 runs failed:")[1].splitlines()
    assert listed[1:] == [
        f"    coop shapes seed 1 train: status 2, see {log}",
        "    coop shapes seed 1 test: its training failed",
    ]
    assert re.search(r"coop shapes seed 2 test +84\.2%", printed)


def test_a_full_disk_is_named_as_its_logs_cannot(stand_in, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "train_base/shapes/shots_16/CoOp/vit_b16_ctxv1-small/seed1")
    monkeypatch.setattr(scheduler, "ROOM", 1 << 60)
    stand_in("base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "1")
    assert "seed_1_train.log; the disk of OUTPUT is full\n" in capsys.readouterr().out


@pytest.mark.parametrize("jobs", [1, 3])
def test_side_by_side_and_tests_after_their_training(jobs, stand_in, monkeypatch):
    monkeypatch.setenv("PAUSE", "0.05")
    command = ["crossdata", "--methods", "zsclip,coop", "--source", "dtd"]
    status, noted = stand_in(*command, "--targets", "eurosat,ucf101", "--seeds", "1,2",
                             "--jobs", str(jobs))  # fmt: skip
    assert status == 0
    events = parse(noted)
    running, most = set(), 0
    for index, (what, run) in enumerate(events):
        if what == "end":
            running.remove(run)
            continue
        running.add(run)
        most = max(most, len(running))
        _, stage, *_, trainer, seed = run.split()
        if (trainer, stage) == ("CoOp", "test"):
            assert ("end", f"crossdata train dtd CoOp {seed}") in events[:index]
    assert most == jobs
    assert len(events) == 2 * (3 + 3 + 3)


def test_results_that_were_there_took_no_time(stand_in, capsys, tree, monkeypatch):
    """A run that this command could not recognise, and train.py could: its results stay."""
    monkeypatch.setattr(sweep, "find_finished", lambda *_: {})
    environments.TRAIN[:] = ["bash", "-c", "true"]
    command = ["fewshot", "--methods", "zsclip", "--datasets", "dtd", "--shots", "1"]
    (run,) = sweep.runs_for(sweep.parse(command, sweep.make_parser())[0])
    folder = Path(run.folder(tree))
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"finished": true, "accuracy": 12.5}')
    assert stand_in(*command)[0] == 0
    assert "12.5%  earlier" in capsys.readouterr().out


def test_waits_for_a_run_that_another_process_has_begun(stand_in, monkeypatch, capsys, tree):
    """A run that outlived a sweep that was killed holds its log; the next sweep waits for it."""
    log = tree / "logs/fewshot_coop_dtd_seed_1.log"
    log.parent.mkdir(parents=True)
    other = open(log, "ab")  # noqa: SIM115
    fcntl.flock(other, fcntl.LOCK_EX)
    started = []

    class Process(scheduler.Process):
        def __init__(self, run, *arguments):
            super().__init__(run, *arguments)
            started.append(run.seed)
            other.close()

    monkeypatch.setattr(scheduler, "Process", Process)
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--seeds", "1,2"]
    status, noted = stand_in(*command, "--shots", "16", "--jobs", "1")
    assert status == 0
    assert starts(noted) == ["fewshot dtd CoOp seed2", "fewshot dtd CoOp seed1"]
    assert started == [2, 1]
    assert capsys.readouterr().out.count("running already, from elsewhere") == 1


@pytest.mark.parametrize("begins", ["before", "at the same time"])
def test_waits_for_a_run_that_another_machine_has(begins, stand_in, monkeypatch, capsys, tree):
    """A sweep beside this one on a shared disk, where locks may not reach from one to the other."""
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--seeds", "1,2"]
    command += ["--shots", "16", "--jobs", "1"]
    first, _ = sweep.runs_for(sweep.parse(command, sweep.make_parser())[0])
    claim = Path(first.folder(tree)) / ".lock.host"
    claim.parent.mkdir(parents=True)
    looks = []

    def look(run, environment) -> bool:
        looks.append(run.seed)
        if begins == "at the same time" and len(looks) == 1:
            monkeypatch.setenv("FAIL", "seed1")  # train.py is refused
            return False
        monkeypatch.delenv("FAIL", raising=False)
        if 2 in looks and looks.count(1) > 2:
            claim.unlink(missing_ok=True)
        return processes.is_on_another_machine(run, environment)

    claim.write_text("process 5 on node-b (node-b 77)\n")
    monkeypatch.setattr(scheduler, "is_on_another_machine", look)
    status, noted = stand_in(*command)
    assert status == 0
    ended = [run for what, run in parse(noted) if what == "end"]
    assert ended == ["fewshot dtd CoOp seed2", "fewshot dtd CoOp seed1"]
    assert capsys.readouterr().out.count("seed 1 is running already, from elsewhere") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["sweep", "reproduce"])
def test_stopping_ends_the_runs_and_says_how_to_go_on(number, command, stand_in, tmp_path, tree):
    """In a process of its own, started as from a script's background, where SIGINT is ignored."""
    program = (
        "import sys; from anprompt.protocols import environment; "
        "environment.TRAIN = ['bash', sys.argv[1]]; from anprompt.commands import sweep; "
        "sweep.problems = lambda *_: []; from anprompt.__main__ import main; "
        "sys.exit(main(sys.argv[2:]))"
    )
    arguments = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "train.sh"), command, *arguments,
         "--jobs", "2"],
        env={**os.environ, "HANG": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    calls = tmp_path / "calls"
    deadline = time.monotonic() + 120
    while len(calls.read_text().splitlines()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # as when a terminal and a script both pass it on
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "0 of 3 runs are done" in out and "the same command goes on" in err
    assert len(calls.read_text().splitlines()) == 2
    for log in (tree / "logs").iterdir():  # no process of a run is left
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_just_starting_ends_with_the_sweep(number, stand_in, monkeypatch, tree):
    """The signal came between the start of the process and its being noted."""
    monkeypatch.setenv("HANG", "1")
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    start = scheduler.Process.__init__

    def told(self, *args):
        start(self, *args)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(scheduler.Process, "__init__", told)
    monkeypatch.setitem(interrupts._state, "last", 0.0)
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1", "--seeds", "1"]
    try:
        with pytest.raises(KeyboardInterrupt):
            stand_in(*command)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    with open(tree / "logs/fewshot_coop_dtd_1_shots_seed_1.log", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_run_goes_on_where_the_sweep_cannot(stand_in, monkeypatch, tree):
    """A log that cannot be written, say on a full disk, ends the sweep and what it has started."""
    monkeypatch.setenv("HANG", "1")
    (tree / "logs/fewshot_coop_dtd_1_shots_seed_2.log").mkdir(parents=True)
    began = time.monotonic()
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1"]
    command += ["--seeds", "1,2"]
    with pytest.raises(IsADirectoryError):
        stand_in(*command, "--jobs", "2")
    assert time.monotonic() - began < 30
    with open(tree / "logs/fewshot_coop_dtd_1_shots_seed_1.log", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Parts and schedulers --------------------------------------------------------------------------


def test_shards_are_all_runs_in_parts_of_equal_length(tree, monkeypatch):
    monkeypatch.setenv("BACKBONE", "small")

    def part(which: str) -> list[RunSpec]:
        arguments = ["base2new", "--shard", which]
        return sweep.runs_for(sweep.parse(arguments, sweep.make_parser())[0])

    whole = part("1/1")
    parts = [part(f"{number}/4") for number in (1, 2, 3, 4)]
    assert sorted(map(str, whole)) == sorted(str(run) for runs in parts for run in runs)
    lengths = [Costs("gpu").total(runs, 1) for runs in parts]
    assert max(lengths) < 1.05 * min(lengths)
    for runs in parts:
        assert all(run.needs is None or run.needs in runs for run in runs)
    assert len(part("99999/99999")) == 0  # there are not as many
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0"):
        with pytest.raises(ValueError, match=f"--shard {wrong}: expected"):
            part(wrong)
    monkeypatch.delenv("BACKBONE")  # what a machine has in its cache would decide
    with pytest.raises(ValueError, match="--shard: name the backbone, BACKBONE="):
        part("1/4")


def test_printed_commands_may_run_in_any_order(stand_in, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "train_base/shapes/shots_16/CoOp/vit_b16_ctxv1-small/seed2")
    command = ["crossdata", "--methods", "coop,zsclip", "--source", "dtd", "--seeds", "1,2"]
    command += ["--targets", "eurosat,ucf101"]
    assert stand_in(*command, "--print-commands") == (0, [])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3  # what learns nothing depends on nothing
    calls = tmp_path / "calls"
    for line in reversed(lines):
        subprocess.run(["bash", "-c", line], check=True, cwd="/")
    events = parse(calls.read_text().splitlines())
    assert len(events) == 2 * 9
    for seed in (1, 2):
        trained = events.index(("end", f"crossdata train dtd CoOp seed{seed}"))
        assert events.index(("start", f"crossdata test dtd ucf101 CoOp seed{seed}")) > trained
    assert stand_in(*command, "--status")[0] == 0
    assert capsys.readouterr().out.startswith("9 runs: 9 finished")
    monkeypatch.setenv("FAIL", "seed2")
    calls.write_text("")
    for line in lines:
        subprocess.run(["bash", "-c", line], cwd="/", stderr=subprocess.DEVNULL)
    assert ("start", "crossdata test dtd ucf101 CoOp seed2") not in parse(
        calls.read_text().splitlines()
    )


def test_status_says_what_runs_and_why_others_stopped(stand_in, monkeypatch, capsys, tree):
    monkeypatch.setenv("FAIL", "seed1")
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1"]
    assert stand_in(*command, "--seeds", "1")[0] == 1
    log = tree / "logs/fewshot_coop_dtd_1_shots_seed_2.log"
    log.write_text("epoch [7/50] batch [1/2]\n")
    capsys.readouterr()
    with open(log, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert stand_in(*command, "--status") == (0, [])
    first = tree / "logs/fewshot_coop_dtd_1_shots_seed_1.log"
    assert capsys.readouterr().out.splitlines() == [
        f"stopped  coop dtd 1 shots seed 1, see {first}",
        "    one line",
        "    the reason",
        "running  coop dtd 1 shots seed 2  7/50",
        "3 runs: 0 finished, 1 running, 1 stopped, 1 waiting",
    ]


@pytest.mark.parametrize("is_finished", [True, False])
def test_status_tells_other_settings_from_a_stop(is_finished, stand_in, capsys, tree):
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "1"]
    assert stand_in(*command)[0] == 0
    (trained,) = tree.glob("base2new/train_base/**/results.json")
    config = {"OPTIM": {"MAX_EPOCH": 1}}
    if is_finished:
        trained.write_text(json.dumps({"finished": True, "accuracy": 84.2, "config": config}))
    else:
        trained.unlink()
        trained.with_name("config.yaml").write_text(json.dumps(config))
    for log in (tree / "logs").iterdir():
        log.write_text("* accuracy: 84.2%\n")
    capsys.readouterr()
    assert stand_in(*command, "--status", "--", "OPTIM.MAX_EPOCH", "2") == (0, [])
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith(f"refused  coop shapes seed 1 train: {trained.parent} holds a run with")
    assert "OPTIM.MAX_EPOCH is 1 there, 2 now" in line
    assert last == "2 runs: 0 finished, 0 running, 1 refused, 0 stopped, 1 waiting"


# Checks before the first run -------------------------------------------------------------------


def test_all_problems_are_listed_at_once(tree, monkeypatch, capsys, tmp_path):
    from anprompt.__main__ import main

    monkeypatch.setattr(scheduler, "Process", None)
    command = ["sweep", "base2new", "--methods", "coop,maple", "--datasets", "shapes,dtd,eurosat"]
    (tmp_path / "eurosat").mkdir()
    assert main([*command, "--seeds", "1,2,3", "--", "OPTIM.MAX_EPOCH", "2"]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == "anprompt sweep: error: 2 problems, listed above; nothing was started"
    dtd, eurosat = [line for line in lines if line.startswith("problem: ")]
    assert "dtd" in dtd and "eurosat" in eurosat

    assert main([*command[:-1], "shapes", "--", "TRAINER.COOP.N_CTXX", "2"]) == 2
    assert "unknown config key TRAINER.COOP.N_CTXX" in capsys.readouterr().err


def test_a_folder_without_permission_or_space(tree, monkeypatch):
    runs, environment = coop_on_shapes(), Environment.read()
    assert checks.problems(runs, environment) == []
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    (line,) = checks.problems(runs, environment)
    assert "3 MB are free" in line
    tree.rmdir()
    tree.write_text("a file")
    (line,) = checks.problems(runs, environment)
    assert "cannot be written to" in line


def test_weights_are_looked_for_once_and_before(tree):
    runs = [replace(run, backbone="nowhere.pt") for run in coop_on_shapes()]
    weights, setting = checks.problems(runs, Environment.read(), ["OPTIM.NO_SUCH", "1"])
    assert "nowhere.pt" in weights and "OPTIM.NO_SUCH" in setting


# Tables ----------------------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch):
    """What anprompt table was called with."""
    called: list[list[str]] = []
    monkeypatch.setattr(reproduce.table, "main", lambda argv: called.append(argv) or 0)
    return called


def test_reproduce_runs_what_is_missing_then_makes_the_table(stand_in, tables, tree, monkeypatch):
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1"]
    command += ["--seeds", "1,2"]
    status, noted = stand_in(*command, command=reproduce)
    assert (status, len(starts(noted))) == (0, 2)
    assert tables == [[str(tree), "--protocol", "fewshot", "--output", f"{tree}/fewshot.md"]]
    monkeypatch.setenv("FAIL", "seed3")
    status, _ = stand_in(*command, "--seeds", "3", command=reproduce)
    assert status == 1 and len(tables) == 2  # failed runs leave gaps
    for flag in ("--status", "--print-commands"):
        assert stand_in(*command, flag, command=reproduce) == (0, []) and len(tables) == 2
    monkeypatch.setenv("DRY_RUN", "1")
    assert stand_in(*command, command=reproduce)[0] == 0 and len(tables) == 2


def test_reproduce_where_all_runs_failed(stand_in, capsys, monkeypatch):
    monkeypatch.setenv("FAIL", "dtd")
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1"]
    assert stand_in(*command, "--seeds", "1", command=reproduce)[0] == 1
    printed = capsys.readouterr()
    assert "1 of 1 runs failed" in printed.out and "no table: " in printed.err


def test_ablations_run_the_whole_method_first(stand_in, tables, tree):
    status, noted = stand_in("shapes", "1", "no_noise", command=ablations)
    configs = [line.split("/")[5] for line in noted if line.startswith("start")]
    assert status == 0
    assert "vit_b16-small" in configs[:2]  # two at a time
    assert sorted(configs) == ["no_noise-small"] * 2 + ["vit_b16-small"] * 2
    assert tables == [[str(tree), "--output", f"{tree}/ablations.md"]]
