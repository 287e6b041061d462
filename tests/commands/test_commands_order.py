"""anprompt sweep: in which order runs start, where, and how long they are expected to take."""

import heapq
import random

import pytest
from sweeping import TWELVE, methods

from anprompt.protocols.plan import DATASETS, plan
from anprompt.sweeps import devices, scheduler
from anprompt.sweeps.costs import Costs
from anprompt.sweeps.work import WorkQueue

pytestmark = pytest.mark.slow


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
    (run, test) = plan("base2new", methods("promptkd"), ["eurosat"], [1])
    assert Costs().work(run).n_train == 13500  # all training images of all classes, without labels
    assert Costs().work(test).n_train == 0


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
    (run,) = plan("fewshot", methods("promptkd"), ["dtd"], [1], [4])
    results |= {"trainer": "PromptKD", "dataset": "DescribableTextures", "epochs": 20}
    results["config"]["DATALOADER"]["TRAIN_X"]["BATCH_SIZE"] = 8
    gpu.learn_from_results(results)
    assert gpu.seconds(run) == pytest.approx(420.0)


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
