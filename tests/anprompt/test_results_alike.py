"""python -m anprompt table: runs that are not alike are refused, or pointed out."""

import json
import os
import shutil
from pathlib import Path

import pytest
from called import table
from test_results_protocols import tables
from written_runs import write_base_new, write_few_shot, write_source, write_target

from anprompt.results.assign import place
from anprompt.results.protocol_tables import make_tables
from anprompt.results.run import find_runs
from common.files import file_digest


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"options": {"OPTIM": {"MAX_EPOCH": 5}}}, "OPTIM.MAX_EPOCH is 10 in the first and 5"),
        ({"classnames": ["cat", "cow"]}, "class 1 is 'dog' in the first and 'cow'"),
        ({"classnames": ["cat"]}, "the number of classes is 2 in the first and 1"),
        ({"num_test": 90}, "the number of test images is 100 in the first and 90"),
        (
            {"identity": {"files": {"--plugin": "b2"}}},
            "the plugin's code is a1 in the first and b2",
        ),
    ],
)
def test_seeds_that_differ_in_more_than_the_seed_are_refused(tmp_path, capsys, changes, named):
    alike = {"classnames": ["cat", "dog"], "num_test": 100}
    alike["identity"] = {"files": {"--plugin": "a1"}}
    first = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=1, **alike)
    second = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 60, seed=2, **{**alike, **changes})
    assert table([str(tmp_path), "-o", str(tmp_path / "table.md")]) == 2
    error = capsys.readouterr().err
    assert named in error and str(first) in error and str(second) in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"MODEL": {"N": 5}}, "MODEL.N is 4 for base and 5 for new classes"),
        ({"epochs": 2}, "the number of epochs is 10 for base and 2 for new classes"),
    ],
)
def test_halves_of_unlike_trainings_are_refused(tmp_path, capsys, changes, named):
    """As when base was trained anew with other settings, or LOADEP was set for the test."""
    options = {"MODEL": {"N": 4}}
    folders = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60, epochs=10, options=options)
    assert table([str(tmp_path)]) == 0
    path = folders[1] / "results.json"
    content = json.loads(path.read_text())
    epochs = changes.get("epochs", 10)
    config = {**content["config"], **{k: v for k, v in changes.items() if k != "epochs"}}
    path.write_text(json.dumps({**content, "epochs": epochs, "config": config}))
    assert table([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error and all(str(folder) in error for folder in folders)


def test_an_optimisers_settings_are_nothing_to_halves_of_what_is_not_trained(tmp_path, capsys):
    folders = write_base_new(tmp_path, "ZeroshotCLIP", "EuroSAT", 80, 60)
    path = folders[1] / "results.json"
    content = json.loads(path.read_text())
    content["config"]["OPTIM"]["MAX_EPOCH"] = 5
    path.write_text(json.dumps(content))
    assert table([str(tmp_path)]) == 0
    assert "80.00" in capsys.readouterr().out
    content["config"]["TEST"] = {"SPLIT": "val"}
    path.write_text(json.dumps(content))
    first = folders[0] / "results.json"
    theirs = json.loads(first.read_text())
    theirs["config"]["TEST"] = {"SPLIT": "test"}
    first.write_text(json.dumps(theirs))
    assert table([str(tmp_path)]) == 2
    assert "TEST.SPLIT is 'test' for base and 'val'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("test", "the list of test images or classes"),
        ("test_files", "the files of test images"),
        ("train_files", "the files of training images"),
        ("few_shot", "the images drawn for training"),
    ],
)
def test_halves_of_other_data_are_refused(tmp_path, capsys, key, named):
    """As when images were changed between training and the test of new classes."""
    data = dict.fromkeys(("train", "test", "test_files", "train_files", "few_shot"), "ab" * 32)
    folders = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60, identity={"data": data})
    assert table([str(tmp_path)]) == 0
    path = folders[1] / "results.json"
    content = json.loads(path.read_text())
    content["identity"]["data"][key] = "cd" * 32
    path.write_text(json.dumps(content))
    assert table([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"the digest of {named} is abababababab for base and cdcdcdcdcdcd" in error


def test_a_test_of_a_model_that_was_trained_anew_is_refused(tmp_path, capsys):
    model = "prompt_learner/model.pth.tar-10"
    trained, tested = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60)
    (trained / model).parent.mkdir()
    (trained / model).write_bytes(b"first")
    path = tested / "results.json"
    identity = {"checkpoint": {model: file_digest(trained / model)}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": identity}))
    hour = 3600 * 10**9
    for content, status in ((b"first", 0), (b"second", 2)):
        for later in (hour, -hour):  # the file's time says nothing
            (trained / model).write_bytes(content)
            time = path.stat().st_mtime_ns + later
            os.utime(trained / model, ns=(time, time))
            assert table([str(tmp_path)]) == status
    error = capsys.readouterr().err
    assert f"{tested} has results of another checkpoint than {trained / model} is now" in error


def test_rows_tested_on_different_images_are_pointed_out(tmp_path):
    write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 40, num_test=100)
    write_base_new(tmp_path, "MaPLe", "EuroSAT", 80, 40, num_test=50)
    notes = tables(tmp_path, "base2new")[-1].notes
    assert any("EuroSAT base: not all rows" in n and "MaPLe: 50 images" in n for n in notes)


def test_rows_tested_on_as_many_other_images_are_pointed_out(tmp_path):
    for trainer, digest in (("CoOp", "ab"), ("MaPLe", "cd"), ("VPT", "")):
        identity = {"data": {"test": digest * 32}, "weights": digest * 8}
        write_few_shot(tmp_path, trainer, "EuroSAT", 4, 50, num_test=100, identity=identity)
    notes = tables(tmp_path, "fewshot")[-1].notes
    told = "CoOp, VPT: 100 images (abababab); MaPLe: 100 images (cdcdcdcd)"
    assert f"EuroSAT: not all rows have the same test: {told}" in notes
    assert "small: not all rows have the same weights: CoOp: abababab; MaPLe: cdcdcdcd" in notes


def test_seeds_tested_on_other_lists_of_images_are_refused(tmp_path, capsys):
    for seed, digest in ((1, "ab" * 32), (2, "cd" * 32)):
        identity = {"data": {"test": digest}}
        write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=seed, identity=identity)
    assert table([str(tmp_path)]) == 2
    assert "the list of test images or classes is abab" in capsys.readouterr().err


