"""Intervals, p values, bold and grids, against values worked out another way."""

import csv
import io

import numpy as np
import pytest
from called import table
from kept_runs import keep
from test_results_formats import rows_of
from written_runs import write_base_new, write_few_shot

from anprompt.results.statistics import compare_paired

SHARES = {"ZeroshotCLIP": 0.5, "CoOp": 0.60, "MaPLe": 0.604, "ANPrompt": 0.85}
DATASETS = ("EuroSAT", "Caltech101")


def right(share: float, seed: int, dataset: str, part: str, count: int = 300) -> np.ndarray:
    """Whether each image is answered rightly: hard images are hard for all."""
    of_images = np.random.default_rng(len(dataset) + len(part))
    of_run = np.random.default_rng([seed, round(1000 * share)])
    return 0.7 * of_images.random(count) + 0.3 * of_run.random(count) < share


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    for dataset in DATASETS:
        for trainer, share in SHARES.items():
            for seed in (1,) if trainer == "ZeroshotCLIP" else (1, 2, 3):
                folders = write_base_new(root, trainer, dataset, 0, 0, seed=seed)
                for folder, part in zip(folders, ("base", "new"), strict=True):
                    keep(folder, right(share, seed, dataset, part))
    return root


def written(root, tmp_path, *options: str, suffix: str = "csv") -> str:
    target = tmp_path / f"out.{suffix}"
    assert table([str(root), "-o", str(target), *options]) == 0
    return target.read_text(encoding="utf-8")


def test_intervals_are_those_of_a_plain_bootstrap(runs, tmp_path):
    content = written(runs, tmp_path, "--paired", "--against", "CoOp")
    found = {
        (row["table"].partition(",")[0], row["method"], row["column"]): row
        for row in csv.DictReader(io.StringIO(content))
    }
    for dataset in DATASETS:
        for trainer in ("MaPLe", "ANPrompt", "ZeroshotCLIP"):
            answers = [
                [right(SHARES[name], s if learns else 1, dataset, "base") for s in (1, 2, 3)]
                for name, learns in ((trainer, trainer != "ZeroshotCLIP"), ("CoOp", True))
            ]
            plain = compare_paired(*answers, samples=4000)
            row = found[dataset, trainer, "base"]
            assert float(row["mean"]) == pytest.approx(plain.difference)
            width = plain.high - plain.low
            assert float(row["low"]) == pytest.approx(plain.low, abs=0.08 * width)
            assert float(row["high"]) == pytest.approx(plain.high, abs=0.08 * width)
            p = found[dataset, trainer, "p, base"]["mean"]
            assert float(p) == pytest.approx(plain.p_value, rel=1e-9)
    hm, base = (found["EuroSAT", "ANPrompt", name] for name in ("HM of means", "base"))
    assert float(hm["low"]) < float(hm["mean"]) < float(hm["high"])
    assert float(hm["high"]) - float(hm["low"]) < float(base["high"]) - float(base["low"])
    average = found["average of 2 data sets", "ANPrompt", "base"]
    halves = [found[name, "ANPrompt", "base"] for name in DATASETS]
    assert float(average["mean"]) == pytest.approx(np.mean([float(h["mean"]) for h in halves]))
    assert ("average of 2 data sets", "ANPrompt", "p, base") not in found


def test_the_terminal_marks_what_is_separated(runs, capsys):
    assert table([str(runs), "--paired"]) == 0
    lines = capsys.readouterr().out.splitlines()
    anprompt = next(line for line in lines if line.startswith("ANPrompt"))
    assert anprompt.count("]*") == 4 and "p: McNemar" in " ".join(lines)


def test_only_what_is_separated_is_bold(runs, tmp_path):
    rows = rows_of(written(runs, tmp_path, "--methods", "coop,maple,anprompt", suffix="tex"))
    assert all(r"\mathbf" in cell for cell in rows["ANPrompt"][1:])
    document = written(runs, tmp_path, "--methods", "coop,maple", suffix="tex")
    assert r"\mathbf" not in document and "leaves out zero" in document
    grid = written(runs, tmp_path, "--methods", "coop,maple", "--grid", suffix="tex")
    assert r"\mathbf" not in grid and grid.count(r"\underline") == 2 * 4 * 3  # both of every pair


def test_without_predictions_ties_are_all_bold_and_it_is_said(tmp_path):
    for trainer, base in (("CoOp", 70), ("MaPLe", 70), ("VPT", 60)):
        write_base_new(tmp_path, trainer, "EuroSAT", base, 50)
    document = written(tmp_path, tmp_path, suffix="tex")
    rows = rows_of(document)
    assert [r"\mathbf" in rows[name][1] for name in ("CoOp", "MaPLe", "VPT")] == [True, True, False]
    assert "no predictions were kept" in document


