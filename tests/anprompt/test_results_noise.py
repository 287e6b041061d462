"""Rows of tables of noise: whose figures are averaged, and what is said of those left out."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from called import report, table
from written_runs import write_few_shot, write_results, write_source, write_target

from anprompt.commands import pack
from anprompt.results.noise.files import read_below


def measure(
    folder: Path, accuracy: float, cells: Iterable[str] = (), images: int = 50, **header
) -> None:
    """A robustness.json as `anprompt robustness` writes it; its cells have ``accuracy``."""
    results = json.loads((folder / "results.json").read_text())
    figures = {"accuracy": accuracy, "ece": 1.0}
    content = {
        "format": 2,
        "trainer": results["trainer"],
        "config": "vit_b16",
        "backbone": "small",
        "dataset": results["dataset"],
        "trained_on": "all",
        "shots": results["shots"],
        "seed": results["seed"],
        "checkpoint": "prompt_learner/model.pth.tar-10",
        "noise_in_training": {"text_kinds": [], "image_kinds": [], "seeds": []},
        "parts": {
            "all": {
                "headline_rule": "class",
                "classnames": ["a"],
                "images": {"used": images, "sha256": str(images)},
                "clean": {"class": figures},
                "cells": {
                    key: {"class": {**figures, "consistency": 50.0}}
                    for key in ("image/jpeg/1/-", *cells)
                },
            }
        },
        **header,
    }
    (folder / "robustness.json").write_text(json.dumps(content))


def noise_table(capsys, *folders: Path, status: int = 0) -> str:
    capsys.readouterr()
    assert table([*folders, "--protocol", "noise", "--format", "markdown"]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def rows(printed: str) -> dict[str, list[str]]:
    """The first table's rows, by the method's name."""
    lines = printed.partition("\n\n| ")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: own for name, *own in cells}


def transfer(root: Path, trained_on: str, accuracy: float, seed: int, **header) -> None:
    """A training on one data set, and the noise on its test on UCF101."""
    write_source(root, "CoOp", trained_on, 80, seed=seed)
    folder = write_target(root, "CoOp", trained_on, "UCF101", accuracy, seed=seed)
    measure(folder, accuracy, **header)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_models_of_different_data_sets_are_no_seeds_of_one_row(seed, is_recorded, tmp_path, capsys):
    """Files of earlier versions do not say what was trained on; the training's folder does."""
    for source, accuracy, own in (("EuroSAT", 20.0, 1), ("Food101", 30.0, seed)):
        header = {"source": source} if is_recorded else {}
        transfer(tmp_path, source, accuracy, own, **header)
    if is_recorded:
        shutil.rmtree(tmp_path / "crossdata/train")
    out = noise_table(capsys, tmp_path)
    found = rows(out)
    assert {name: cells[2] for name, cells in found.items()} == {
        "CoOp (trained on all classes of EuroSAT)": "20.0",
        "CoOp (trained on all classes of Food101)": "30.0",
    }
    assert "trained on EuroSAT: CoOp (trained on all classes of EuroSAT)" in out


def test_the_path_says_what_was_trained_on_where_the_training_is_gone(tmp_path):
    transfer(tmp_path, "EuroSAT", 20.0, 1)
    shutil.rmtree(tmp_path / "crossdata/train")
    (evaluation,) = read_below([tmp_path])
    assert evaluation.trained_elsewhere == "EuroSAT"


def test_one_source_is_a_note(tmp_path, capsys):
    transfer(tmp_path, "EuroSAT", 20.0, 1)
    out = noise_table(capsys, tmp_path)
    assert list(rows(out)) == ["CoOp"] and "trained on EuroSAT: CoOp" in out
    trained = tmp_path / "crossdata/train/eurosat/shots_16/CoOp/vit_b16/seed1"
    measure(trained, 40.0)
    assert "trained on" not in noise_table(capsys, trained)


def test_packed_runs_keep_what_was_trained_on(tmp_path, capsys):
    output, theirs = tmp_path / "output", tmp_path / "theirs"
    transfer(output, "EuroSAT", 20.0, 1)
    transfer(output, "Food101", 30.0, 1, source="Food101")
    assert pack.main([str(output), str(tmp_path / "runs.tar.xz")]) == 0
    theirs.mkdir()
    subprocess.run(["tar", "xf", tmp_path / "runs.tar.xz", "-C", theirs], check=True)
    assert noise_table(capsys, theirs) == noise_table(capsys, output)
    assert len(rows(noise_table(capsys, theirs))) == 2


