"""Accuracy under an attack beside accuracy."""

import json
import os
import re
from pathlib import Path

import pytest
from called import report, table
from written_runs import (
    write_base_new,
    write_few_shot,
    write_results,
    write_source,
    write_target,
)

from anprompt.results.table import ELEVEN


def attack(folder, trainer, parts, dataset="EuroSAT", used=50, attacked=0, **header):
    """A robustness.json with accuracies under PGD-100 at 1/255, by subset of the classes."""
    figures = {"ece": 1.0, "accuracy": 90.0}

    def part(accuracy):
        found = {
            "headline_rule": "class",
            "classnames": ["a"],
            "images": {"used": used, "sha256": ""},
            "clean": {"class": figures},
            "cells": {
                f"adversarial/{kind}/{bound}/1": {
                    "class": {**figures, "accuracy": number, "consistency": 50.0}
                }
                for (kind, bound), number in {
                    ("pgd100", 1): accuracy, ("pgd2", 1): 99.0, ("pgd100", 4): 0.5,
                }.items()
            },
        }  # fmt: skip
        return found | ({"attacked": {"used": attacked, "sha256": ""}} if attacked else {})

    content = {
        "format": 2,
        "trainer": trainer,
        "config": "vit_b16",
        "backbone": "small",
        "dataset": dataset,
        "shots": 16,
        "seed": 1,
        "checkpoint": "" if trainer == "ZeroshotCLIP" else "model.pth.tar-10",
        "noise_in_training": {"text_kinds": [], "image_kinds": [], "seeds": []},
        "parts": {name: part(accuracy) for name, accuracy in parts.items()},
        **header,
    }
    (folder / "robustness.json").write_text(json.dumps(content))


def cells(printed: str, method: str) -> list[str]:
    line = next(line for line in printed.splitlines() if line.startswith(method + " "))
    return line.removeprefix(method).split()


def test_noise_on_images_of_ones_own_has_their_title(tmp_path, capsys):
    run = write_few_shot(tmp_path, "CoOp", "ImageFolder", 16, 80, dataset_title="birds")
    attack(run, "CoOp", {"all": 30.0}, dataset="ImageFolder", dataset_title="birds")
    assert table([tmp_path, "--protocol", "noise"]) == 0
    out = capsys.readouterr().out
    assert "birds" in out and "ImageFolder" not in out