def test_grid(runs, tmp_path):
    options = ["--grid", "--columns", "base,hm", "--order", "average,eurosat", "--methods"]
    options += ["coop,maple,anprompt", "--against", "coop"]
    document = written(runs, tmp_path, *options, suffix="tex")
    assert document.count(r"\begin{table") == 1 and r"\pm" not in document
    assert r"average of 2 & EuroSAT & Caltech101 \\" in document
    assert document.index(r"\emph{base}") < document.index(r"\emph{HM}")
    assert document.count("ANPrompt less CoOp") == 2
    body = "\n".join(line for line in document.splitlines() if not line.startswith("%"))
    assert body.count("{") == body.count("}")
    with_std = written(runs, tmp_path, *options, "--deviations", suffix="tex")
    assert r"\pm" in with_std
    numbers = list(csv.DictReader(io.StringIO(written(runs, tmp_path, *options))))
    one = {(r["table"], r["method"], r["column"]): float(r["mean"]) for r in numbers}
    plain = list(csv.DictReader(io.StringIO(written(runs, tmp_path))))
    for row in plain:
        key = {"base": "base", "HM of means": "HM"}.get(row["column"])
        if key and row["method"] in ("CoOp", "MaPLe", "ANPrompt") and row["table"] in DATASETS:
            assert one[key, row["method"], row["table"]] == float(row["mean"])
    difference = one["base", "ANPrompt", "EuroSAT"] - one["base", "CoOp", "EuroSAT"]
    assert one["base", "ANPrompt less CoOp", "EuroSAT"] == pytest.approx(difference)


def test_grid_of_shots_has_zero_shot_beside_them(tmp_path):
    for dataset, plus in (("EuroSAT", 0), ("Food101", 10)):
        write_few_shot(tmp_path, "ZeroshotCLIP", dataset, 16, 40 + plus)
        for shots in (1, 16):
            write_few_shot(tmp_path, "CoOp", dataset, shots, 50 + shots + plus)
    content = written(tmp_path, tmp_path, "--grid", "--columns", "16 shots")
    found = {(r["method"], r["column"]): r["mean"] for r in csv.DictReader(io.StringIO(content))}
    assert found["ZeroshotCLIP", "EuroSAT"] == "40.0" and found["CoOp", "Food101"] == "76.0"


def test_tests_on_other_images_are_not_paired(tmp_path):
    for trainer, dataset in (("CoOp", "Birds"), ("MaPLe", "Birds2")):
        folder = write_few_shot(tmp_path, trainer, dataset, 1, 0, dataset_title="Birds")
        keep(folder, np.arange(100) < (50 if trainer == "CoOp" else 60))
    content = written(tmp_path, tmp_path, "--paired", "--against", "CoOp")
    (row,) = [r for r in csv.DictReader(io.StringIO(content)) if r["method"] == "MaPLe"]
    assert row["mean"] == "10.0" and not row.get("low")
    assert "tested on other images" in written(
        tmp_path, tmp_path, "--paired", "--against", "CoOp", suffix="md"
    )


def test_shots_are_paired_with_the_one_run_of_zero_shot(tmp_path):
    keep(write_few_shot(tmp_path, "ZeroshotCLIP", "EuroSAT", 16, 0), np.arange(100) < 50)
    for shots in (1, 16):
        keep(write_few_shot(tmp_path, "CoOp", "EuroSAT", shots, 0), np.arange(100) < 50 + shots)
    found = csv.DictReader(io.StringIO(written(tmp_path, tmp_path, "--paired")))
    numbers = {row["column"]: row["mean"] for row in found}
    assert numbers["1 shot"] == "1.0" and numbers["16 shots"] == "16.0"
    assert float(numbers["p, 16 shots"]) == pytest.approx(2 / 2**16)


def test_seeds_that_are_not_the_same_are_not_paired(tmp_path, capsys):
    for trainer, seeds in (("CoOp", (1, 2)), ("MaPLe", (1,))):
        for seed in seeds:
            for folder in write_base_new(tmp_path, trainer, "EuroSAT", 0, 0, seed=seed):
                keep(folder, np.arange(30) % 3 < seed)
    assert table([str(tmp_path), "--paired", "--against", "CoOp"]) == 0
    assert "other seeds" in capsys.readouterr().out


def test_a_grids_difference_needs_like_seeds(tmp_path):
    for dataset in ("EuroSAT", "DescribableTextures"):
        write_base_new(tmp_path, "ZeroshotCLIP", dataset, 55, 40)
        for seed in (1, 2):
            write_base_new(tmp_path, "MaPLe", dataset, 60 + seed, 40, seed=seed)
            if (dataset, seed) != ("EuroSAT", 2):
                write_base_new(tmp_path, "CoOp", dataset, 50 + seed, 40, seed=seed)
    options = ["--grid", "--columns", "base", "--methods", "coop,maple", "--against"]
    rows = csv.DictReader(io.StringIO(written(tmp_path, tmp_path, *options, "CoOp")))
    found = {row["column"]: row["mean"] for row in rows if "less" in row["method"]}
    assert found == {"DTD": "10.0", "EuroSAT": "", "average of 2": ""}
    assert "No difference where the methods have other seeds" in written(
        tmp_path, tmp_path, *options, "CoOp", suffix="md"
    )
    options[-2] = "zsclip,maple"
    document = written(tmp_path, tmp_path, *options, "ZeroshotCLIP", suffix="md")
    assert "+6.50" in document and "other seeds" not in document


