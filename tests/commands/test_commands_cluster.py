"""anprompt sweep --cluster slurm, with stand-ins for SLURM's commands and for train.py.

The shards are run as SLURM would: the scripts that sbatch got, task by task.
"""

import json
import os
import pickletools
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from anprompt.__main__ import main
from anprompt.commands import sweep
from anprompt.protocols import environment as environments
from anprompt.protocols.methods import find_method
from anprompt.protocols.plan import plan
from anprompt.sweeps import batches, shard_job, slurm, snapshot
from anprompt.sweeps.shards import pack
from common import paths, provenance
from common.errors import UsageError

pytestmark = pytest.mark.slow

pytest.importorskip("submitit")
ROOT = Path(__file__).resolve().parents[2]

SBATCH = """#!/usr/bin/env bash
[ -z "${REFUSAL:-}" ] || { echo "sbatch: error: $REFUSAL" >&2; exit 1; }
number=$(($(ls "$JOBS" | wc -l) + 1))
[ "$number" -le "${MOST:-99}" ] || { echo "sbatch: error: too many jobs" >&2; exit 1; }
cp "${!#}" "$JOBS/$number.sh"
echo "Submitted batch job $number"
"""
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output|--error) shift ;; esac
  shift
done
exec "$@"
"""
SQUEUE = """#!/usr/bin/env bash
[ -z "${NO_CONTROLLER:-}" ] || { echo "squeue: error: Unable to contact controller" >&2; exit 1; }
cat "$QUEUE"
"""
SCONTROL = """#!/usr/bin/env bash
[ -z "${NO_CONTROLLER:-}" ] || { echo "scontrol: error: Unable to contact controller" >&2; exit 1; }
echo "MaxArraySize            = ${MAX_ARRAY:-1001}"
"""
TRAIN = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
with open(os.environ["CALLS"], "a") as file:
    print(folder, file=file)
if os.environ.get("FAIL", "nothing") in str(folder):
    print("one line")
    sys.exit("the reason")
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps({"finished": True, "accuracy": 84.25}))
"""
COMMAND = ["base2new", "--methods", "zsclip,coop", "--datasets", "shapes", "--cluster", "slurm"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A repository with a stand-in for train.py, an empty OUTPUT, and SLURM's commands."""
    repository, tools = tmp_path / "a repository", tmp_path / "tools"
    repository.mkdir()
    for name in snapshot.CODE:
        if (ROOT / name).is_dir():
            os.symlink(ROOT / name, repository / name)
    (repository / "train.py").write_text(TRAIN)
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE),
                       ("scontrol", SCONTROL)):  # fmt: skip
        tools.mkdir(exist_ok=True)
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name in ("JOBS", "QUEUE", "CALLS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("BACKBONE", "CFG", "DATA", "DRY_RUN", "PLUGIN", "SHOTS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "queue").touch()
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an output"))
    monkeypatch.setattr(paths, "ROOT", repository)
    monkeypatch.setattr(provenance, "ROOT", repository)
    monkeypatch.setattr(environments, "TRAIN", [sys.executable, str(repository / "train.py")])
    monkeypatch.setattr(sweep, "problems", lambda *_: [])
    monkeypatch.setattr(slurm, "torch_has_gpu_support", lambda: False)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    provenance.code.cache_clear()
    yield tmp_path
    provenance.code.cache_clear()


def submit(*arguments: str) -> int:
    return main(["sweep", *COMMAND, "--seeds", "1,2", "--allow-dirty", *arguments])


def only_batch(cluster: Path) -> batches.Batch:
    (batch,) = batches.read_all(cluster / "an output")
    return batch


def run_tasks(cluster: Path, *, job: int = 1, tasks: tuple[int, ...] = (0,)) -> list[str]:
    """Run tasks of a job as SLURM would; return what train.py was called for."""
    (cluster / "calls").write_text("")
    for task in tasks:
        script = (cluster / f"jobs/{job}.sh").read_text()
        array = {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}
        variables = {**os.environ, "SLURM_JOB_ID": str(job), "CUDA_VISIBLE_DEVICES": "",
                     **(array if "--array" in script else {})}  # fmt: skip
        subprocess.run(["bash", "-c", script], env=variables, cwd="/", capture_output=True)
    called = (cluster / "calls").read_text().splitlines()
    return ["/".join(Path(line).parts[-6:-2]) + f"/{Path(line).name}" for line in called]


