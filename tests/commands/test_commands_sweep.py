"""tools/sweep.py: which runs, in which order, and what happens when one fails."""

import pytest

from tools import sweep


def jobs_of(*args) -> list[str]:
    return [str(job) for job in sweep.plan(*args)]


def test_seed_by_seed_and_what_learns_nothing_once():
    assert jobs_of("base2new", ["zsclip", "coop"], ["shapes"], ["1", "2"]) == [
        "zsclip shapes seed 1 train",
        "zsclip shapes seed 1 test",
        "coop shapes seed 1 train",
        "coop shapes seed 1 test",
        "coop shapes seed 2 train",
        "coop shapes seed 2 test",
    ]


def test_unknown_method_is_named(capsys):
    command = ["base2new", "--methods", "coop,nothing", "--datasets", "shapes"]
    assert sweep.main(command) == 2
    error = capsys.readouterr().err
    assert "'nothing'" in error and "coop" in error


def test_stops_at_a_failure_and_shows_its_last_lines(tmp_path, monkeypatch, capsys):
    calls = []

    def fake_run(job, log, environment, options):
        calls.append((str(job), environment.get("CFG"), options))
        if job.part == "test":
            return 1, "one line\nthe reason\n"
        return 0, "* accuracy: 84.2%\n"

    monkeypatch.setattr(sweep, "run", fake_run)
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    command = ["base2new", "--methods", "coop", "--datasets", "shapes", "--seeds", "1,2"]
    assert sweep.main([*command, "--cfg", "coop=rn50", "--", "OPTIM.MAX_EPOCH", "2"]) == 1
    assert calls == [
        ("coop shapes seed 1 train", "rn50", ["OPTIM.MAX_EPOCH", "2"]),
        ("coop shapes seed 1 test", "rn50", ["OPTIM.MAX_EPOCH", "2"]),
    ]
    printed = capsys.readouterr().out
    assert "[1/4] coop shapes seed 1 train   84.2%" in printed
    assert "    the reason" in printed


def test_time_left_comes_from_like_runs():
    train, test = list(sweep.plan("base2new", ["coop"], ["shapes"], ["1"]))
    clock = sweep.Clock()
    assert clock.left([train]) is None
    clock.taken = [(train, 30.0), (train, 50.0), (test, 6.0)]
    assert clock.left([train, test]) == pytest.approx(46.0)
    other = sweep.Job("base2new", "maple", "train", "shapes", "1")
    assert clock.left([other]) == pytest.approx(40.0)
    assert clock.left([]) == 0


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_minutes(seconds, text):
    assert sweep.minutes(seconds) == text
