"""Tables as LaTeX, CSV and Markdown."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from called import table
from kept_runs import keep
from test_results_noise import measure
from written_runs import (
    write_base_new,
    write_few_shot,
    write_results,
    write_source,
    write_target,
)

from anprompt.results.anomaly import MEASURES as METRICS


def latex(root: Path, *options: str) -> str:
    target = root / "table.tex"
    assert table([str(root), "-o", str(target), *options]) == 0
    return target.read_text(encoding="utf-8")


def rows_of(document: str) -> dict[str, list[str]]:
    """Cells by method."""
    rows = [
        line.removesuffix(r" \\").split(" & ") for line in document.splitlines() if " & " in line
    ]
    return {row[0]: row[1:] for row in rows[1:]}


@pytest.fixture
def runs(tmp_path) -> Path:
    for seed in (1, 2):
        write_base_new(tmp_path, "CoOp", "Shapes", 80 + seed, 40, seed=seed)
        write_base_new(tmp_path, "MaPLe", "Shapes", 70 + seed, 60, seed=seed)
    write_base_new(tmp_path, "ZeroshotCLIP", "Shapes", 50, 60)
    return tmp_path


def test_latex_is_balanced_and_has_booktabs(runs):
    document = latex(runs)
    body = "\n".join(line for line in document.splitlines() if not line.startswith("%"))
    assert body.count("{") == body.count("}")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert document.count(rule) == 1
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", document).group(1)
    for cells in rows_of(document).values():
        assert len(cells) + 1 == len(columns)
    assert not re.search(r"(?<!\\)[_#&%](?!.)", body)


def test_best_of_comparable_rows_is_bold(runs):
    rows = rows_of(latex(runs))
    assert rows["CoOp"][1] == r"$\mathbf{81.50} \pm 0.50$"
    assert rows["MaPLe"][1] == r"$71.50 \pm 0.50$"
    # Zero-shot CLIP needs no seeds to be compared, and ties are both best.
    assert rows["MaPLe"][2] == r"$\mathbf{60.00} \pm 0.00$"
    assert rows["ZeroshotCLIP"][2] == r"$\mathbf{60.00}$"


def test_bold_compares_neither_backbones_nor_seeds_nor_published_rows(runs):
    write_base_new(runs, "VPT", "Shapes", 99, 99)  # one seed of two
    write_base_new(runs, "KgCoOp", "Shapes", 98, 98, backbone="ViT-B/16")
    write_base_new(runs / "real", "CoOp", "EuroSAT", 50, 50)
    write_base_new(runs / "real", "MaPLe", "EuroSAT", 40, 40)
    document = latex(runs, "--published")
    shapes, eurosat = re.findall(r"\\begin\{table\}.*?\\end\{table\}", document, re.S)[:2][::-1]
    rows = rows_of(shapes)
    assert r"\mathbf" not in rows["KgCoOp (ViT-B/16)"][1]
    assert r"\mathbf" in rows["CoOp (small)"][1]
    rows = rows_of(eurosat)
    assert rows["CoOp (small)"][1] == r"$\mathbf{50.00}$"
    assert rows["CoOp, published (ViT-B/16) [1]"][1] == "$92.19$"
    assert r"exp\_results.png" in eurosat


def test_names_are_escaped(tmp_path):
    for config in ("vit_b16_a", "vit_b16_b"):
        write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, config=config)
    assert r"CoOp (vit\_b16\_a)" in rows_of(latex(tmp_path))


def test_csv_has_a_line_for_every_figure_of_every_protocol(runs, capsys):
    write_source(runs, "CoOp", "Caltech101", 90)
    write_target(runs, "CoOp", "Caltech101", "EuroSAT", 40)
    capsys.readouterr()
    assert table([str(runs), "--format", "csv"]) == 0
    records = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {record["protocol"] for record in records} == {"base2new", "crossdata"}
    found = {(r["table"], r["method"], r["column"]): r for r in records}
    assert found["Caltech101", "CoOp", "EuroSAT"]["mean"] == "40.0"
    base = found["Shapes", "CoOp", "base"]
    assert (float(base["mean"]), float(base["std"]), base["seeds"]) == (81.5, 0.5, "2")


def test_markdown_and_the_note_on_what_is_missing(runs, capsys):
    (runs / "base2new/test_new/shapes/shots_16/CoOp/vit_b16/seed1/results.json").unlink()
    (runs / "base2new/test_new/shapes/shots_16/CoOp/vit_b16/seed2/results.json").unlink()
    assert table([str(runs), "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| CoOp | 2 / 0 | 81.50 ± 0.50 | - | - | - |" in printed
    assert "no finished run" in printed
    assert "- ± is the (population) standard deviation" in printed


def test_an_output_that_cannot_be_written_is_said(runs, capsys):
    (runs / "table.md").mkdir()
    assert table([str(runs), "-o", str(runs / "table.md")]) == 2
    error = capsys.readouterr().err
    assert "table.md" in error and len(error.splitlines()) == 1


def keys(content: str) -> list[tuple[str, ...]]:
    """What the lines of a CSV file are of."""
    names = "protocol", "table", "measure", "shots", "method", "rule", "backbone", "column"
    rows = list(csv.DictReader(io.StringIO(content)))
    return [tuple(row[name] for name in names) for row in rows]


OPTIONS = {
    "base2new": [[], ["--all-rules"], ["--grid"], ["--paired"]],
    "fewshot": [[], ["--grid"]],
    "crossdata": [[], ["--grid"]],
    "domaingen": [[]],
    "anomaly": [[], ["--metric", "pixel_ap"]],
    "noise": [[]],
}


@pytest.fixture(scope="module")
def every_protocol(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("every")
    rules = {"mix": {"accuracy": 70.0}, "class": {"accuracy": 60.0}}
    for trainer in ("ZeroshotCLIP", "CoOp", "ANPrompt"):
        for dataset in ("Shapes", "EuroSAT"):
            own = {"rules": rules, "headline_rule": "mix"} if trainer == "ANPrompt" else {}
            for shots in (4, 16):
                tree = root / f"shots_{shots}"
                for folder in write_base_new(tree, trainer, dataset, 70, 60, shots=shots, **own):
                    keep(folder, np.arange(30) % 3 < (2 if trainer == "CoOp" else 1))
                run = write_few_shot(root, trainer, dataset, shots, 50)
                cells = ["imagenet-c/fog/1/-", "imagenet-c-disk/fog/1/-"]
                measure(run, 40.0, cells, images=50 if trainer == "CoOp" else 20)
        for source in ("ImageNet", "Caltech101"):
            write_source(root, trainer, source, 70)
            for target in ("ImageNetV2", "ImageNetSketch", "EuroSAT"):
                write_target(root, trainer, source, target, 60)
    figures = {name: 90.0 for name in METRICS}
    for category in ("bottle", "cable"):
        for shots in (1, 4, 0):
            folder = root / f"anomaly/{category}/shots_{shots}/AnomalyMemory/c/seed1"
            write_results(folder, "AnomalyMemory", "MVTecAD", 0, shots=shots, task="anomaly",
                          category=category, **figures)  # fmt: skip
    return root


@pytest.mark.parametrize("protocol", OPTIONS)
def test_no_two_lines_of_csv_are_of_the_same(every_protocol, protocol, capsys):
    for options in OPTIONS[protocol]:
        arguments = [str(every_protocol), "--protocol", protocol, "--format", "csv", *options]
        assert table(arguments) == 0
        found = keys(capsys.readouterr().out)
        assert len(found) > 10 and len(set(found)) == len(found)


def test_csv_names_measure_and_shots(every_protocol, capsys):
    def lines(protocol: str) -> list[dict[str, str]]:
        assert table([str(every_protocol), "--protocol", protocol, "--format", "csv"]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    measures = {row["measure"] for row in lines("domaingen") if row["method"] == "CoOp"}
    assert measures == {"Accuracy in %", "Effective robustness in percentage points"}
    found = lines("anomaly")
    assert {row["measure"][:11] for row in found} == {"Image AUROC", "Pixel AUROC", "AUPRO in %,"}
    assert {row["shots"] for row in found} == {"1", "4", "all", ""}
    shots = {row["method"]: row["shots"] for row in lines("base2new")}
    assert shots["CoOp (4 shots)"] == "4" and shots["ZeroshotCLIP"] == ""
