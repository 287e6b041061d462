"""Faults of a cluster: refused jobs, no controller, damaged records, full disks, cut off shards."""

import json
import sys
from pathlib import Path

import pytest
from slurm_stand_ins import only_batch, refused, set_queue, submit

from anprompt.sweeps import batches, shard_job
from common import paths

pytestmark = pytest.mark.slow

pytest.importorskip("submitit")


def test_an_unknown_partition_leaves_nothing_behind(cluster, monkeypatch, capsys):
    monkeypatch.setenv("REFUSAL", "invalid partition specified: nope")
    assert refused(capsys) == "sbatch refuses: invalid partition specified: nope"
    assert batches.read_all(cluster / "an output") == []
    monkeypatch.delenv("REFUSAL")
    assert submit() == 0


def test_arrays_that_were_taken_stay(cluster, monkeypatch, capsys):
    monkeypatch.setenv("MAX_ARRAY", "3")
    monkeypatch.setenv("MOST", "1")
    line = refused(capsys, "--shard-minutes", "0.1")
    assert line == "sbatch refuses: too many jobs (submitted before: 1)"
    set_queue(cluster, *[(shard, "PENDING", "Priority") for shard in range(3)])
    monkeypatch.delenv("MOST")
    assert submit() == 0
    first, second = batches.read_all(cluster / "an output")
    assert second.keys(0) == first.keys(3)


def test_a_controller_that_does_not_answer(cluster, monkeypatch, capsys):
    monkeypatch.setenv("NO_CONTROLLER", "1")
    assert refused(capsys) == "scontrol refuses: Unable to contact controller"
    monkeypatch.delenv("NO_CONTROLLER")
    assert submit() == 0
    monkeypatch.setenv("NO_CONTROLLER", "1")
    assert refused(capsys) == "squeue refuses: Unable to contact controller"
    assert submit("--status") == 0
    assert "no word from a cluster: squeue refuses" in capsys.readouterr().err


def test_no_slurm_and_no_submitit(cluster, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install -r requirements-slurm.txt" in refused(capsys)
    (cluster / "tools/sbatch").unlink()
    monkeypatch.setenv("PATH", str(cluster / "tools"))
    assert refused(capsys).startswith("no sbatch on this machine")


def test_a_damaged_record_is_named(cluster, capsys):
    assert submit() == 0
    file = only_batch(cluster).folder / batches.FILE
    content = json.loads(file.read_text())
    for damage in ("{", "[]", json.dumps({**content, "shards": [[{"seed": "x"}]]})):
        file.write_text(damage)
        assert str(file) in refused(capsys)
    file.write_text(json.dumps(content))
    (file.parent / "shard-0.json").write_text('{"a": 3}')
    assert batches.State(only_batch(cluster), 0).entries == {}


def test_a_full_disk_ends_a_shard_in_one_line(cluster, monkeypatch, capsys):
    assert submit() == 0
    monkeypatch.setattr(paths, "ROOT", Path(only_batch(cluster).content["snapshot"]).resolve())
    monkeypatch.setattr(shard_job, "find_finished", lambda *_: {})

    def fail(*_):
        raise OSError(28, "No space left on device", "shard-0.json")

    monkeypatch.setattr(batches, "write_json", fail)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        shard_job.run_shard(str(only_batch(cluster).folder), "0")
    assert end.value.code == 2
    assert capsys.readouterr().err == "shard 0: error: shard-0.json: No space left on device\n"


def test_code_other_than_the_copy_is_refused(cluster, capsys):
    assert submit() == 0
    with pytest.raises(SystemExit):
        shard_job.run_shard(str(only_batch(cluster).folder), "0")
    assert "runs the code of" in capsys.readouterr().err


def test_a_shard_that_is_cut_off_is_submitted_as_it_was():
    again = shard_job.run_shard.checkpoint("a folder", "3")
    assert again.function is shard_job.run_shard and again.args == ("a folder", "3")


def test_what_a_signal_ended_is_taken_up_again(cluster):
    assert submit() == 0
    batch = only_batch(cluster)
    state = batches.State(batch, 0)
    states = {0: "done", 1: "failed", 2: "failed", -9: "stopped", -15: "stopped", 130: "stopped"}
    for status, expected in states.items():
        state.note(batch.keys(0)[0], status)
        assert batches.State(batch, 0).of(batch.keys(0)[0]) == expected
    assert state.of("another") == ""
