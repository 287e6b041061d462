"""anprompt table: cells against figures worked out by hand; what is missing stays missing."""

import csv
import io
import json
from pathlib import Path

import pytest
from called import table

from anprompt.results.assign import place
from anprompt.results.protocol_tables import make_tables
from anprompt.results.run import find_runs
from anprompt.results.value import harmonic_mean


def write_run(root: Path, trainer: str, part: str, seed: int, accuracy: float, **changes) -> Path:
    """A run's folder as train.py leaves it, with the figures given."""
    config = changes.pop("config_name", "vit_b16")
    dataset = changes.get("dataset", "Shapes")
    half = "train_base" if part == "base" else "test_new"
    folder = root / half / dataset.lower() / "shots_16" / trainer / config / f"seed{seed}"
    folder.mkdir(parents=True)
    content = {
        "trainer": trainer,
        "dataset": dataset,
        "subsample_classes": part,
        "shots": 16,
        "seed": seed,
        "accuracy": accuracy,
        "rules": {},
        "headline_rule": None,
        "backbone": "small",
        "finished": True,
        **changes,
    }
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def tables_of(root: Path, protocol: str = "base2new", **options) -> list:
    return make_tables(protocol, place(find_runs([root])[0]), **options)


def rows_of(root: Path, **options) -> dict[tuple[str, str], object]:
    return {(row.name, row.rule): row for row in tables_of(root, **options)[0].rows}


def test_figures_over_seeds(tmp_path):
    for seed, base, new in ((1, 80, 40), (2, 90, 60)):
        write_run(tmp_path, "CoOp", "base", seed, base)
        write_run(tmp_path, "CoOp", "new", seed, new)
    row = rows_of(tmp_path)["CoOp", ""]
    base, new, hm_of_means, mean_of_hms = row.values
    assert (base.number, base.std, row.seeds) == (85, 5, "2")
    assert (new.number, new.std) == (50, 10)
    assert hm_of_means.number == pytest.approx(2 * 85 * 50 / 135)
    assert mean_of_hms.number == pytest.approx((2 * 80 * 40 / 120 + 2 * 90 * 60 / 150) / 2)


def test_harmonic_mean_of_zero_is_zero():
    assert harmonic_mean(0, 50) == 0
    assert harmonic_mean(60, 60) == pytest.approx(60)


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path, "ZeroshotCLIP", "base", 1, 61.25)
    base = rows_of(tmp_path)["ZeroshotCLIP", ""].values[0]
    assert (base.number, base.std) == (61.25, None)


