"""parse_test_res.py on logs written here in the wording of upstream's and ours."""

import json
import math
from pathlib import Path

import pytest

import parse_test_res
from common import cli


def called(arguments: list[str]) -> int:
    return cli.run(parse_test_res.main, "parse_test_res.py", arguments)


RESULT = """=> result
* total: 4,200
* correct: 3,540
* accuracy: {accuracy}%
* error: {error}%
* macro_f1: {f1}%
"""


def block(accuracy: float) -> str:
    return RESULT.format(accuracy=accuracy, error=round(100 - accuracy, 1), f1=accuracy - 0.5)


def training_log(accuracy: float, end: str = "Finish training", validation: float = 11.1) -> str:
    """A log whose validation results must not be taken for the final ones."""
    return (
        "epoch [1/5] batch [20/20] time 0.1 (0.1) data 0.0 (0.0) loss 1.2 (1.3) lr 1.0000e-05\n"
        f"Evaluate on the *val* set\n{block(validation)}"
        f"{end}\nDeploy the last-epoch model\nEvaluate on the *test* set\n{block(accuracy)}"
        "Elapsed: 0:00:21\n"
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def summary(capsys) -> str:
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("* ")]
    return lines[-1]


@pytest.mark.parametrize("end", ["Finish training", "Finished training"])
def test_mean_and_population_deviation(tmp_path, capsys, end):
    for seed, accuracy in ((1, 84.0), (2, 86.0), (3, 91.0)):
        write(tmp_path / f"seed{seed}/log.txt", training_log(accuracy, end))
    assert called([str(tmp_path)]) == 0
    deviation = math.sqrt(((84 - 87) ** 2 + (86 - 87) ** 2 + (91 - 87) ** 2) / 3)
    assert summary(capsys) == f"* accuracy: 87.00% +- {deviation:.2f}% (3 runs)"
    assert called([str(tmp_path), "--ci95"]) == 0
    assert summary(capsys).endswith(f"+- {1.96 * deviation / math.sqrt(3):.2f}% (3 runs)")


def test_other_figures_by_keyword(tmp_path, capsys):
    write(tmp_path / "seed1/log.txt", training_log(84.0))
    assert called([str(tmp_path), "--keyword", "macro_f1"]) == 0
    assert summary(capsys) == "* macro_f1: 83.50% +- 0.00% (1 runs)"
    log = training_log(84.0) + "=> per-class result\n* class: 0 (a)\tacc: 81.5%\n* average: 81.5%\n"
    write(tmp_path / "seed1/log.txt", log)
    assert called([str(tmp_path), "--keyword", "average"]) == 0
    assert summary(capsys) == "* average: 81.50% +- 0.00% (1 runs)"


@pytest.mark.parametrize("keyword", ["num_test", "shots", "seed", "trainer", "Accuracy", ""])
def test_what_is_no_measure_is_refused_and_nothing_is_to_be_removed(tmp_path, capsys, keyword):
    results = {"finished": True, "accuracy": 84.0, "num_test": 8100, "shots": 4, "seed": 1}
    write(tmp_path / "seed1/results.json", json.dumps(results | {"trainer": "CoOp"}))
    with pytest.raises(SystemExit) as end:
        called([str(tmp_path), "--keyword", keyword])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out and "remove" not in printed.err
    assert f"--keyword: invalid choice: {keyword!r}" in printed.err
    assert all(name in printed.err for name in ("accuracy", "error", "macro_f1"))


def test_logs_of_evaluations_need_the_flag(tmp_path, capsys):
    write(tmp_path / "seed1/log.txt", "Evaluate on the *test* set\n" + block(48.0))
    assert called([str(tmp_path)]) == 2
    assert "--test-log" in capsys.readouterr().err
    assert called([str(tmp_path), "--test-log"]) == 0
    assert summary(capsys) == "* accuracy: 48.00% +- 0.00% (1 runs)"