def test_the_page_keeps_them_apart(tmp_path):
    for source, accuracy in (("EuroSAT", 20.0), ("Food101", 30.0)):
        transfer(tmp_path / "output", source, accuracy, 1)
    assert report([tmp_path / "output", "-o", tmp_path / "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "CoOp (trained on EuroSAT)" in page and "CoOp (trained on Food101)" in page


def test_shots_are_those_of_the_training(tmp_path, capsys):
    """A test of a model may say nothing of shots, which are -1 then."""
    for trainer, shots in (("CoOp", 2), ("MaPLe", 4)):
        training = write_few_shot(tmp_path, trainer, "EuroSAT", shots, 80)
        folder = tmp_path / "tests" / trainer
        write_results(folder, trainer, "EuroSAT", 70, shots=-1, training=training)
        measure(folder, 70.0)
    assert list(rows(noise_table(capsys, tmp_path))) == ["CoOp (2 shots)", "MaPLe (4 shots)"]


def attacked(root: Path, trainer: str, cells: Iterable[str], seed: int = 1) -> Path:
    """A training on EuroSAT, and the noise on its test."""
    folder = write_few_shot(root, trainer, "EuroSAT", 16, 80, seed=seed)
    measure(folder, 30.0, cells)
    return folder


def under(folder: Path, accuracies: dict[str, float]) -> None:
    """Write accuracies under attacks ("pgd2/1/1") into a robustness.json."""
    content = json.loads((folder / "robustness.json").read_text())
    for part in content["parts"].values():
        for key, accuracy in accuracies.items():
            figures = {"accuracy": accuracy, "ece": 1.0, "consistency": 50.0}
            part["cells"][f"adversarial/{key}"] = {"class": figures}
    (folder / "robustness.json").write_text(json.dumps(content))


STARTS = ("adversarial/pgd2/1/4", "adversarial/pgd2/1/7")


def test_starts_of_attacks_are_named_where_they_differ(tmp_path, capsys):
    attacked(tmp_path, "CoOp", STARTS[:1])
    other = attacked(tmp_path, "MaPLe", STARTS[:1])
    robust = [tmp_path, "--robust", "pgd2:1", "--no-published"]
    assert table(robust) == 0
    assert "different starts" not in capsys.readouterr().out
    measure(other, 30.0, STARTS[1:])
    assert table(robust) == 0
    told = "attacked from different starts (noise seeds): CoOp: 4; MaPLe: 7."
    assert told in capsys.readouterr().out


def test_several_starts_of_one_row_are_named(tmp_path, capsys):
    """Files of earlier versions may have them; checks looked at the last, figures were means."""
    folder = attacked(tmp_path, "CoOp", [])
    under(folder, {"pgd2/1/4": 10.0, "pgd2/1/7": 20.0, "pgd10/1/4": 16.5, "pgd10/1/7": 30.0})
    assert table([tmp_path, "--robust", "pgd2:1", "--no-published"]) == 0
    out = capsys.readouterr().out
    assert "attacked from different starts (noise seeds): CoOp: 4, 7." in out
    assert "more steps: FAILED (pgd2 1/255: 15.0 > pgd10 1/255: 23.2)" in " ".join(out.split())
    out = noise_table(capsys, tmp_path)
    assert "attacked from different starts: noise seeds 4, 7" in out
    assert "more steps: FAILED (pgd2 1/255: 15.0 > pgd10 1/255: 23.2)" in out.replace("\\", "")


ATTACK = "adversarial/pgd2/1/1"


def test_what_only_some_seeds_of_a_row_have_is_told(tmp_path, capsys):
    attacked(tmp_path, "CoOp", [ATTACK, "text/char/1/1", "text/char/2/1"])
    attacked(tmp_path, "CoOp", ["text/char/1/1"], seed=2)
    out = noise_table(capsys, tmp_path)
    assert "pgd2" not in out and "masked" not in out
    assert "left out: 2 cells that only some of the runs have" in out
    assert "not shown, CoOp: adversarial noise, measured for only 1 of its 2 runs" in out
    assert "text noise, measured" not in out


def test_a_row_in_part_attacked_takes_nothing_from_another(tmp_path, capsys):
    """Its figure is missing; those of a row with all seeds stay, at every bound."""
    attacked(tmp_path, "CoOp", [ATTACK])
    attacked(tmp_path, "CoOp", [], seed=2)
    for seed in (1, 2):
        attacked(tmp_path, "MaPLe", [ATTACK, "adversarial/pgd2/4/1"], seed=seed)
    out = noise_table(capsys, tmp_path)
    assert [cells[-2:] for cells in rows(out).values()] == [["-", "-"], ["30.0 ± 0.0"] * 2]
    assert "left out:" not in out
    assert "not shown, CoOp: adversarial noise, measured for only 1 of its 2 runs" in out


@pytest.mark.parametrize("protocol", ["crossdata", "noise"])
def test_trainings_behind_tests_are_compared(protocol, tmp_path, capsys):
    for seed, rate in ((1, 0.1), (2, 0.7)):
        options = {"OPTIM": {"LR": rate}}
        write_source(tmp_path, "CoOp", "EuroSAT", 80, seed=seed, options=options)
        tested = write_target(tmp_path, "CoOp", "EuroSAT", "UCF101", 20, seed=seed)
        measure(tested, 20.0)
        status = table([tmp_path / "crossdata/test", "--protocol", protocol])
        assert status == (0 if seed == 1 else 2)
    error = capsys.readouterr().err
    assert "as seeds of one row, but their trainings' OPTIM.LR is 0.1 in the first and 0.7" in error


@pytest.mark.parametrize("protocol", ["crossdata", "noise"])
def test_what_trainings_own_tests_were_is_nothing_to_others(protocol, tmp_path):
    for seed in (1, 2):
        options = {"TEST": {"NO_TEST": seed == 2}, "DATALOADER": {"TEST": {"BATCH_SIZE": seed}}}
        write_source(tmp_path, "CoOp", "EuroSAT", 80, seed=seed, options=options)
        measure(write_target(tmp_path, "CoOp", "EuroSAT", "UCF101", 20, seed=seed), 20.0)
    assert table([tmp_path / "crossdata/test", "--protocol", protocol]) == 0


@pytest.mark.parametrize("protocol", ["crossdata", "noise"])
def test_a_tests_own_settings_of_training_are_nothing_to_others(protocol, tmp_path):
    for seed in (1, 2):
        write_source(tmp_path, "CoOp", "EuroSAT", 80, seed=seed)
        tested = write_target(tmp_path, "CoOp", "EuroSAT", "UCF101", 20, seed=seed)
        content = json.loads((tested / "results.json").read_text())
        content["config"]["OPTIM"]["MAX_EPOCH"] = seed
        (tested / "results.json").write_text(json.dumps(content))
        measure(tested, 20.0)
    assert table([tmp_path / "crossdata/test", "--protocol", protocol]) == 0


def test_zero_shot_clip_measured_twice_is_one_row(tmp_path, capsys):
    for place, accuracy in (("mine", 20.0), ("unpacked", 20.0), ("other", 21.0)):
        run = write_few_shot(tmp_path / place, "ZeroshotCLIP", "EuroSAT", 1, 30)
        measure(run, accuracy, checkpoint="")
    found = rows(noise_table(capsys, tmp_path / "mine", tmp_path / "unpacked"))
    assert found["ZeroshotCLIP"] == rows(noise_table(capsys, tmp_path / "mine"))["ZeroshotCLIP"]
    refused = noise_table(capsys, tmp_path / "mine", tmp_path / "other", status=2)
    assert "are the same method, data set and seed" in refused


# Four signs: more steps, larger bounds, none, and another model's images do less harm.
MASKED = {
    "pgd2/1/1": 30.0,
    "pgd10/1/1": 40.0,
    "pgd100/1/1": 50.0,
    "pgd100/4/1": 60.0,
    "pgd100/255/1": 20.0,
    "transfer/1/1": 10.0,
}
FAILED = (
    "more steps: FAILED ({seed}pgd2 1/255: 30.0 > pgd10 1/255: 40.0 > pgd100 1/255: 50.0{of}); "
    "larger eps: FAILED ({seed}pgd100 1/255: 50.0 > pgd100 4/255: 60.0{of}); "
    "unbounded eps: FAILED ({seed}pgd100 255/255: 20.0{of}); "
    "transfer from zero-shot CLIP: FAILED ({seed}1/255: 10.0, white-box 30.0{of}); "
    "not checked (--noise masking): Square, which needs no gradient"
)
UNCHECKED = (
    "not checked (--noise masking): more steps, larger eps, unbounded eps, transfer from "
    "zero-shot CLIP, Square, which needs no gradient"
)


@pytest.mark.parametrize("flags", [["--protocol", "noise"], ["--robust", "eps1"]])
def test_signs_of_masking_are_of_all_attacks_of_a_run(flags, tmp_path, capsys):
    """Whatever other rows, and other seeds of the row, were attacked with."""

    def signs() -> list[str]:
        assert table([tmp_path, *flags, "--no-published", "--format", "markdown"]) == 0
        printed = re.sub(r"\s+", " ", capsys.readouterr().out.replace("\\", ""))
        return re.findall(r"masked gradients, (.*?no gradient)", printed)

    shots = "" if "noise" in flags else ", 16 shots"
    under(attacked(tmp_path, "AdvMaPLe", []), MASKED)
    assert signs() == [f"AdvMaPLe{shots}: {FAILED.format(seed='', of='')}"]
    under(attacked(tmp_path, "FAP", []), {"pgd100/1/1": 20.0})
    told = [f"FAP{shots}: {UNCHECKED}"]
    assert signs() == [f"AdvMaPLe{shots}: {FAILED.format(seed='', of='')}", *told]
    under(attacked(tmp_path, "AdvMaPLe", [], seed=2), {"pgd100/1/1": 50.0})
    failed = FAILED.format(seed="seed 1: ", of="; 1 of 2 seeds checked")
    assert signs() == [f"AdvMaPLe{shots}: {failed}", *told]
    under(attacked(tmp_path, "AdvMaPLe", [], seed=3), MASKED | {"pgd10/1/1": 20.0})
    assert (
        "(seed 1: pgd2 1/255: 30.0 > pgd10 1/255: 40.0 > pgd100 1/255: 50.0; seed 3:" in signs()[0]
    )
    assert "; 2 of 3 seeds checked" in signs()[0]


def test_a_sign_of_masking_is_told_where_no_attack_is_shown(tmp_path, capsys):
    under(attacked(tmp_path, "AdvMaPLe", []), MASKED)
    attacked(tmp_path, "AdvMaPLe", [], seed=2)
    out = noise_table(capsys, tmp_path)
    assert "| pgd" not in out
    assert FAILED.format(seed="seed 1: ", of="; 1 of 2 seeds checked") in out.replace("\\", "")


def change_part(folder: Path, **changes) -> None:
    content = json.loads((folder / "robustness.json").read_text())
    for part in content["parts"].values():
        part.update(changes)
    (folder / "robustness.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("cell", "first", "other", "said"),
    [
        (
            "imagenet-c/fog/1/1",
            {"imagenet_c": {"size": 32, "as_jpeg": True}},
            {"imagenet_c": {"size": 32, "as_jpeg": False}},
            "ImageNet-C is made with the parameters for 32 pixels, saved as JPEG 85 and read again "
            "in the first and with the parameters for 32 pixels, not saved as JPEG in the second; "
            "evaluate one of them anew (--redo) with the other's --nearest and --as-jpeg",
        ),
        (
            "imagenet-c-val/spatter/1/1",
            {"imagenet_c": {"size": 224, "as_jpeg": True}},
            {"imagenet_c": {"size": 64, "as_jpeg": True}},
            "made with the parameters for 224 pixels, saved as JPEG 85 and read again in the first",
        ),
        (
            "text-form/phrasing/1/1",
            {"phrasings": "ab" * 16},
            {},
            "text noise phrasing is made from a file of digest abababababab in the first and from "
            "its own forty in the second; evaluate one of them anew (--redo) with the other's "
            "--templates",
        ),
        (
            "both/fog+description/1/1",
            {"descriptions": "ab" * 16},
            {"descriptions": "cd" * 16},
            "and from a file of digest cdcdcdcdcdcd in the second",
        ),
    ],
)
def test_noise_made_in_different_ways_shares_no_table(cell, first, other, said, tmp_path, capsys):
    folders = [attacked(tmp_path, trainer, [cell]) for trainer in ("CoOp", "MaPLe")]
    for folder, how in zip(folders, (first, other), strict=True):
        change_part(folder, **how)
    error = noise_table(capsys, tmp_path, status=2)
    assert said in error and len(error.strip().splitlines()) == 1
    assert all(f"{folder}/robustness.json" in error for folder in folders)
    change_part(folders[1], **first)
    assert list(rows(noise_table(capsys, tmp_path))) == ["CoOp", "MaPLe"]
    # One row without such noise is beside the other whatever its file says.
    attacked(tmp_path, "KgCoOp", [])
    assert list(rows(noise_table(capsys, tmp_path))) == ["CoOp", "KgCoOp", "MaPLe"]


def test_nothing_is_best_under_an_attack_on_other_images(tmp_path, capsys):
    def printed(used: int, digest: str = "0") -> str:
        for trainer, accuracy, how in (("CoOp", 21.0, (4, "0")), ("MaPLe", 20.0, (used, digest))):
            folder = tmp_path / f"fewshot/eurosat/shots_16/{trainer}/vit_b16/seed1"
            clean = {"accuracy": 30.0, "ece": 1.0, "brier": 0.5}
            own = dict(zip(("used", "sha256"), how, strict=True))
            change_part(folder, attacked=own | {"clean": {"class": clean}}, clean={"class": clean})
            under(folder, {"pgd100/1/1": accuracy, "pgd100/4/1": accuracy - 20})
        assert table([tmp_path, "--protocol", "noise", "--format", "latex"]) == 0
        return capsys.readouterr().out

    for trainer in ("CoOp", "MaPLe"):
        attacked(tmp_path, trainer, [])
    same, other, unlike = printed(4), printed(24, "1"), printed(4, "1")
    best = [r"\mathbf{21.0}", r"\mathbf{70.0}", r"\mathbf{3.3}"]  # the last two: kept of 30
    assert all(number in same for number in best)
    assert not any(number in other + unlike for number in best)
    told = "not all rows were attacked on the same images (how many, digest): CoOp: 4 (0); MaPLe:"
    assert told not in same and f"{told} 24 (1)" in other and f"{told} 4 (1)" in unlike
    assert r"\mathbf{30.0}" in unlike  # other columns have their best


TRAINED = {"EPS": 1.0, "STEP": 1.0, "STEPS": 2, "START": "uniform"}


def trained_on_attacks(
    root: Path, trainer: str, node: str, seed: int = 1, run: dict | None = None, **settings
) -> None:
    """A training with these settings of an attack, and an evaluation of its test on EuroSAT."""
    options = {"TRAINER": {"NAME": trainer, node: {**TRAINED, **settings}}}
    write_source(root, trainer, "UCF101", 80, options=options | (run or {}), seed=seed)
    folder = write_target(root, trainer, "UCF101", "EuroSAT", 80, seed=seed)
    measure(folder, 30.0)
    under(folder, {"pgd100/1/1": 20.0})


@pytest.mark.parametrize("flags", [["--protocol", "noise"], ["--robust", "eps1"]])
def test_rows_trained_on_attacked_images_are_named(flags, tmp_path, capsys):
    def told() -> list[str]:
        assert table([tmp_path, *flags, "--no-published", "--format", "json"]) == 0
        tables = json.loads(capsys.readouterr().out)["tables"]
        notes = [note.rstrip(".") for found in tables for note in found["notes"]]
        return [note for note in notes if note.startswith("trained on attacked")]

    write = partial(trained_on_attacks, tmp_path)
    write("AdvMaPLe", "ADVERSARIAL", LOSS="clean", BETA=1.0)
    write("AdvVPT", "ADVERSARIAL", LOSS="trades", BETA=0.0)
    write("AdvIVLP", "ADVERSARIAL", LOSS="adv_full", BETA=1.0, EPS=0.0)
    write("MaPLe", "MAPLE")  # settings of the same names, of something else
    ramp = {"LOSS": "ramp", "EPS": 4.0, "STEP": None, "STEPS": 5, "START": "zero"}
    write("NAPTuning", "NAPTUNING", run={"OPTIM": {"MAX_EPOCH": 1}}, **ramp)  # epoch 0 is clean
    write("FAP", "FAP", run={"RUN": {"EVAL_ONLY": True, "MODEL_DIR": ""}}, LOSS="fap", LAMBDA=1.5)
    assert told() == []
    shutil.rmtree(tmp_path / "crossdata")
    write("NAPTuning", "NAPTUNING", **ramp)
    write("FAP", "FAP", LOSS="fap", LAMBDA=1.5)
    write("AdvCoOp", "ADVERSARIAL", LOSS="adv_full", BETA=0.0, STEPS=1)
    write("AdvVPT", "ADVERSARIAL", LOSS="trades", BETA=1.0, EPS=0.5)
    for seed in (1, 2):
        write("AdvMaPLe", "ADVERSARIAL", seed, LOSS="adv_full", BETA=1.0, STEPS=1)
    (told_once,) = told()
    assert told_once == (
        "trained on attacked images: AdvCoOp, AdvMaPLe (LOSS adv_full, 1 step at 1/255); "
        "AdvVPT (LOSS trades, 2 steps at 0.5/255); FAP (LOSS fap, 2 steps at 1/255); "
        "NAPTuning (LOSS ramp, 5 steps at 4/255)"
    )
    shutil.rmtree(tmp_path / "crossdata/train")
    assert told() == []  # nothing is recorded any more