def set_queue(cluster: Path, *tasks: tuple[int, str, str]) -> None:
    """Put shards of the only batch into the queue, with their states and reasons."""
    batch = only_batch(cluster)
    lines = []
    for shard, state, reason in tasks:
        name, index = batch.task_of(shard)
        lines.append(f"{name}|{index if batch.n_shards > 1 else 'N/A'}|{state}|{reason}\n")
    (cluster / "queue").write_text("".join(lines))


def flags_of(script: Path) -> dict[str, str]:
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --")]
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)


# Packing -------------------------------------------------------------------------------------


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


# Submitting ----------------------------------------------------------------------------------


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
    assert "job 1, 2; commit None" in capsys.readouterr().out
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


# The code that runs --------------------------------------------------------------------------


def commit(repository: Path) -> None:
    variables = {"GIT_CONFIG_GLOBAL": os.devnull, **os.environ}
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b",
                                                   "commit", "-qm", "first"]):  # fmt: skip
        subprocess.run(["git", *command], cwd=repository, check=True, env=variables)


def test_only_committed_code_is_submitted_unless_allowed(cluster, capsys):
    arguments = ["sweep", *COMMAND, "--seeds", "1"]
    assert main(arguments) == 2
    assert "no git checkout" in capsys.readouterr().err.splitlines()[-1]
    repository = cluster / "a repository"
    commit(repository)
    provenance.code.cache_clear()
    assert main(arguments) == 0
    (repository / "trainers_notes.txt").touch()  # nothing that runs read
    (repository / "train.py").write_text(TRAIN + "# more\n")
    assert main(arguments) == 2
    assert "train.py not committed" in capsys.readouterr().err.splitlines()[-1]
    assert main([*arguments, "--allow-dirty"]) == 0
    clean, dirty = (batch.content["code"] for batch in batches.read_all(cluster / "an output"))
    provenance.code.cache_clear()
    assert clean["commit"] == dirty["commit"] and len(clean["commit"]) == 40
    assert (clean["dirty"], dirty["dirty"]) == (False, True)


def test_code_that_is_edited_later_does_not_change_runs(cluster, monkeypatch):
    assert submit() == 0
    (cluster / "a repository/train.py").write_text("raise SystemExit('edited')")
    assert len(run_tasks(cluster)) == 6
    copy = Path(only_batch(cluster).content["snapshot"])
    monkeypatch.setattr(provenance, "ROOT", copy)
    provenance.code.cache_clear()
    assert provenance.code() == only_batch(cluster).content["code"]
    provenance.code.cache_clear()


def test_the_copy_has_all_packages():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["importlinter"]["root_packages"]) <= set(snapshot.CODE)


def test_ones_own_files_that_changed_stop_their_shards(cluster, capsys):
    config = cluster / "mine.yaml"
    config.write_text("_BASE_: a repository/configs/trainers/CoOp/vit_b16_ctxv1.yaml\n")
    plugin, beside = cluster / "plugin.py", cluster / "beside.py"
    beside.write_text("")
    plugin.write_text("import beside  # CoOp\n")
    sys.path.append(str(cluster))
    import beside as module  # as checking the settings does

    try:
        assert submit("--cfg", "coop=mine.yaml", "--plugin", "plugin.py") == 0
    finally:
        sys.path.remove(str(cluster))
        del sys.modules[module.__name__]
    base = ROOT / "configs/trainers/CoOp/vit_b16.yaml"
    files = set(only_batch(cluster).content["files"])
    assert files >= {str(config), str(plugin), str(beside), str(base)}
    beside.write_text("x = 1")
    assert run_tasks(cluster) == []
    assert submit("--cfg", "coop=mine.yaml", "--plugin", "plugin.py", "--status") == 0
    printed = capsys.readouterr().out
    assert f"failed  coop (mine) shapes seed 1 train: {beside} changed since" in printed


def test_flags_for_slurm_need_slurm(cluster, capsys):
    command = ["sweep", "fewshot", "--methods", "coop", "--datasets", "shapes"]
    assert main([*command, "--slurm", "partition=gpu"]) == 2
    assert "it stands with --cluster slurm" in capsys.readouterr().err


# Faults --------------------------------------------------------------------------------------


def refused(capsys, *arguments: str) -> str:
    """The one line with which a sweep is refused."""
    capsys.readouterr()
    assert submit(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("anprompt sweep: error: ") and len(lines) <= 2
    return lines[-1].removeprefix("anprompt sweep: error: ")


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