def notes_of(root: Path, protocol: str) -> list[str]:
    tables = make_tables(protocol, place(find_runs([root])[0]))
    return [note for one in tables for note in one.notes]


def test_columns_trained_with_other_settings_are_pointed_out(tmp_path):
    for dataset, rate in (("EuroSAT", 0.002), ("Caltech101", 0.1)):
        options = {"OPTIM": {"MAX_EPOCH": 10, "LR": rate}, "DATASET": {"NAME": dataset}}
        write_base_new(tmp_path / "b", "CoOp", dataset, 80, 70, options=options)
    options["OPTIM"]["LR"] = 0.002
    write_base_new(tmp_path / "b", "MaPLe", "EuroSAT", 80, 70, options=options)
    write_base_new(tmp_path / "b", "MaPLe", "Caltech101", 80, 70, options=options)
    told = [note for note in set(notes_of(tmp_path / "b", "base2new")) if "OPTIM.LR" in note]
    assert len(told) == 1
    assert told[0].startswith("CoOp: OPTIM.LR is not the same everywhere: ")
    assert "0.002 (EuroSAT)" in told[0] and "0.1 (Caltech101)" in told[0]

    for shots, rate in ((1, 0.002), (4, 0.1), (16, 0.1)):
        options = {"OPTIM": {"MAX_EPOCH": 10, "LR": rate}}
        write_few_shot(tmp_path / "f", "CoOp", "EuroSAT", shots, 60, options=options)
    told = [note for note in set(notes_of(tmp_path / "f", "fewshot")) if "OPTIM.LR" in note]
    assert told == [
        "CoOp: OPTIM.LR is not the same everywhere: 0.002 (EuroSAT at 1), 0.1 (EuroSAT at 4/16)."
    ]


def changed(folder: Path, **changes) -> None:
    """Change what a run recorded; ``settings``: by dotted name."""
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for name, value in changes.pop("settings", {}).items():
        *nodes, last = name.split(".")
        node = content["config"]
        for key in nodes:
            node = node.setdefault(key, {})
        node[last] = value
    path.write_text(json.dumps(content | changes))