def test_answers_are_paired_by_seed_wherever_runs_lie(tmp_path):
    """The second method has right what the first has and three more: p is 2 / 2 ** 9."""
    for seed in (1, 2, 3):
        hard = np.random.default_rng(seed).random(100) < 0.5
        first = write_few_shot(tmp_path / "one", "CoOp", "EuroSAT", 4, 0, seed=seed)
        second = write_few_shot(
            tmp_path / ("one" if seed > 1 else "two"), "MaPLe", "EuroSAT", 4, 0, seed=seed
        )
        keep(first, ~hard)
        hard[np.flatnonzero(hard)[:3]] = False
        keep(second, ~hard)
    content = written(tmp_path, tmp_path, "--paired", "--against", "CoOp")
    (row,) = [r for r in csv.DictReader(io.StringIO(content)) if r["column"] == "p, 4 shots"]
    assert float(row["mean"]) == pytest.approx(2 / 2**9)


def test_few_test_images_are_said(tmp_path, capsys):
    for number, trainer in enumerate(("ZeroshotCLIP", "CoOp"), start=1):
        for folder in write_base_new(tmp_path, trainer, "EuroSAT", 0, 0):
            keep(folder, np.arange(27) % 3 < number)
    assert table([str(tmp_path)]) == 0
    out = capsys.readouterr().out  # 100 * sqrt(1/3 * 2/3 / 27) = 9.07
    assert "EuroSAT, standard error of one run's accuracy: 27 images of base classes: 9.1" in out


def test_calibration_of_kept_predictions(runs, tmp_path):
    content = written(runs, tmp_path, "--metric", "ece", "--methods", "zsclip")
    rows = list(csv.DictReader(io.StringIO(content)))
    assert {row["column"] for row in rows} == {"base", "new"}
    confidence = np.linspace(6, 1, 300)
    confidence = np.exp(confidence) / (np.exp(confidence) + 3)
    hits = right(0.5, 1, "EuroSAT", "base")
    bins = np.ceil(confidence * 15)
    gap = sum(abs((confidence[bins == b] - hits[bins == b]).sum()) for b in np.unique(bins))
    found = {(row["table"], row["column"]): float(row["mean"]) for row in rows}
    assert found["EuroSAT", "base"] == pytest.approx(100 * gap / 300, abs=0.3)  # kept as float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--paired", "--against", "Foo"], "no row of 'Foo'"),
        (["--grid", "--columns", "old"], "no column 'old'"),
        (["--grid", "--order", "EuroSTA"], "did you mean EuroSAT"),
        (["--grid", "--against", "ZeroshotCLIP"], "is the last row itself"),
        (["--paired", "--metric", "ece"], "compares accuracies"),
        (["--paired", "--grid"], "give one of them"),
        (["--protocol", "noise", "--grid"], "do not go with --protocol noise"),
        (["--robust", "pgd:4/255", "--paired"], "leave --paired and --grid out"),
        (["--columns", "base"], "go with --grid"),
        (["--against", "CoOp"], "goes with --paired or --grid"),
    ],
)
def test_refusals_are_one_line(runs, capsys, options, message):
    assert table([str(runs), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_files_that_results_do_not_speak_of_are_not_read(tmp_path, capsys):
    for trainer in ("CoOp", "ZeroshotCLIP"):
        for folder in write_base_new(tmp_path, trainer, "EuroSAT", 60, 50):
            (folder / "predictions.npz").write_bytes(b"anything")
    for option in (["--metric", "ece"], ["--paired"]):
        assert table([str(tmp_path), *option]) == 2
        assert "TEST.SAVE_PREDICTIONS" in capsys.readouterr().err
    assert table([str(tmp_path), "--format", "latex"]) == 0


def test_predictions_that_do_not_fit_the_accuracy_are_refused(tmp_path, capsys):
    folder, _ = write_base_new(tmp_path, "CoOp", "EuroSAT", 0, 0)
    write_base_new(tmp_path, "ZeroshotCLIP", "EuroSAT", 0, 0)
    assert table([str(tmp_path), "--paired"]) == 2
    assert "TEST.SAVE_PREDICTIONS" in capsys.readouterr().err
    keep(folder, np.arange(20) < 10)
    results = folder / "results.json"
    results.write_text(results.read_text().replace('"accuracy": 50.0', '"accuracy": 90.0'))
    assert table([str(tmp_path), "--paired"]) == 2
    err = capsys.readouterr().err
    assert "gives an accuracy of 50.00, results.json one of 90.00" in err