def test_missing_half_is_missing_and_not_zero(tmp_path, capsys):
    write_run(tmp_path, "CoOp", "base", 1, 80)
    assert table([str(tmp_path)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("CoOp"))
    assert line.split()[1:] == ["1", "/", "0", "80.00", "-", "-", "-"]


def test_harmonic_mean_needs_the_same_seeds(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "CoOp", "base", seed, 80)
    write_run(tmp_path, "CoOp", "new", 1, 40)
    row = rows_of(tmp_path)["CoOp", ""]
    assert row.seeds == "2 / 1"
    assert row.values[2:] == (None, None)


def test_unfinished_runs_are_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path, "CoOp", "base", 1, 80)
    half_done = write_run(tmp_path, "CoOp", "base", 2, 10, finished=False)
    (half_done / "config.yaml").write_text("TRAINER:\n  NAME: CoOp\n")
    killed = tmp_path / "train_base/shapes/shots_16/CoOp/vit_b16/seed3"
    killed.mkdir()
    (killed / "config.yaml").write_text("TRAINER:\n  NAME: CoOp\n")
    assert table([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "80.00" in printed and "10.00" not in printed
    assert f"not finished, left out: {half_done}" in printed
    assert f"not finished, left out: {killed}" in printed


def test_rules_for_all_classes_stand_beside_the_headline(tmp_path):
    rules = {"mix": {"accuracy": 86.0}, "class": {"accuracy": 84.0}}
    write_run(tmp_path, "ANPrompt", "base", 1, 86, rules=rules, headline_rule="mix")
    rules = {"mix": {"accuracy": 53.0}, "class": {"accuracy": 55.0}}
    write_run(tmp_path, "ANPrompt", "new", 1, 55, rules=rules, headline_rule="class")
    write_run(tmp_path, "CoOp", "base", 1, 80)
    assert list(rows_of(tmp_path)) == [("ANPrompt", "mix / class"), ("CoOp", "")]
    rows = rows_of(tmp_path, all_rules=True)
    figures = {
        name: [figure and figure.number for figure in row.values[:2]] for name, row in rows.items()
    }
    assert figures == {
        ("ANPrompt", "mix / class"): [86, 55],
        ("ANPrompt", "class everywhere"): [84, 55],
        ("ANPrompt", "mix everywhere"): [86, 53],
        ("CoOp", ""): [80, None],
    }


def test_configs_of_one_trainer_are_told_apart(tmp_path):
    write_run(tmp_path, "CoOp", "base", 1, 80, config_name="vit_b16_ctxv1")
    write_run(tmp_path, "CoOp", "base", 1, 70, config_name="vit_b16_ep50_ctxv1")
    write_run(tmp_path, "MaPLe", "base", 1, 75)
    names = {name for name, _ in rows_of(tmp_path)}
    assert names == {"CoOp (vit_b16_ctxv1)", "CoOp (vit_b16_ep50_ctxv1)", "MaPLe"}


def test_two_runs_in_one_cell_are_refused(tmp_path, capsys):
    write_run(tmp_path / "a", "CoOp", "base", 1, 80)
    write_run(tmp_path / "b", "CoOp", "base", 1, 81)
    assert table([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "a") in error and str(tmp_path / "b") in error


def test_what_learns_nothing_has_one_run_whatever_the_seeds(tmp_path):
    for seed in (1, 2):
        for part, accuracy in (("base", 80.0), ("new", 70.0)):
            write_run(tmp_path, "ZeroshotCLIP", part, seed, accuracy)
            write_run(tmp_path, "CoOp", part, seed, accuracy)
    (found,) = tables_of(tmp_path)
    assert {row.name: row.seeds for row in found.rows} == {"ZeroshotCLIP": "1", "CoOp": "2"}


def test_linked_runs_are_read_once(tmp_path, capsys):
    for part, accuracy in (("base", 80.0), ("new", 70.0)):
        folder = write_run(tmp_path / "elsewhere", "CoOp", part, 1, accuracy)
        below = tmp_path / "out" / folder.relative_to(tmp_path / "elsewhere")
        below.parent.mkdir(parents=True)
        below.symlink_to(folder)
        (tmp_path / "out" / f"latest_{part}").symlink_to(folder)
    assert table([str(tmp_path / "out"), "--format", "csv", "--no-published"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(",base,80.0,") == 1 and printed.count(",new,70.0,") == 1


def test_output_file_follows_its_suffix(tmp_path, capsys):
    for seed, base, new in ((1, 80, 40), (2, 90, 60)):
        write_run(tmp_path / "runs", "CoOp", "base", seed, base)
        write_run(tmp_path / "runs", "CoOp", "new", seed, new)
    markdown, values = tmp_path / "table.md", tmp_path / "table.csv"
    assert table([str(tmp_path / "runs"), "-o", str(markdown)]) == 0
    assert "| CoOp | 2 | 85.00 ± 5.00 | 50.00 ± 10.00 | 62.96 |" in markdown.read_text("utf-8")
    assert table([str(tmp_path / "runs"), "-o", str(values)]) == 0
    records = {r["column"]: r for r in csv.DictReader(io.StringIO(values.read_text()))}
    assert float(records["HM of means"]["mean"]) == pytest.approx(2 * 85 * 50 / 135)
    assert (records["new"]["std"], records["new"]["seeds"]) == ("10.0", "2")
    assert table([str(tmp_path / "runs"), "-o", str(tmp_path / "table.pdf")]) == 2
    assert "table.pdf" in capsys.readouterr().err


def test_methods_are_shown_in_the_order_asked_for(tmp_path, capsys):
    for trainer in ("ANPrompt", "CoOp", "ZeroshotCLIP"):
        write_run(tmp_path, trainer, "base", 1, 50)
    assert table([str(tmp_path), "--methods", "ZeroshotCLIP,ANPrompt"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "50.00" in line]
    assert shown == ["ZeroshotCLIP", "ANPrompt"]
    assert table([str(tmp_path), "--methods", "MaPLe"]) == 2
    assert "MaPLe" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", '{"finished": true}', '{"finished": true, "rules": 3}'])
def test_damaged_results_are_named(tmp_path, capsys, content):
    (tmp_path / "results.json").write_text(content)
    assert table([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "results.json") in error and len(error.splitlines()) == 1


def test_nothing_to_show(tmp_path, capsys):
    assert table([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert table([str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