OF_A_TRAINING = {
    "OPTIM.LR": 0.5,
    "OPTIM.MAX_EPOCH": 1,
    "DATALOADER.TRAIN_X.BATCH_SIZE": 3,
    "INPUT.TRANSFORMS": ["random_flip", "normalize"],
    "DATASET.NUM_SHOTS": 1,
    "TRAINER.NAME": "KgCoOp",
    "TRAINER.COOP.W": 2.0,  # which the trainer itself says is of its training
}
OF_ITS_TEST = {
    "OPTIM.LR": 0.002,
    "OPTIM.MAX_EPOCH": 200,
    "DATALOADER.TRAIN_X.BATCH_SIZE": 32,
    "INPUT.TRANSFORMS": ["normalize"],
    "DATASET.NUM_SHOTS": -1,
    "TRAINER.NAME": "KgCoOp",
    "TRAINER.COOP.W": 8.0,
}


def test_options_given_to_the_training_alone_are_nothing_to_its_tests(tmp_path, capsys):
    for seed, drawn in ((1, "ab"), (2, "cd")):
        data = {"few_shot": drawn * 32}
        trained, tested = write_base_new(
            tmp_path / "b", "KgCoOp", "EuroSAT", 80, 60, seed=seed, identity={"data": data}
        )
        changed(trained, settings=OF_A_TRAINING)
        changed(tested, settings=OF_ITS_TEST, identity={"data": {"few_shot": "ef" * 32}})
    changed(tested, settings={"OPTIM.LR": 0.1})
    assert table([str(tmp_path / "b")]) == 0
    assert "80.00 +- 0.00  60.00 +- 0.00" in capsys.readouterr().out
    changed(trained, settings={"OPTIM.LR": 0.7})
    assert table([str(tmp_path / "b")]) == 2
    assert "OPTIM.LR is 0.5 in the first and 0.7 in the second" in capsys.readouterr().err

    changed(write_source(tmp_path / "t", "KgCoOp", "Caltech101", 90), settings=OF_A_TRAINING)
    for target in ("EuroSAT", "DescribableTextures"):
        tested = write_target(tmp_path / "t", "KgCoOp", "Caltech101", target, 40)
        changed(tested, settings=OF_ITS_TEST)
    assert notes_of(tmp_path / "t", "crossdata") == []


def test_a_half_whose_training_is_another_than_the_base_half_is_refused(tmp_path, capsys):
    for tree, rate in (("one", 0.1), ("two", 0.7)):
        options = {"OPTIM": {"LR": rate}}
        trained, tested = write_base_new(
            tmp_path / tree, "CoOp", "EuroSAT", 80, 60, options=options
        )
        changed(tested, settings={"OPTIM.LR": 0.002})
    base = str(tmp_path / "one/base2new/train_base")
    assert table([base, str(tmp_path / "two/base2new/test_new")]) == 2
    assert "their trainings' OPTIM.LR is 0.1 for base and 0.7 for new" in capsys.readouterr().err
    assert table([base, str(tmp_path / "one/base2new/test_new")]) == 0


def test_without_its_training_a_tests_own_settings_are_compared(tmp_path, capsys):
    for seed, rate in ((1, 0.1), (2, 0.7)):
        options = {"OPTIM": {"LR": rate}}
        write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60, seed=seed, options=options)
    shutil.rmtree(tmp_path / "base2new/train_base")
    assert table([str(tmp_path)]) == 2
    assert "OPTIM.LR is 0.1 in the first and 0.7 in the second" in capsys.readouterr().err


def test_a_row_of_tests_of_unlike_trainings_is_pointed_out(tmp_path):
    for tree, target, rate in (("one", "EuroSAT", 0.002), ("two", "DescribableTextures", 0.5)):
        trained = write_source(tmp_path / tree, "CoOp", "Caltech101", 90)
        changed(trained, settings={"OPTIM.LR": rate})
        tested = write_target(tmp_path / tree, "CoOp", "Caltech101", target, 40)
        changed(tested, settings={"OPTIM.LR": 0.1})
    runs, _ = find_runs([tmp_path / "one", tmp_path / "two/crossdata/test"])
    (found,) = make_tables("crossdata", place(runs))
    values = "0.002 (Caltech101), 0.5 (DescribableTextures)"
    assert f"CoOp: OPTIM.LR is not the same everywhere: {values}." in found.notes


@pytest.mark.parametrize("are_known", [True, False])
def test_a_row_of_tests_at_several_epochs_is_pointed_out(tmp_path, are_known):
    """As with LOADEP for some of the data sets."""

    def epochs(number: int) -> dict:
        return {"epochs": number} if are_known else {}

    trained = write_source(tmp_path, "CoOp", "ImageNet", 70)
    changed(trained, settings={"RUN.LOAD_EPOCH": -1}, **epochs(5))
    for target, number, asked in (("ImageNetV2", 2, 2), ("ImageNetSketch", 5, -1)):
        tested = write_target(tmp_path, "CoOp", "ImageNet", target, 48)
        changed(tested, settings={"RUN.LOAD_EPOCH": asked}, **epochs(number))
    told = [note for note in notes_of(tmp_path, "domaingen") if "everywhere" in note]
    name, first = ("the number of epochs", 5) if are_known else ("RUN.LOAD_EPOCH", -1)
    assert told == [f"CoOp: {name} is not the same everywhere: {first} (ImageNet), 2 (ImageNetV2)."]


