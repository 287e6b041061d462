"""Flags for SLURM: what is passed on, what is asked for without them, and bad ones in a line."""

import pytest
from slurm_stand_ins import refused, submit

from anprompt.__main__ import main
from anprompt.sweeps import slurm
from common.errors import UsageError

pytestmark = pytest.mark.slow

pytest.importorskip("submitit")


def test_flags_for_slurm_need_slurm(cluster, capsys):
    command = ["sweep", "fewshot", "--methods", "coop", "--datasets", "shapes"]
    assert main([*command, "--slurm", "partition=gpu"]) == 2
    assert "it stands with --cluster slurm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, said",
    [
        (["--slurm", "partition"], None),
        (["--slurm", "=gpu"], "--slurm =gpu: expected KEY=VALUE, as partition=gpu"),
        (["--slurm", "array=1-9"], "the sweep itself decides on array"),
        (["--slurm", "job-name=x"], "the sweep itself decides on job_name"),
        (["--slurm", "time=soon"], "--slurm time=soon: expected minutes"),
        (["--slurm", "time=0:30"], "from one minute to a year"),
        (["--shard-minutes", "0"], "--shard-minutes 0: expected"),
        (["--shard-minutes", "nan"], "--shard-minutes nan: expected"),
        (["--gpus", "0"], "--slurm gpus_per_node=N"),
    ],
)
def test_bad_options_are_one_line(given, said, cluster, capsys):
    if said is None:
        assert submit(*given) == 0  # sbatch says what it thinks of a flag
    else:
        assert said in refused(capsys, *given)
        assert not list((cluster / "jobs").iterdir())


@pytest.mark.parametrize(
    "text, minutes",
    [("90", 90), ("5:30", 5), ("2:00:00", 120), ("1-0", 1440), ("1-2:30", 1590)],
)  # fmt: skip
def test_times_are_slurms(text, minutes):
    assert slurm.Options.read([f"time={text}"]).minutes == minutes


def test_gpus_are_asked_for_where_torch_can_use_them(monkeypatch):
    monkeypatch.setattr(slurm, "torch_has_gpu_support", lambda: True)
    assert slurm.Options.read([]).flags == {"gpus_per_node": "1"}
    assert slurm.Options.read(["gres=gpu:a100:4"]).n_gpus == 4
    assert slurm.Options.read(["gpus-per-node=2"]).n_gpus == 2
    assert slurm.Options.read(["gres=gpu"]).n_gpus == 1
    assert slurm.Options.read(["gpus_per_node=0"]).flags == {}
    with pytest.raises(UsageError):
        slurm.Options.read(["a b=1"])