def test_the_page_shows_natural_and_robust(tmp_path):
    for dataset in ("EuroSAT", "UCF101"):
        for seed, robust in ((1, 30.0), (2, 40.0)):
            trained, _ = write_base_new(tmp_path / "output", "FAP", dataset, 90, 60, seed=seed)
            attack(trained, "FAP", {"base": robust}, dataset=dataset, seed=seed)
    assert report([tmp_path / "output", "-o", tmp_path / "page.html"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = page[page.index('id="attacks"') : page.index('id="robustness"')]
    assert "Under pgd100 1/255" in shown and "Under pgd100 4/255" in shown
    assert "base, robust" in shown and "new, robust" not in shown
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", shown))
    assert "90.00 ± 0.00 35.00 ± 5.00 60.00 ± 0.00" in text
    assert "average of 2 data sets: base against new classes" in page


def test_beside_base_and_new_from_the_trainings_folder(tmp_path, capsys):
    for seed, robust in ((1, 30.0), (2, 40.0)):
        trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60, seed=seed)
        attack(trained, "FAP", {"base": robust, "new": robust / 2}, seed=seed)
    zero, _ = write_base_new(tmp_path, "ZeroshotCLIP", "EuroSAT", 50, 70)
    attack(zero, "ZeroshotCLIP", {"base": 1.0, "new": 2.0})
    write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 50)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if line.startswith("method"))
    assert " ".join(header.split()[2:8]) == "base base, robust new new, robust"
    fap = " ".join(cells(out, "FAP"))
    assert "90.00 +- 0.00 35.00 +- 5.00 60.00 +- 0.00 17.50 +- 2.50" in fap
    assert cells(out, "ZeroshotCLIP")[1:5] == ["50.00", "1.00", "70.00", "2.00"]
    assert cells(out, "CoOp")[1:5] == ["80.00", "-", "50.00", "-"]
    assert "robust: accuracy under pgd100 1/255." in out
    # Two steps leave 99, a hundred 35 and, at a bound of 4, 0.5; the rest was not run.
    told = next(x for x in out.splitlines() if x.startswith("masked gradients, all rows"))
    assert "no sign in more steps, larger eps; not checked (--noise masking): unbounded eps" in told
    assert table([tmp_path, "--robust", "pgd100:4", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["tables"][0]
    values = next(r for r in found["rows"] if r["method"]["trainer"] == "FAP")["values"]
    assert values[1]["value"] == 0.5
    assert "robustness.json#parts/base/cells/adversarial" in json.dumps(values[1]["source"])


def test_beside_few_shot_and_transfer(tmp_path, capsys):
    for shots in (1, 16):
        run = write_few_shot(tmp_path / "few", "CoOp", "EuroSAT", shots, 60)
        attack(run, "CoOp", {"all": 10.0 + shots}, used=10, attacked=4)
    assert table([tmp_path / "few", "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert cells(out, "CoOp")[1:] == ["60.00", "11.00", "60.00", "26.00"]
    source = write_source(tmp_path / "xd", "CoOp", "ImageNet", 70)
    target = write_target(tmp_path / "xd", "CoOp", "ImageNet", "EuroSAT", 50)
    attack(source, "CoOp", {"all": 20.0}, dataset="ImageNet")
    assert table([tmp_path / "xd", "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert "ImageNet (source), robust" in out and "EuroSAT, robust" not in out
    attack(target, "CoOp", {"all": 5.0})
    assert table([tmp_path / "xd", "--robust", "eps1"]) == 0
    assert cells(capsys.readouterr().out, "CoOp")[1:5] == ["70.00", "20.00", "50.00", "5.00"]


def test_a_part_of_the_images_is_said(tmp_path, capsys):
    trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60, num_test=100)
    attack(trained, "FAP", {"base": 30.0, "new": 20.0}, used=50, attacked=20)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    assert "a part of the test images: 20 of 100 images." in capsys.readouterr().out
    whole, _ = write_base_new(tmp_path, "CoOp", "EuroSAT", 90, 60, num_test=100)
    attack(whole, "CoOp", {"base": 30.0, "new": 20.0}, used=100)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    assert "a part of the test images: 20 of 100 images (FAP)." in capsys.readouterr().out


def of_the_attacked(folder: Path, natural: dict[str, float]) -> None:
    """Write the accuracy without attack on the images attacked, by subset of the classes."""
    content = json.loads((folder / "robustness.json").read_text())
    for name, accuracy in natural.items():
        part = content["parts"][name]
        place = part.get("attacked") or part
        place["clean"] = {"class": {"accuracy": accuracy, "ece": 1.0}}
    (folder / "robustness.json").write_text(json.dumps(content))


def told_of_a_part(capsys, folder: Path, *flags: str) -> list[str]:
    assert table([folder, "--robust", "eps1", "--no-published", "--format", "json", *flags]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    notes = [note for found in tables for note in found["notes"]]
    return [note for note in notes if note.startswith("attacked on a part")]


@pytest.mark.parametrize("attacked", [0, 8])
def test_natural_accuracy_on_the_images_attacked_is_said(attacked, tmp_path, capsys):
    """Of 8 images that alone were evaluated, and of 8 among the 20 that were."""
    for dataset, more in (("EuroSAT", 0.0), ("UCF101", 30.0)):
        for seed, natural in ((1, 50.0), (2, 62.5)):
            run, _ = write_base_new(tmp_path, "FAP", dataset, 90, 60, seed=seed, num_test=600)
            used = 20 if attacked else 8
            parts = {"base": 30.0, "new": 20.0}
            attack(run, "FAP", parts, dataset, used=used, attacked=attacked, seed=seed)
            of_the_attacked(run, {"base": natural + more, "new": 25.0})
    start = (
        "attacked on a part of the test images: 8 of 600 images; natural accuracy on the images "
    )
    assert told_of_a_part(capsys, tmp_path) == [
        f"{start}attacked: FAP, base classes {base}, new classes 25.00."
        for base in ("56.25", "86.25", "71.25")
    ]


def test_natural_accuracy_on_the_images_attacked_is_of_each_number_of_shots(tmp_path, capsys):
    for shots, natural in ((1, 50.0), (16, 75.0)):
        run = write_few_shot(tmp_path, "CoOp", "EuroSAT", shots, 60, num_test=100)
        attack(run, "CoOp", {"all": 10.0}, used=10, attacked=4)
        of_the_attacked(run, {"all": natural})
    (told,) = told_of_a_part(capsys, tmp_path)
    assert told.endswith(
        "4 of 100 images; natural accuracy on the images attacked: CoOp, "
        "1 shot 50.00, 16 shots 75.00."
    )


def test_published_rows_have_both_columns_and_the_printed_deviation(tmp_path, capsys):
    for dataset in ELEVEN:
        trained, _ = write_base_new(tmp_path, "FAP", dataset, 90, 60, backbone="ViT-B/32")
        attack(trained, "FAP", {"base": 30.0, "new": 20.0}, dataset=dataset)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    average = out[out.index("average of 11") :]
    row = " ".join(cells(average, "FAP, published (ViT-B/32) [1]"))
    assert "70.52 +- 0.82 38.05 +- 2.15 49.58 +- 3.55 21.86 +- 2.57" in row
    eurosat = out[out.index("EuroSAT\n") :]
    row = " ".join(cells(eurosat, "FAP, published (ViT-B/32) [1]"))
    assert "87.70 51.80 32.80 13.40" in row
    assert "[1] FAP (arXiv:2403.14774): Zhou et al." in out
    # At another bound the published figures are those without attack alone.
    assert table([tmp_path, "--robust", "pgd100:4"]) == 0
    row = " ".join(cells(capsys.readouterr().out, "FAP, published (ViT-B/32) [1]"))
    assert "- 58.10 - 47.83 -" in row


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--robust", "pgd:9"], "no run was attacked so; python -m anprompt robustness"),
        (["--robust", "pgd100"], "--robust pgd100: name its bound in 255ths, 1 to 255: pgd100:1"),
        (["--robust", "pgd100:0"], "name its bound in 255ths"),
        (["--robust", "pdg:1"], "Did you mean pgd"),
        (["--robust", "eps1", "--grid"], "leave --paired and --grid out"),
        (["--robust", "eps1", "--metric", "ece"], "--robust goes beside accuracy"),
    ],
)
def test_what_cannot_be_shown_is_one_line(flags, said, tmp_path, capsys):
    trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60)
    attack(trained, "FAP", {"base": 30.0, "new": 20.0})
    assert table([tmp_path, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_a_model_of_another_data_set_is_not_taken(tmp_path, capsys):
    trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60)
    attack(trained, "FAP", {"base": 30.0, "new": 20.0}, dataset="Caltech101")
    assert table([os.fspath(Path(tmp_path)), "--robust", "eps1"]) == 2
    assert "no run was attacked so" in capsys.readouterr().err


def test_zero_shot_is_not_taken_for_one_with_other_words(tmp_path, capsys):
    """Tests of what learns nothing share an evaluation, if their settings are the same."""
    words = [{"DATASET": {"NAME": "EuroSAT", "TEMPLATE": t}} for t in ("a {}.", "no {}.")]
    first = write_few_shot(tmp_path, "ZeroshotCLIP", "EuroSAT", 1, 40, options=words[0])
    attack(first, "ZeroshotCLIP", {"all": 3.0})
    write_few_shot(tmp_path, "ZeroshotCLIP", "EuroSAT", 4, 40, options=words[0])
    assert table([tmp_path, "--robust", "eps1"]) == 0
    assert cells(capsys.readouterr().out, "ZeroshotCLIP")[1:] == ["40.00", "3.00"]
    other = write_few_shot(
        tmp_path, "ZeroshotCLIP", "EuroSAT", 1, 60, options=words[1], config="words"
    )
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert cells(out, "ZeroshotCLIP (words)")[1:] == ["60.00", "-"], out
    attack(other, "ZeroshotCLIP", {"all": 1.0}, config="words")
    assert table([tmp_path, "--robust", "eps1"]) == 0
    assert cells(capsys.readouterr().out, "ZeroshotCLIP (words)")[1:] == ["60.00", "1.00"]


def test_seeds_of_unlike_trainings_are_not_averaged_under_noise(tmp_path, capsys):
    for seed, rate in ((1, 0.1), (2, 0.1), (3, 0.7)):
        run = write_few_shot(
            tmp_path, "CoOp", "EuroSAT", 1, 60, seed=seed, options={"OPTIM": {"LR": rate}}
        )
        attack(run, "CoOp", {"all": 20.0}, seed=seed)
        status = table([tmp_path, "--protocol", "noise"])
        assert status == (0 if seed < 3 else 2)
    error = capsys.readouterr().err
    assert (
        "would be averaged as seeds of one row, but OPTIM.LR is 0.1 in the first and 0.7" in error
    )


def test_figures_of_another_checkpoint_are_not_shown(tmp_path, capsys):
    trained, tested = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60)
    (trained / "learner").mkdir()
    for epoch in (1, 10):
        (trained / "learner" / f"model.pth.tar-{epoch}").write_bytes(b"model")
    for folder, epochs in ((trained, 10), (tested, 10)):
        path = folder / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": epochs}))
    attack(trained, "FAP", {"base": 30.0, "new": 20.0}, checkpoint="learner/model.pth.tar-10")
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert "base, robust" in out and "figures of" not in out
    told = "robustness.json has figures of model.pth.tar-1, not of the checkpoint tested"
    attack(trained, "FAP", {"base": 30.0, "new": 20.0}, checkpoint="learner/model.pth.tar-1")
    assert table([tmp_path, "--robust", "eps1"]) == 2
    assert told in capsys.readouterr().err
    # Gone, it is known by its name all the same; other runs are shown.
    (trained / "learner/model.pth.tar-1").unlink()
    other, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60, seed=2)
    attack(other, "FAP", {"base": 40.0}, seed=2)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert f"{told}: not shown." in out and "40.00" in out and "35.00" not in out


def test_rules_that_were_not_attacked_have_no_figure(tmp_path, capsys):
    trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60)
    attack(trained, "FAP", {"base": 30.0, "new": 20.0})
    path = trained / "robustness.json"
    content = json.loads(path.read_text())
    for part in content["parts"].values():
        part["clean"]["mix"] = part["clean"]["class"]
        for rules in part["cells"].values():
            rules["mix"] = {**rules["class"], "accuracy": 99.0}
    path.write_text(json.dumps(content))
    for folder in tmp_path.rglob("results.json"):
        results = json.loads(folder.read_text())
        results["rules"] = {name: {"accuracy": results["accuracy"]} for name in ("class", "mix")}
        folder.write_text(json.dumps(results | {"headline_rule": "class"}))
    assert table([tmp_path, "--robust", "eps1", "--all-rules"]) == 0
    out = capsys.readouterr().out
    assert "30.00" in out and "99.00" not in out
    assert out.count("masked gradients, FAP, base classes") == 1


@pytest.mark.parametrize("flags", [["--robust", "eps1"], ["--protocol", "noise"]])
def test_seeds_attacked_on_other_images_are_no_row(tmp_path, capsys, flags):
    for seed, attacked in ((1, 4), (2, 0)):
        trained, _ = write_base_new(tmp_path, "FAP", "EuroSAT", 90, 60, seed=seed)
        attack(trained, "FAP", {"base": 30.0}, seed=seed, attacked=attacked)
    assert table([tmp_path, *flags]) == 2
    error = capsys.readouterr().err
    assert "would be averaged as seeds of one row, but" in error and "attacked" in error
    if "--robust" in flags:  # the files to mend, which are not those of the tests
        assert error.count("train_base/eurosat/shots_16/FAP") == 2 and "--redo" in error


def test_figures_of_fewer_seeds_are_said(tmp_path, capsys):
    for seed in (1, 2):
        for trainer in ("FAP", "CoOp"):
            trained, _ = write_base_new(tmp_path, trainer, "EuroSAT", 90, 60, seed=seed)
            if (trainer, seed) != ("FAP", 2):
                attack(trained, trainer, {"base": 30.0}, seed=seed)
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert "robust figures of fewer seeds than the row has: FAP, base: 1 of 2." in out


def test_figures_on_other_images_are_not_ranked(tmp_path, capsys):
    def bold(used):
        for trainer, robust in (("FAP", 30.0), ("CoOp", 20.0)):
            path = next((tmp_path / "base2new/train_base").glob(f"*/*/{trainer}/*/*"))
            attack(path, trainer, {"base": robust}, used=used[trainer])
        assert table([tmp_path, "--robust", "eps1", "--format", "latex"]) == 0
        return "{30.00}" in capsys.readouterr().out

    for trainer in ("FAP", "CoOp"):
        write_base_new(tmp_path, trainer, "EuroSAT", 90, 60)
    assert bold({"FAP": 50, "CoOp": 50})
    assert not bold({"FAP": 50, "CoOp": 20})
    assert table([tmp_path, "--robust", "eps1"]) == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "EuroSAT, base classes: not all rows were attacked on the same images" in out
    assert "CoOp: 20 (); FAP: 50 ()" in out


def test_the_page_counts_a_training_that_is_a_source_once(tmp_path):
    trained = tmp_path / "a/CoOp/vit_b16/seed1"
    write_results(trained, "CoOp", "Shapes", 80)
    tested = write_results(
        tmp_path / "b/CoOp/vit_b16/seed1", "CoOp", "EuroSAT", 50, training=trained
    )
    attack(tested, "CoOp", {"all": 20.0})
    assert report([tmp_path, "-o", tmp_path / "page.html"]) == 0
    assert "Under pgd100 1/255" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_tables_of_noise_say_on_how_many_images_attacks_were_made(tmp_path, capsys):
    for trainer, attacked in (("FAP", 4), ("CoOp", 0)):
        trained, _ = write_base_new(tmp_path, trainer, "EuroSAT", 90, 60)
        attack(trained, trainer, {"base": 30.0}, attacked=attacked)
    assert table([tmp_path, "--protocol", "noise"]) == 0
    out = capsys.readouterr().out
    assert "attacked, FAP: 4 of the images" in out and "attacked, CoOp" not in out
    assert "clean accuracy on those" not in out  # files of earlier versions lack it
    of_the_attacked(next(tmp_path.glob("*/train_base/*/*/FAP/*/*")), {"base": 40.0})
    assert table([tmp_path, "--protocol", "noise"]) == 0
    out = capsys.readouterr().out
    assert "attacked, FAP: 4 of the images, clean accuracy on those 40.0" in out
