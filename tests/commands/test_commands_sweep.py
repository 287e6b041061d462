"""anprompt sweep: which runs, in which order, and what happens when one fails or is stopped.

Where runs are started, their scripts are stand-ins that note what they were called with.
"""

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anprompt.commands import sweep
from anprompt.protocols import plan as planning
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from anprompt.runs.folder import record_config
from anprompt.sweeps import scheduler as running
from anprompt.sweeps.finished import accuracy_of_finished

ROOT = Path(__file__).resolve().parents[2]

# Stands for a protocol's script: notes when it runs, with its arguments and environment.
STAND_IN = """#!/usr/bin/env bash
[ -z "${DRY_RUN:-}" ] || exit 0
echo "start $* | ${CFG:-} $SHOTS ${SOURCE:-} ${OMP_NUM_THREADS:-}" >> "$CALLS"
if [ -n "${HANG:-}" ]; then sleep 60; fi
sleep "${PAUSE:-0}"
case "$*" in
  *"${FAIL:-nothing}"*) echo "one line"; echo "the reason" >&2; exit 2 ;;
esac
echo "=> result"
echo "* accuracy: 84.2%"
echo "end $* |" >> "$CALLS"
"""


def jobs_of(*args) -> list[str]:
    return [str(job) for job in planning.plan(*args)]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A repository of stand-ins; calls sweep.main there, reads what the scripts noted."""
    for protocol in ("base2new", "crossdata", "fewshot"):
        script = tmp_path / f"scripts/{protocol}.sh"
        script.parent.mkdir(exist_ok=True)
        script.write_text(STAND_IN)
    for method, learns in (("coop", "yes"), ("maple", "yes"), ("zsclip", "no")):
        (tmp_path / "scripts" / method).mkdir()
        (tmp_path / "scripts" / method / "settings.sh").write_text(f"LEARNS={learns}\n")
    (tmp_path / "configs/datasets").mkdir(parents=True)
    for name in (*planning.DATASETS, *planning.IMAGENET_VARIANTS, "shapes"):
        (tmp_path / f"configs/datasets/{name}.yaml").touch()
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setattr(planning, "ROOT", tmp_path)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("CALLS", str(calls))
    for name in ("CFG", "SHOTS", "SOURCE"):
        monkeypatch.delenv(name, raising=False)

    def go(*arguments: str) -> tuple[int, list[str]]:
        calls.write_text("")
        return sweep.main(list(arguments)), calls.read_text().splitlines()

    return go


def parse(noted: list[str]) -> list[tuple[str, str]]:
    """("start" or "end", the script's arguments without the options) of each line."""
    words = [line.split("|")[0].split("--")[0].split() for line in noted]
    return [(what, " ".join(arguments)) for what, *arguments in words]


def starts(noted: list[str]) -> list[str]:
    return [call for what, call in parse(noted) if what == "start"]


def test_seed_by_seed_and_what_learns_nothing_once():
    assert jobs_of("base2new", ["zsclip", "coop"], ["shapes"], ["1", "2"]) == [
        "zsclip shapes seed 1 train",
        "zsclip shapes seed 1 test",
        "coop shapes seed 1 train",
        "coop shapes seed 1 test",
        "coop shapes seed 2 train",
        "coop shapes seed 2 test",
    ]


def test_cross_dataset_trains_once_a_method_and_leaves_the_source_out():
    targets = ["caltech101", "eurosat", "dtd"]
    jobs = planning.plan("crossdata", ["coop"], targets, ["1"], ["16"], "caltech101")
    assert [str(job) for job in jobs] == [
        "coop caltech101 seed 1 train",
        "coop caltech101 to eurosat seed 1 test",
        "coop caltech101 to dtd seed 1 test",
    ]
    assert [job.training for job in jobs] == [None, jobs[0], jobs[0]]
    assert jobs[1].arguments == ["coop", "test", "eurosat", "1"]
    (train, *_) = planning.plan("domaingen", ["coop"], ["imagenet_a"], ["1"], ["16"], "caltech101")
    assert train == jobs[0]  # both protocols read the same training


def test_few_shot_runs_every_number_of_shots():
    assert jobs_of("fewshot", ["zsclip", "coop"], ["dtd"], ["1", "2"], ["1", "16"]) == [
        "zsclip dtd 1 shots seed 1",
        "coop dtd 1 shots seed 1",
        "coop dtd seed 1",
        "coop dtd 1 shots seed 2",
        "coop dtd seed 2",
    ]


def test_defaults_are_the_protocols(stand_in):
    def planned(*arguments: str) -> list[planning.Job]:
        return sweep.jobs_for(sweep.make_parser().parse_args(arguments))

    assert {job.dataset for job in planned("base2new")} == set(planning.DATASETS)
    assert [job.method for job in planned("fewshot")[:3]] == ["zsclip", "coop", "maple"]
    assert {job.shots for job in planned("fewshot")} == {"1", "2", "4", "8", "16"}
    across = planned("crossdata", "--methods", "coop", "--seeds", "1")
    assert [job.dataset for job in across] == planning.DATASETS  # the source first, then the others
    general = planned("domaingen", "--methods", "coop", "--seeds", "1")
    assert [job.dataset for job in general] == ["imagenet", *planning.IMAGENET_VARIANTS]
    named = planned("crossdata", "--source", "dtd", "--targets", "eurosat", "--seeds", "1")
    assert {job.source for job in named} == {"", "dtd"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--methods", "coop,cop"], ["'cop'", "coop"]),
        (["--datasets", "eurosatt"], ["'eurosatt'", "eurosat"]),
        (["--seeds", "1,x"], ["--seeds", "'x'"]),
        (["--shots", "0"], ["--shots", "'0'"]),
        (["--methods", ","], ["no method named"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["OPTIM.MAX_EPOCH", "1"], ["OPTIM.MAX_EPOCH 1", "after --"]),
    ],
)
def test_bad_input_is_one_line(arguments, said, stand_in, capsys):
    try:
        status, noted = stand_in("base2new", *arguments)
    except SystemExit as end:
        status, noted = end.code, []
    error = capsys.readouterr().err
    assert (status, noted, len(error.splitlines())) == (2, [], 1)
    assert all(text in error for text in said)


def test_no_folder_of_data_sets(stand_in, monkeypatch, capsys):
    monkeypatch.delenv("DATA")
    assert stand_in("fewshot")[0] == 2
    assert "DATA is not set" in capsys.readouterr().err
    assert stand_in("fewshot", "--datasets", "shapes", "--seeds", "1", "--shots", "1")[0] == 0


def test_scripts_get_their_arguments_and_environment(stand_in, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "2"]
    status, noted = stand_in(*command, "--cfg", "coop=rn50", "--", "OPTIM.MAX_EPOCH", "2")
    assert status == 0
    threads = running.share_machine(1)[1] or 1
    assert noted[0] == f"start coop train shapes 2 -- OPTIM.MAX_EPOCH 2 | rn50 16  {threads}"
    _, noted = stand_in("fewshot", "--methods", "coop", "--datasets", "dtd", "--seeds", "3",
                        "--shots", "4,8", "--jobs", "1")  # fmt: skip
    assert starts(noted) == ["coop dtd 4 3", "coop dtd 8 3"]
    command = ["crossdata", "--methods", "maple", "--source", "dtd", "--targets", "ucf101"]
    _, noted = stand_in(*command, "--seeds", "1", "--shots", "4")
    assert starts(noted) == ["maple train dtd 1", "maple test ucf101 1"]
    assert "|  4 dtd" in noted[2]


def test_a_failure_stops_no_other_run_and_is_listed(stand_in, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FAIL", "coop train shapes 1")
    command = ["base2new", "--methods", "coop,maple", "--datasets", "shapes", "--seeds", "1,2"]
    status, noted = stand_in(*command)
    assert status == 1
    started = starts(noted)
    assert "coop test shapes 1" not in started and len(started) == 7
    printed = capsys.readouterr().out
    log = tmp_path / "out/logs/base2new_coop_shapes_seed_1_train.log"
    assert "    the reason" in printed and "the reason" in log.read_text()
    listed = printed.split("2 of 8 runs failed:")[1].splitlines()
    assert listed[1:] == [
        f"    coop shapes seed 1 train: status 2, see {log}",
        "    coop shapes seed 1 test: its training failed",
    ]
    assert re.search(r"coop shapes seed 2 test +84\.2%", printed)


@pytest.mark.parametrize("jobs", [1, 3])
def test_side_by_side_and_tests_after_their_training(jobs, stand_in, monkeypatch):
    monkeypatch.setenv("PAUSE", "0.1")
    command = ["crossdata", "--methods", "zsclip,coop", "--source", "dtd"]
    status, noted = stand_in(*command, "--targets", "eurosat,ucf101", "--seeds", "1,2",
                             "--jobs", str(jobs))  # fmt: skip
    assert status == 0
    events = parse(noted)
    running, most = set(), 0
    for index, (what, call) in enumerate(events):
        if what == "end":
            running.remove(call)
            continue
        running.add(call)
        most = max(most, len(running))
        method, part, _, seed = call.split()
        if (method, part) == ("coop", "test"):
            assert ("end", f"coop train dtd {seed}") in events[:index]
    assert most == jobs
    assert len(events) == 2 * (3 + 3 + 3)


def test_one_thread_each_on_a_cpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert running.share_machine(None) == (4, 1)
    assert [running.share_machine(jobs)[1] for jobs in (1, 2, 8)] == [1, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert running.share_machine(None) == (2, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert running.share_machine(None) == (1, None)
    assert running.share_machine(3) == (3, None)


def test_waits_for_a_run_that_another_process_has_begun(stand_in, monkeypatch, capsys, tmp_path):
    """A run that outlived a sweep that was killed holds its log; the next sweep waits for it."""
    log = tmp_path / "out/logs/fewshot_coop_dtd_seed_1.log"
    log.parent.mkdir(parents=True)
    other = open(log, "ab")  # noqa: SIM115
    fcntl.flock(other, fcntl.LOCK_EX)
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            other.close()
        real_sleep(seconds)

    real_sleep = time.sleep
    monkeypatch.setattr(running.time, "sleep", sleep)
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--seeds", "1,2"]
    status, noted = stand_in(*command, "--shots", "16", "--jobs", "1")
    assert status == 0
    assert starts(noted) == ["coop dtd 16 2", "coop dtd 16 1"]
    assert capsys.readouterr().out.count("running already, from elsewhere") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_runs_and_says_how_to_go_on(number, stand_in, tmp_path):
    """In a process of its own, started as from a script's background, where SIGINT is ignored."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from tools import sweep; from anprompt.sweeps import jobs; jobs.ROOT = Path(sys.argv[2]); "
        "sweep.end_on_signals(); "
        "sys.exit(sweep.main(sys.argv[3:]))"
    )
    command = ["fewshot", "--methods", "coop", "--datasets", "dtd", "--shots", "1", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(ROOT), str(tmp_path), *command],
        env={**os.environ, "HANG": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
    for log in (tmp_path / "out/logs").iterdir():  # no process of a run is left
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """Puts down what a run of the real scripts would leave behind; its command and environment."""
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an output"))
    for name in ("CFG", "SHOTS", "SOURCE", "BACKBONE", "DATA"):
        monkeypatch.delenv(name, raising=False)

    def put(*arguments: str) -> tuple[list[str], dict[str, str]]:
        command = ["bash", str(ROOT / "scripts/base2new.sh"), *arguments]
        environment = dict(os.environ)
        shown = subprocess.run(
            command, env={**environment, "DRY_RUN": "1"}, check=True, capture_output=True, text=True
        )
        (line,) = shown.stdout.splitlines()
        cfg = build_cfg(make_parser().parse_args(shlex.split(line)[2:]))
        Path(cfg.OUTPUT_DIR).mkdir(parents=True)
        record_config(cfg)
        results = {"finished": True, "accuracy": 61.25}
        (Path(cfg.OUTPUT_DIR) / "results.json").write_text(json.dumps(results))
        return command, environment

    return put


def test_a_finished_run_is_recognised_by_its_settings(finish):
    command, environment = finish("coop", "train", "shapes", "3")
    assert accuracy_of_finished(command, environment) == 61.25
    assert accuracy_of_finished([*command, "--", "OPTIM.MAX_EPOCH", "3"], environment) is None
    assert accuracy_of_finished([*command, "--", "OPTIM.NO_SUCH", "3"], environment) is None
    assert accuracy_of_finished([*command[:-1], "4"], environment) is None
    assert accuracy_of_finished([*command[:-1], "3,4"], environment) is None


def test_a_test_is_out_of_date_once_its_training_is_newer(finish, tmp_path):
    finish("coop", "train", "shapes", "3")
    command, environment = finish("coop", "test", "shapes", "3")
    assert accuracy_of_finished(command, environment) == 61.25
    (trained,) = (tmp_path / "an output").glob("base2new/train_base/**/seed3")
    checkpoint = trained / "prompt_learner/model.pth.tar-200"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    later = time.time() + 10
    os.utime(checkpoint, (later, later))
    assert accuracy_of_finished(command, environment) is None


def test_finished_runs_are_not_started(finish, monkeypatch, capsys):
    for part in ("train", "test"):
        finish("coop", part, "shapes", "3")

    def refuse(job, *_):
        raise AssertionError(f"started {job}")

    monkeypatch.setattr(running, "Run", refuse)
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
    finish("coop", "train", "shapes", "3")
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(running, "Run", None)
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "3"]
    assert sweep.main(command) == 0
    finished, test, line, told = capsys.readouterr().out.splitlines()
    assert finished.startswith("[1/2] coop shapes seed 3 train   61.2%  earlier")
    assert test == "coop shapes seed 3 test:"
    words = shlex.split(line)
    assert words[1] == str(ROOT / "train.py") and words[-2:] == ["DATASET.SUBSAMPLE_CLASSES", "new"]
    assert told == "1 of 2 runs are done; nothing was started."
    assert sweep.main([*command, "--cfg", "coop=no_such_file"]) == 0  # train.py is to say so


def test_a_dry_run_says_which_runs_their_script_refuses(finish, monkeypatch, capsys):
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setenv("DATA", str(ROOT / "no such folder"))
    command = ["base2new", "--methods", "coop", "--datasets", "dtd", "--seeds", "3"]
    assert sweep.main(command) == 1
    refused, *_, told = capsys.readouterr().out.splitlines()
    assert "coop dtd seed 3 train" in refused and "no such folder" in refused
    assert told == "0 of 2 runs are done; nothing was started."


def test_time_left_comes_from_like_runs():
    train, test = planning.plan("base2new", ["coop"], ["shapes"], ["1"])
    clock = running.Clock()
    assert clock.left([train]) is None
    clock.taken = [(train, 30.0), (train, 50.0), (test, 6.0)]
    assert clock.left([train, test]) == pytest.approx(46.0)
    other = planning.Job("base2new", "maple", "train", "shapes", "1")
    assert clock.left([other]) == pytest.approx(40.0)
    assert clock.left([]) == 0


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_minutes(seconds, text):
    assert running.minutes(seconds) == text