def test_unfinished_run_is_said_and_left_out(tmp_path, capsys):
    write(tmp_path / "seed1/log.txt", training_log(84.0))
    write(tmp_path / "seed2/log.txt", training_log(99.0).split("Finish training")[0])
    assert called([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'seed2'}: no accuracy" in printed
    assert "* accuracy: 84.00% +- 0.00% (1 runs)" in printed


def test_result_in_the_log_of_a_resumed_run(tmp_path, capsys):
    write(tmp_path / "seed1/log.txt", "epoch [1/5] batch [20/20] killed here")
    write(tmp_path / "seed1/log.txt-2025-01-02-03-04-05", training_log(70.0))
    write(tmp_path / "seed1/log.txt-2025-01-03-03-04-05", training_log(72.0))
    assert called([str(tmp_path)]) == 0
    assert summary(capsys).startswith("* accuracy: 72.00%")


def test_results_json_is_exact_and_goes_first(tmp_path, capsys):
    write(tmp_path / "seed1/log.txt", training_log(84.2))
    write(tmp_path / "seed1/results.json", json.dumps({"finished": True, "accuracy": 84.238}))
    write(tmp_path / "seed2/log.txt", training_log(84.2))
    write(tmp_path / "seed2/results.json", json.dumps({"finished": False, "accuracy": 1.0}))
    assert called([str(tmp_path)]) == 0
    assert summary(capsys).startswith(f"* accuracy: {(84.238 + 84.2) / 2:.2f}%")


def test_several_experiments(tmp_path, capsys):
    for experiment, accuracies in (("a", (80.0, 90.0)), ("b", (50.0, 60.0))):
        for seed, accuracy in enumerate(accuracies, start=1):
            write(tmp_path / experiment / f"seed{seed}/log.txt", training_log(accuracy))
    assert called([str(tmp_path), "--multi-exp"]) == 0
    assert summary(capsys) == "* accuracy: 70.00%"


def test_an_unfinished_experiment_does_not_end_the_others(tmp_path, capsys):
    for experiment, accuracy in (("a", 80.0), ("c", 60.0)):
        write(tmp_path / experiment / "seed1/log.txt", training_log(accuracy))
    write(tmp_path / "b/seed1/log.txt", training_log(99.0).split("Finish training")[0])
    (tmp_path / "d").mkdir()
    assert called([str(tmp_path), "--multi-exp"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "* accuracy: 70.00%"
    lines = printed.err.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / "b"), str(tmp_path / "d")]
    assert all("not in the average" in line for line in lines)
    for experiment in ("a", "c"):
        (tmp_path / experiment / "seed1/log.txt").unlink()
    assert called([str(tmp_path), "--multi-exp"]) == 2


def test_experiments_of_this_projects_folders(tmp_path, capsys):
    """As the example of --help says: data set, shots, method and configuration lie between."""
    for dataset, accuracy in (("eurosat", 80.0), ("shapes", 60.0)):
        for seed in (1, 2):
            folder = tmp_path / f"train_base/{dataset}/shots_16/CoOp/vit_b16_ctxv1/seed{seed}"
            content = {"finished": True, "accuracy": accuracy + seed}
            write(folder / "results.json", json.dumps(content))
            write(folder / "prompt_learner/checkpoint", "x")
    assert called([str(tmp_path / "train_base"), "--multi-exp"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("(2 runs)") == 2 and printed.endswith("* accuracy: 71.50%\n")


@pytest.mark.parametrize("accuracy", [101, -1, 770, "83", None, True, [83], 1e300])
def test_figures_that_are_none_are_refused(tmp_path, capsys, accuracy):
    path = tmp_path / "seed1/results.json"
    write(path, json.dumps({"finished": True, "accuracy": accuracy}))
    assert called([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "remove it and run again" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("text", ["1e999", "-3", "101", "1.2.3", "..", "770"])
def test_figures_of_logs_that_are_none_are_refused(tmp_path, capsys, text):
    log = training_log(84.0).replace("* accuracy: 84.0%", f"* accuracy: {text}%")
    write(tmp_path / "seed1/log.txt", log)
    assert called([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "seed1/log.txt") in error and len(error.splitlines()) == 1


def test_missing_folder(tmp_path, capsys):
    assert called([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("nowhere: no such folder\n")
