"""python -m anprompt table --protocol anomaly: which runs it shows, and over which seeds."""

import json
from pathlib import Path

import pytest
from called import table
from written_runs import write_results

from anprompt.results.anomaly import MEASURES, find_anomaly_runs


def write_run(
    root: Path, category: str, seed: int, auroc: float, training: Path | None = None, **more
) -> Path:
    """A run of anomaly detection on a category; ``settings`` of its nodes, by name."""
    place = "test" if training else "train"
    folder = root / f"{place}/{category}/shots_1/AnomalyAPT/vit_b16/seed{seed}"
    figures = dict.fromkeys(MEASURES, 50.0) | {"image_auroc": auroc}
    data = {"NAME": "MVTecAD", "CATEGORY": category}
    more = {"options": {"DATASET": data}, "epochs": 5, **figures, **more}
    return write_results(
        folder, "AnomalyAPT", "MVTecAD", 0, seed=seed, shots=1, training=training, task="anomaly",
        category=category, **more,
    )  # fmt: skip


def unfinished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("TRAINER:\n  NAME: AnomalyAPT\n")
    return folder


def shown(capsys, root: Path, status: int = 0) -> str:
    arguments = ["--protocol", "anomaly", "--metric", "image_auroc", "--format", "markdown"]
    assert table([str(root), *arguments]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def changed(folder: Path, node: str, **settings) -> None:
    path = folder / "results.json"
    content = json.loads(path.read_text())
    content["config"].setdefault(node, {}).update(settings)
    path.write_text(json.dumps(content))


def test_seeds_are_counted_by_category_and_means_are_over_common_ones(tmp_path, capsys):
    for seed in (1, 2, 3):
        write_run(tmp_path, "bottle", seed, 80 + seed)
    write_run(tmp_path, "cable", 1, 70)
    folder = unfinished(tmp_path / "train/cable/shots_1/AnomalyAPT/vit_b16/seed2")
    printed = shown(capsys, tmp_path)
    assert "| AnomalyAPT | - | 1-3 | 82.00 ± 0.82 | 70.00 | 75.50 |" in printed
    assert "Means are over the seeds that all categories have: AnomalyAPT: 1 (not 2, 3)." in printed
    assert find_anomaly_runs([tmp_path])[1] == [(folder, "not finished")]
    assert "- in no table: " in printed and "(not finished)" in printed
    write_run(tmp_path, "screw", 4, 60)
    printed = shown(capsys, tmp_path)
    assert "| 70.00 | 60.00 | - |" in printed and "no seed in common (of 1, 2, 3, 4)" in printed
    assert "no finished run, or other seeds" in printed


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        ({}, {}, None),
        ({"LOAD_EPOCH": 5}, {}, None),
        ({"LOAD_EPOCH": 1}, {"epochs": 1}, "reads epoch 1 of"),
        (
            {},
            {"options": {"DATASET": {"NAME": "VisA", "CATEGORY": "pcb"}}},
            "and tested on VisA pcb",
        ),
        (
            {},
            {"options": {"DATASET": {"NAME": "MVTecAD", "CATEGORY": "bottle"}, "TEST": {"N": 2}}},
            "once more, with TEST.N 2",
        ),
    ],
)
def test_only_an_evaluation_that_says_the_same_is_passed_over(tmp_path, settings, more, reason):
    trained = write_run(tmp_path, "bottle", 1, 80)
    changed(trained, "TEST", N=1)
    tested = write_run(tmp_path, "bottle", 1, 50, training=trained, **more)
    changed(tested, "RUN", **settings)
    if "options" not in more:
        changed(tested, "TEST", N=1)
    runs, left_out = find_anomaly_runs([tmp_path])
    assert [run.folder for run in runs] == [trained]
    assert [folder for folder, _ in left_out] == ([tested] if reason else [])
    assert not reason or reason in left_out[0][1]


def test_a_training_without_a_test_has_its_evaluations(tmp_path, capsys):
    """As with TEST.NO_TEST; their own settings of training are nothing to the row."""
    for seed in (1, 2):
        trained = tmp_path / f"train/bottle/shots_1/AnomalyAPT/vit_b16/seed{seed}"
        unfinished(trained)
        tested = write_run(tmp_path, "bottle", seed, 80, training=trained)
        changed(tested, "OPTIM", MAX_EPOCH=seed)
    assert "| AnomalyAPT | - | 2 | 80.00" in shown(capsys, tmp_path)


def test_runs_of_one_row_at_unlike_epochs_are_refused(tmp_path, capsys):
    write_run(tmp_path, "bottle", 1, 80)
    write_run(tmp_path, "bottle", 2, 80, epochs=3)
    assert "but differ in the number of epochs (5, 3)" in shown(capsys, tmp_path, 2)


def test_unlike_precisions_are_pointed_out(tmp_path, capsys):
    for seed, device in ((1, "cpu"), (2, "NVIDIA H200")):
        folder = write_run(tmp_path, "bottle", seed, 80, device=device)
        changed(folder, "TRAINER", ANOMALY={"PREC": "fp16"})
    assert "means fp32 on a CPU; runs are 1 on NVIDIA H200 and 1 on cpu." in shown(capsys, tmp_path)
