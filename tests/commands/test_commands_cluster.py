"""anprompt sweep --cluster slurm: runs are packed into shards, submitted once, and looked after."""

import pickletools
import platform
from pathlib import Path

import pytest
from slurm_stand_ins import only_batch, run_tasks, set_queue, submit

from anprompt.__main__ import main
from anprompt.protocols.methods import find_method
from anprompt.protocols.plan import plan
from anprompt.sweeps import batches, slurm
from anprompt.sweeps.shards import pack

pytestmark = pytest.mark.slow

pytest.importorskip("submitit")


def flags_of(script: Path) -> dict[str, str]:
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --")]
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)


def test_shards_are_of_the_length_asked_for_and_the_longest_go_first():
    methods = [find_method(name) for name in ("coop", "maple", "zsclip")]
    runs = plan("base2new", methods, ["shapes", "dtd", "imagenet"], [1, 2, 3])
    minutes = {"coop": 7, "maple": 11, "zsclip": 1}

    def seconds(run) -> float:
        return 60 * (100 if run.dataset == "imagenet" else minutes[str(run).split()[0]])

    shards = pack(runs, seconds, 3600)
    assert sorted(map(str, runs)) == sorted(str(run) for shard in shards for run in shard)
    lengths = [sum(map(seconds, shard)) for shard in shards]
    assert lengths == sorted(lengths, reverse=True)
    long = [shard for shard in shards if shard[0].dataset == "imagenet"]
    assert len(long) == 3 + 3 + 2 and all(len(shard) <= 2 for shard in long)
    assert all(length <= 3600 for length in lengths[len(long) :])
    for shard in shards:
        for place, run in enumerate(shard):
            assert run.needs is None or run.needs in shard[:place]


def test_runs_that_fit_are_one_shard():
    runs = plan("fewshot", [find_method("coop")], ["dtd"], [1, 2], [1])
    assert pack(runs, lambda run: 60.0, 3600) == [runs]


def test_arrays_are_split_at_the_sites_limit(cluster, monkeypatch, capsys):
    monkeypatch.setenv("MAX_ARRAY", "2")
    given = ["--slurm", "partition=gpu", "--slurm", "exclusive", "--slurm", "cpus-per-task=3",
             "--slurm", "time=1-2:30", "--slurm", "setup=module load cuda"]  # fmt: skip
    assert submit("--shard-minutes", "0.1", "--jobs", "4", *given) == 0
    batch = only_batch(cluster)
    assert batch.n_shards == 4  # two trainings with a test each, and two evaluations
    scripts = sorted((cluster / "jobs").iterdir())
    for number, script in enumerate(scripts):
        flags = flags_of(script)
        assert flags["array"] == "0-1%2"
        assert flags["job-name"] == f"{batch.name}-{number}"
        assert (flags["partition"], flags["time"], flags["cpus-per-task"]) == ("gpu", "1590", "3")
        assert {"exclusive", "requeue"} <= set(flags) and "gpus-per-node" not in flags
        assert "module load cuda\ncd " in script.read_text()
    assert "job 1, 2; commit unknown" in capsys.readouterr().out
    for file in batch.folder.glob("*/*_submitted.pkl"):  # a function's name and two texts
        words = [arg for _, arg, _ in pickletools.genops(file.read_bytes()) if arg is not None]
        assert "run_shard" in words and str(batch.folder) in words
        assert file.stat().st_size < 1000


def test_a_shard_runs_its_runs_in_order_and_the_same_command_submits_no_more(cluster, capsys):
    assert submit() == 0
    set_queue(cluster, (0, "PENDING", "Priority"))
    assert submit() == 0 and len(list((cluster / "jobs").iterdir())) == 1
    assert "6 runs: 0 finished, 6 in the queue, 0 to submit" in capsys.readouterr().out
    assert submit("--status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "queued   6 (Priority)",
        "6 runs: 0 finished, 0 running, 6 queued, 0 stopped, 0 waiting",
    ]
    assert run_tasks(cluster) == [
        "train_base/shapes/shots_16/CoOp/seed1", "test_new/shapes/shots_16/CoOp/seed1",
        "train_base/shapes/shots_16/CoOp/seed2", "test_new/shapes/shots_16/CoOp/seed2",
        "train_base/shapes/shots_16/ZeroshotCLIP/seed1",
        "test_new/shapes/shots_16/ZeroshotCLIP/seed1",
    ]  # fmt: skip
    set_queue(cluster)
    assert submit() == 0 and len(list((cluster / "jobs").iterdir())) == 1
    assert "6 runs: 6 finished, 0 in the queue, 0 to submit" in capsys.readouterr().out


