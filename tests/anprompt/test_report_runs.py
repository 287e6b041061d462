"""Which runs a report takes: missing ones, few seeds, ablations, transfer; and what it refuses."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from called import report
from report_pages import Reader, computed
from runs_of_tests import run_folder

pytestmark = pytest.mark.slow


def test_missing_and_unfinished_runs_are_shown_as_such(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    shutil.rmtree(run_folder(output, "MaPLe", "test_new"))
    (run_folder(output, "CoOp", "test_new") / "results.json").unlink()
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    document = path.read_text(encoding="utf-8")
    assert document.count('class="missing"') >= 4  # new and HM of both
    assert "Not finished, left out" in document
    assert "Under noise" not in document, "no evaluation, no section"


def rewritten(source: Path, target: Path, model_dir: str = "", **changes) -> Path:
    """A copy of a run's results that says something else."""
    content = json.loads((source / "results.json").read_text()) | changes
    for figures in (content, content["rules"].get(content["headline_rule"], {})):
        figures |= {"accuracy": content["accuracy"], "error": 100 - content["accuracy"]}
    content["dataset_title"] = content["dataset"]
    content["config"]["RUN"]["MODEL_DIR"] = model_dir
    target.mkdir(parents=True)
    (target / "results.json").write_text(json.dumps(content))
    if (source / "log.txt").is_file():
        shutil.copy(source / "log.txt", target)
    return target