def test_seeds_at_one_epoch_are_alike_however_it_was_asked_for(tmp_path):
    for seed, asked in ((1, 5), (2, -1)):
        _, tested = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60, seed=seed, epochs=5)
        changed(tested, settings={"RUN.LOAD_EPOCH": asked})
    assert table([str(tmp_path)]) == 0


def test_settings_of_training_are_nothing_to_what_is_not_trained(tmp_path):
    folders = write_base_new(tmp_path, "ZeroshotCLIP", "EuroSAT", 80, 60)
    for folder, size in zip(folders, (32, 4), strict=True):
        changed(folder, settings={"DATALOADER.TRAIN_X.BATCH_SIZE": size})
    assert table([str(tmp_path)]) == 0


def test_a_row_of_unlike_precisions_under_one_setting_is_pointed_out(tmp_path):
    """fp16 and amp mean fp32 on a CPU."""
    for trainer, node, precision in (
        ("CoOp", "COOP", "fp16"),
        ("ANPrompt", "ANPROMPT", "amp"),
        ("CLIPAdapter", "CLIPADAPTER", "fp32"),
        ("VPT", "VPT", "fp16"),  # which is fp32 everywhere, as upstream's
        ("CLAP", "ADAPTER", "fp16"),
    ):
        for seed, device in ((1, "cpu"), (2, "NVIDIA H200"), (3, "NVIDIA H200")):
            options = {"TRAINER": {node: {"PREC": precision}}}
            more = {"seed": seed, "device": device, "options": options}
            write_few_shot(tmp_path, trainer, "EuroSAT", 4, 60, **more)
            if (trainer, device) == ("CoOp", "NVIDIA H200"):
                write_few_shot(tmp_path, "KgCoOp", "EuroSAT", 4, 60, **more)
    runs = "means fp32 on a CPU; runs are 2 on NVIDIA H200 and 1 on cpu."
    assert notes_of(tmp_path, "fewshot") == [
        f"ANPrompt: TRAINER.ANPROMPT.PREC amp {runs}",
        f"CoOp: TRAINER.COOP.PREC fp16 {runs}",
    ]


def test_runs_of_several_versions_of_the_code_are_pointed_out(tmp_path):
    def write(seed: int, commit: str, torch: str = "2.13.0", dirty: bool = False) -> None:
        made = {"code": {"commit": commit * 20, "dirty": dirty}, "versions": {"torch": torch}}
        write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=seed, **made)

    def told() -> list[str]:
        return [note for note in notes_of(tmp_path, "fewshot") if "Not all runs are of" in note]

    write(1, "aaaaa")
    write(2, "aaaaa")
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=3)
    assert told() == []
    write(4, "aaaaa", dirty=True)
    commits = f"Not all runs are of one commit of this code: {'a' * 12} (2 runs), "
    commits += f"{'a' * 12} with changes (1 run)"
    assert told() == [f"{commits}."]
    for seed, commit in enumerate("bcde", start=5):
        write(seed, commit, "2.14.1")
    assert told() == [
        f"{commits}, {'b' * 12} (1 run), {'c' * 12} (1 run), others (2 runs).",
        "Not all runs are of one PyTorch: 2.14.1 (4 runs), 2.13.0 (3 runs).",
    ]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"error": 50}, "accuracy 99.9 and error 50 are not 100"),
        ({"error": "half"}, "not the results of a run (error"),
        (
            {"rules": {"mix": {"accuracy": 50}}, "headline_rule": "mix"},
            "accuracy 99.9 is not that of its rule, 50",
        ),
        ({"rules": {"mix": {"accuracy": 50, "error": 40}}}, "accuracy 50 and error 40 are not 100"),
    ],
)
def test_an_edited_accuracy_is_no_result(tmp_path, capsys, figures, said):
    folder = write_few_shot(tmp_path, "ANPrompt", "EuroSAT", 4, 99.9, **figures)
    assert table([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(folder / "results.json") in error
    assert len(error.splitlines()) == 1