def test_a_failure_is_passed_over_recorded_and_shown(cluster, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "train_base/shapes/shots_16/CoOp/vit_b16_ctxv1-small/seed1")
    assert submit() == 0
    assert len(run_tasks(cluster)) == 5
    batch = only_batch(cluster)
    state = batches.State(batch, 0)
    assert sorted(entry["status"] for entry in state.entries.values()) == [0, 0, 0, 0, 1, 1]
    capsys.readouterr()
    assert submit("--status") == 0
    log = cluster / "an output/logs/base2new_coop_shapes_seed_1_train.log"
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"failed  coop shapes seed 1 train: status 1, see {log}",
        "    one line",
        "    the reason",
        "failed  coop shapes seed 1 test: its training failed",
    ]
    # Started again by SLURM it stays so; submitted again both run.
    assert run_tasks(cluster) == []
    monkeypatch.delenv("FAIL")
    assert submit() == 0
    assert run_tasks(cluster, job=2) == [
        "train_base/shapes/shots_16/CoOp/seed1", "test_new/shapes/shots_16/CoOp/seed1",
    ]  # fmt: skip


def test_what_was_cancelled_is_submitted_again(cluster, capsys):
    assert submit("--shard-minutes", "0.1") == 0
    run_tasks(cluster, tasks=(0,))
    batch = only_batch(cluster)
    running = batch.keys(1)[0]
    batches.State(batch, 1).note(running, None)
    set_queue(cluster, (1, "RUNNING", "None"), (2, "PENDING", "Resources"))
    capsys.readouterr()
    assert submit("--status") == 0
    *_, queued, counts = capsys.readouterr().out.splitlines()
    assert queued == "queued   1 (Resources), 1 (behind others of its shard)"
    assert counts == "6 runs: 2 finished, 1 running, 2 queued, 1 stopped, 0 waiting"
    set_queue(cluster, (2, "PENDING", "Resources"))
    capsys.readouterr()
    assert submit("--status") == 0  # of a node that died, its record says "begun" for ever
    host = platform.node()
    assert f": on {host} when it ended: its shard is not in the queue" in capsys.readouterr().out
    assert submit() == 0
    second = batches.read_all(cluster / "an output")[-1]
    submitted = [key for shard in range(second.n_shards) for key in second.keys(shard)]
    assert sorted(submitted) == sorted(batch.keys(1) + batch.keys(3))


def test_tests_wait_for_a_training_in_the_queue(cluster, monkeypatch, capsys):
    monkeypatch.setenv("DATA", str(cluster))
    monkeypatch.setenv("SOURCE", "shapes")
    command = ["--methods", "coop", "--seeds", "1", "--cluster", "slurm", "--allow-dirty"]
    assert main(["sweep", "domaingen", *command, "--targets", "imagenet_a"]) == 0
    set_queue(cluster, (0, "PENDING", "Priority"))
    capsys.readouterr()
    assert main(["sweep", "crossdata", *command, "--targets", "dtd,eurosat"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 runs: 0 finished, 1 in the queue, 2 to submit",
        "2 tests wait for a training in the queue: give this command again after it",
    ]


def test_shards_that_are_just_ending_are_waited_for(cluster, monkeypatch, capsys):
    assert submit() == 0
    set_queue(cluster, (0, "COMPLETING", "None"))
    looks = []
    ask = slurm.tasks

    def look(given) -> dict:
        looks.append(given)
        if len(looks) == 3:
            set_queue(cluster)
        return ask(given)

    monkeypatch.setattr(slurm, "tasks", look)
    assert submit() == 0
    assert len(looks) == 3 and len(list((cluster / "jobs").iterdir())) == 2
    assert capsys.readouterr().out.count("1 shards are just ending") == 1