def test_few_shots_and_transfer_have_tables(trained_output, tmp_path):
    output = tmp_path / "output"
    for trainer, accuracies in (("CoOp", {1: 40.0, 4: 50.5}), ("ZeroshotCLIP", {1: 30.25})):
        source = run_folder(trained_output, trainer)
        for shots, accuracy in accuracies.items():
            run = f"shots_{shots}/{trainer}/config/seed1"
            rewritten(source, output / "fewshot/eurosat" / run, subsample_classes="all",
                      shots=shots, accuracy=accuracy)  # fmt: skip
        run = f"shots_1/{trainer}/config/seed1"
        rewritten(source, output / "crossdata/train/eurosat" / run, subsample_classes="all",
                  accuracy=60.0)  # fmt: skip
        for name, dataset, accuracy in (("dtd", "DescribableTextures", 20.0),
                                        ("food101", "Food101", 31.0)):  # fmt: skip
            target = output / "crossdata/test/eurosat" / name / run
            training = f"../../../../../../../train/eurosat/{run}" if trainer == "CoOp" else ""
            rewritten(source, target, training, subsample_classes="all", dataset=dataset,
                      accuracy=accuracy)  # fmt: skip
    path, figures = tmp_path / "report.html", tmp_path / "figures"
    assert report([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    document = path.read_text(encoding="utf-8")
    reader = Reader(document)
    for number in reader.numbers:
        source = json.loads(number["data-source"])
        assert float(number["data-value"]) == pytest.approx(computed(source)), number
    text = " ".join(reader.text)
    for words in ("1 shot", "4 shots", "EuroSAT (source)", "average of 2",
                  "Transfer to other data sets", "Macro F1"):  # fmt: skip
        assert words in text
    shown = {number["shown"] for number in reader.numbers}
    assert {"40.00", "50.50", "25.50"} <= shown  # 25.5: the average of the targets
    with open(figures / "shots-eurosat.csv") as file:
        rows = [(row["method"], row["shots"], float(row["accuracy_mean"]))
                for row in csv.DictReader(file)]  # fmt: skip
    assert ("CoOp", "1", 40.0) in rows and ("CoOp", "4", 50.5) in rows
    # what learns nothing is the same for any number of images
    assert ("ZeroshotCLIP", "1", 30.25) in rows and ("ZeroshotCLIP", "4", 30.25) in rows
    assert "Base to new" not in text


def test_ablations_stand_apart(trained_output, tmp_path):
    output = tmp_path / "output"
    for part in ("train_base", "test_new"):
        source = run_folder(trained_output, "ANPrompt", part)
        shutil.copytree(source, output / source.relative_to(trained_output))
        whole = json.loads((source / "results.json").read_text())["accuracy"]
        target = Path(str(source).replace("vit_b16", "no_nrvpp")).relative_to(trained_output)
        model_dir = str(target).replace("test_new", "train_base") if part == "test_new" else ""
        if model_dir:
            model_dir = os.path.relpath(model_dir, target)
        rewritten(source, output / target, model_dir, accuracy=whole - 5)
    path, figures = tmp_path / "report.html", tmp_path / "figures"
    assert report([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    reader = Reader(path.read_text(encoding="utf-8"))
    assert {"−5.00", "−5.0"} <= {number["shown"] for number in reader.numbers}
    for number in reader.numbers:
        source = json.loads(number["data-source"])
        assert float(number["data-value"]) == pytest.approx(computed(source)), number
    assert "1 of 1 changes lower the harmonic mean" in " ".join(reader.text)
    with open(figures / "ablations-anprompt-on-eurosat.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["ablation"] == "no_nrvpp" and float(row["base_change"]) == pytest.approx(-5)
    with open(figures / "base-new-eurosat.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["ANPrompt"]


def test_names_are_text_not_markup(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    for path in output.rglob("results.json"):
        content = path.read_text().replace("Forest", "<script>alert(1)</script>&")
        path.write_text(content)
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path), "--title", "<b>&"]) == 0
    document = path.read_text(encoding="utf-8")
    assert "<script>alert" not in document and "<title>&lt;b&gt;&amp;</title>" in document


def test_bad_input_is_one_line(trained_output, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    twice = tmp_path / "twice"
    for name in ("a", "b"):
        shutil.copytree(run_folder(trained_output, "CoOp"), twice / name / "CoOp/config/seed1")
    broken = tmp_path / "broken"
    shutil.copytree(run_folder(trained_output, "CoOp"), broken / "seed1")
    (broken / "seed1/results.json").write_text("{")
    unlike = tmp_path / "unlike"
    shutil.copytree(run_folder(trained_output, "CoOp"), unlike / "CoOp/config/seed1")
    rewritten(run_folder(trained_output, "MaPLe"), unlike / "MaPLe/config/seed1",
              classnames=["Forest", "Moor"])  # fmt: skip
    halves = tmp_path / "halves"
    shutil.copytree(trained_output, halves)
    results = run_folder(halves, "CoOp", "test_new") / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"epochs": 77}))
    validation = tmp_path / "validation"
    rewritten(run_folder(trained_output, "CoOp"), validation / "CoOp/config/seed1", split="val")
    path = tmp_path / "report.html"
    path.write_text("before")
    for folder, message in [
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "empty", "no finished run"),
        (twice, "same method"),
        (halves, "the number of epochs is"),
        (validation, "tested on val images"),
        (unlike, "different class sets"),
        (broken, "not valid JSON"),
    ]:
        capsys.readouterr()
        assert report([str(folder), "-o", str(path)]) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.strip().splitlines()) == 1
    for flags, message in [
        (["--baseline", "Zero"], "--baseline Zero: no run of it; there are: ANPrompt, CoOp"),
        (["--highlight", "coop"], "--highlight coop: no run of it"),
        (["--root", str(tmp_path / "nowhere")], "nowhere: no such folder"),
    ]:
        capsys.readouterr()
        assert report([str(trained_output), "-o", str(path), *flags]) == 2
        assert message in capsys.readouterr().err
    assert report([str(trained_output), "-o", str(tmp_path / "report.txt")]) == 2
    assert path.read_text() == "before"


def test_runs_of_no_table_are_named_and_left_out(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    results = run_folder(output, "CoOp", "test_new") / "results.json"
    content = json.loads(results.read_text()) | {"split": "val", "accuracy": 99.9, "error": 0.1}
    results.write_text(json.dumps(content))
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    text = " ".join(Reader(path.read_text(encoding="utf-8")).text)
    assert "tested on val images" in text and "99.9" not in text


def test_few_seeds_are_said_for_each_method(trained_output, tmp_path):
    """Three seeds among three methods are not three of any."""
    output = tmp_path / "output"
    for seed, trainer in enumerate(("CoOp", "MaPLe", "ANPrompt"), start=1):
        rewritten(
            run_folder(trained_output, trainer), output / f"{trainer}/c/seed{seed}", seed=seed
        )
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    assert "One seed: methods a few points apart" in path.read_text(encoding="utf-8")
    for seed in (2, 3):
        rewritten(run_folder(trained_output, "CoOp"), output / f"CoOp/c/seed{seed}", seed=seed)
    assert report([str(output), "-o", str(path)]) == 0
    assert "One seed of ANPrompt and MaPLe: methods" in path.read_text(encoding="utf-8")
