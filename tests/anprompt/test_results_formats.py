"""Tables as LaTeX, CSV and Markdown."""

import csv
import io
import re
from pathlib import Path

import pytest
from called import table
from written_runs import write_base_new, write_few_shot, write_source, write_target


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
