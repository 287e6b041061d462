"""python -m anprompt table: which run stands in which table, and what averages are over."""

import json
import os
import shutil
from pathlib import Path

import pytest
from called import table
from written_runs import (
    write_base_new,
    write_few_shot,
    write_results,
    write_source,
    write_target,
)

from anprompt.results.assign import place
from anprompt.results.protocol_tables import make_tables, notes_on, protocols_with_runs
from anprompt.results.run import find_runs
from common.files import file_digest


def tables(root: Path, protocol: str, **options) -> list:
    return make_tables(protocol, place(find_runs([root], logs=True)[0]), **options)


def means(table) -> dict[str, dict[str, float | None]]:
    """Figures by method and column."""
    return {
        row.name: {
            column.name: figure and figure.number
            for column, figure in zip(table.columns, row.values, strict=True)
        }
        for row in table.rows
    }


@pytest.fixture
def transfers(tmp_path) -> Path:
    """Two methods from Caltech101 to two data sets, and to ImageNet's variants from ImageNet."""
    for seed, source, eurosat, dtd in ((1, 90, 40, 30), (2, 92, 44, 36)):
        write_source(tmp_path, "CoOp", "Caltech101", source, seed=seed)
        write_target(tmp_path, "CoOp", "Caltech101", "EuroSAT", eurosat, seed=seed)
        write_target(tmp_path, "CoOp", "Caltech101", "DescribableTextures", dtd, seed=seed)
    write_source(tmp_path, "ZeroshotCLIP", "Caltech101", 85)
    write_target(tmp_path, "ZeroshotCLIP", "Caltech101", "EuroSAT", 50)
    write_source(tmp_path, "CoOp", "ImageNet", 70)
    write_target(tmp_path, "CoOp", "ImageNet", "ImageNetSketch", 48)
    write_target(tmp_path, "CoOp", "ImageNet", "EuroSAT", 46)
    return tmp_path


def test_cross_dataset(transfers):
    imagenet, caltech = sorted(
        tables(transfers, "crossdata"), key=lambda t: t.subject != "ImageNet"
    )
    assert caltech.title == "Cross-dataset: trained on Caltech101"
    assert means(caltech) == {
        "CoOp": {
            "Caltech101 (source)": 91,
            "DescribableTextures": 33,
            "EuroSAT": 42,
            "average of 1": 42,
        },
        "ZeroshotCLIP": {
            "Caltech101 (source)": 85,
            "DescribableTextures": None,
            "EuroSAT": 50,
            "average of 1": 50,
        },
    }
    assert caltech.rows[0].values[2].std == 2
    assert [row.seeds for row in caltech.rows] == ["2", "1"]
    assert caltech.averaged == ["EuroSAT"]
    assert "DescribableTextures (not: ZeroshotCLIP)" in caltech.notes[0]
    # ImageNet's variants are not among the targets.
    assert list(means(imagenet)["CoOp"]) == ["ImageNet (source)", "EuroSAT", "average of 1"]


def test_a_method_without_finished_targets_is_shown(transfers):
    write_source(transfers, "MaPLe", "Caltech101", 93)
    (caltech,) = [t for t in tables(transfers, "crossdata") if t.subject == "Caltech101"]
    assert means(caltech)["MaPLe"] == {
        "Caltech101 (source)": 93,
        "DescribableTextures": None,
        "EuroSAT": None,
        "average of 1": None,
    }
    assert means(caltech)["CoOp"]["average of 1"] == 42


def test_domain_generalisation_has_the_variants_of_imagenet(transfers):
    (table,) = tables(transfers, "domaingen")
    assert means(table)["CoOp"] == {
        "ImageNet (source)": 70,
        "ImageNetV2": None,
        "ImageNetSketch": 48,
        "ImageNetA": None,
        "ImageNetR": None,
        "average of 1": 48,
    }


def test_protocols_shown_by_default(transfers, capsys):
    assert protocols_with_runs(place(find_runs([transfers])[0])) == ["crossdata", "domaingen"]
    shutil.rmtree(transfers / "crossdata/test/imagenet/imagenet_sketch")
    assert protocols_with_runs(place(find_runs([transfers])[0])) == ["crossdata"]
    write_few_shot(transfers, "CoOp", "EuroSAT", 4, 70)
    write_base_new(transfers, "CoOp", "EuroSAT", 80, 60)
    assert table([str(transfers)]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if ": " in line[:30]]
    assert "Base to new: EuroSAT" in titles and "Few-shot: EuroSAT" in titles
    assert table([str(transfers), "--protocol", "fewshot"]) == 0
    printed = capsys.readouterr().out
    assert "Few-shot: EuroSAT" in printed and "Base to new: " not in printed
    assert table([str(transfers / "fewshot"), "--protocol", "domaingen"]) == 2
    assert "no finished run of domaingen" in capsys.readouterr().err


def test_a_source_is_what_was_trained_and_not_what_a_path_says(tmp_path):
    trained = write_results(tmp_path / "elsewhere/CoOp/cfg/seed1", "CoOp", "Caltech101", 90)
    tested = write_results(
        tmp_path / "some/test/CoOp/cfg/seed1", "CoOp", "EuroSAT", 40, training=trained
    )
    (table,) = tables(tmp_path, "crossdata")
    assert table.subject == "Caltech101"
    assert means(table)["CoOp"]["Caltech101 (source)"] == 90
    shutil.rmtree(trained)
    placed = place(find_runs([tmp_path])[0])
    assert placed.left_out[0][0] == tested and "not there" in placed.left_out[0][1]


def test_a_tree_that_was_moved_reads_the_same(transfers, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = [means(table) for table in tables(transfers, "crossdata")]
    shutil.move(transfers, moved)
    assert [means(table) for table in tables(moved, "crossdata")] == before


def test_few_shot(tmp_path):
    for shots, accuracy in ((1, 50), (4, 60), (16, 70)):
        for seed in (1, 2):
            write_few_shot(tmp_path, "CoOp", "EuroSAT", shots, accuracy + seed, seed=seed)
        write_few_shot(tmp_path, "CoOp", "Caltech101", shots, accuracy + 20)
        # Zero-shot CLIP runs for every number of shots, with one result.
        write_few_shot(tmp_path, "ZeroshotCLIP", "EuroSAT", shots, 45)
    write_few_shot(tmp_path, "ZeroshotCLIP", "Caltech101", 16, 85)
    caltech, eurosat, average = tables(tmp_path, "fewshot")
    assert means(eurosat) == {
        "CoOp": {"0 shots": None, "1 shot": 51.5, "4 shots": 61.5, "16 shots": 71.5},
        "ZeroshotCLIP": {"0 shots": 45, "1 shot": None, "4 shots": None, "16 shots": None},
    }
    assert average.title == "Few-shot: average of 2 data sets"
    # Only seed 1 has both data sets.
    assert means(average)["CoOp"] == {
        "0 shots": None, "1 shot": 60.5, "4 shots": 70.5, "16 shots": 80.5
    }  # fmt: skip
    assert means(average)["ZeroshotCLIP"]["0 shots"] == 65
    assert [row.seeds for row in average.rows] == ["1", "1"]


def test_few_shot_average_needs_all_shots_of_every_method(tmp_path):
    for dataset in ("EuroSAT", "Caltech101", "UCF101"):
        for shots in (1, 4):
            write_few_shot(tmp_path, "CoOp", dataset, shots, 50)
            if (dataset, shots) != ("UCF101", 4):
                write_few_shot(tmp_path, "MaPLe", dataset, shots, 60)
    average = tables(tmp_path, "fewshot")[-1]
    assert average.averaged == ["Caltech101", "EuroSAT"]
    assert "UCF101 (not: MaPLe)" in average.notes[0]


def test_average_over_data_sets_that_every_method_has(tmp_path):
    for dataset, base, new in (("Shapes", 80, 40), ("EuroSAT", 60, 20), ("UCF101", 10, 10)):
        write_base_new(tmp_path, "CoOp", dataset, base, new)
    for dataset in ("Shapes", "EuroSAT"):
        write_base_new(tmp_path, "MaPLe", dataset, 90, 90)
    trained, tested = write_base_new(tmp_path, "VPT", "Shapes", 1, 1)
    shutil.rmtree(tested)  # without a complete data set: it takes none from the others
    average = tables(tmp_path, "base2new")[-1]
    assert average.averaged == ["EuroSAT", "Shapes"]
    found = means(average)
    assert (found["CoOp"]["base"], found["CoOp"]["new"]) == (70, 30)
    assert found["CoOp"]["HM of means"] == pytest.approx(2 * 70 * 30 / 100)
    of_sets = (2 * 80 * 40 / 120 + 2 * 60 * 20 / 80) / 2
    assert found["CoOp"]["mean of HMs"] == pytest.approx(of_sets)
    assert set(found["VPT"].values()) == {None}
    assert "UCF101 (not: MaPLe)" in average.notes[0]


def test_average_is_over_seeds_that_all_cells_have(tmp_path):
    for seed in (1, 2):
        write_base_new(tmp_path, "CoOp", "Shapes", 80 + seed, 40, seed=seed)
    write_base_new(tmp_path, "CoOp", "EuroSAT", 60, 20, seed=2)
    average = tables(tmp_path, "base2new")[-1]
    assert average.rows[0].seeds == "1"
    assert means(average)["CoOp"]["base"] == 71


def test_no_average_of_one_data_set(tmp_path, capsys):
    write_base_new(tmp_path, "CoOp", "Shapes", 80, 40)
    write_base_new(tmp_path, "MaPLe", "EuroSAT", 60, 20)
    assert table([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "average of" not in printed and "No average over data sets" in printed


def test_published_configurations_share_a_row_and_are_named(tmp_path):
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 1, 50, config="vit_b16_ep50")
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 16, 70, config="vit_b16")
    (table,) = tables(tmp_path, "fewshot")
    assert means(table) == {"CoOp": {"1 shot": 50, "16 shots": 70}}
    assert "vit_b16 (EuroSAT at 16); vit_b16_ep50 (EuroSAT at 1)" in table.notes[0]
    (table,) = tables(tmp_path, "fewshot", split_configs=True)
    assert set(means(table)) == {"CoOp (vit_b16)", "CoOp (vit_b16_ep50)"}
    # A second configuration in one cell: nobody can say which belongs to which.
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 1, 51, config="vit_b16")
    (table,) = tables(tmp_path, "fewshot")
    assert set(means(table)) == {"CoOp (vit_b16)", "CoOp (vit_b16_ep50)"}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"backbone": "ViT-B/16"}, {"CoOp (small)", "CoOp (ViT-B/16)"}),
        ({"shots": 4}, {"CoOp (16 shots)", "CoOp (4 shots)"}),
    ],
)
def test_unlike_runs_stand_in_rows_of_their_own(tmp_path, changes, shown):
    write_base_new(tmp_path / "a", "CoOp", "Shapes", 80, 40)
    write_base_new(tmp_path / "b", "CoOp", "Shapes", 70, 30, seed=2, **changes)
    (table,) = tables(tmp_path, "base2new")
    assert set(means(table)) == shown


def test_names_tell_backbones_apart_across_methods(tmp_path):
    write_base_new(tmp_path, "CoOp", "Shapes", 80, 40)
    write_base_new(tmp_path, "MaPLe", "Shapes", 70, 30, backbone="ViT-B/16")
    (table,) = tables(tmp_path, "base2new")
    assert set(means(table)) == {"CoOp (small)", "MaPLe (ViT-B/16)"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"options": {"OPTIM": {"MAX_EPOCH": 5}}}, "OPTIM.MAX_EPOCH is 10 in the first and 5"),
        ({"classnames": ["cat", "cow"]}, "class 1 is 'dog' in the first and 'cow'"),
        ({"classnames": ["cat"]}, "the number of classes is 2 in the first and 1"),
        ({"num_test": 90}, "the number of test images is 100 in the first and 90"),
    ],
)
def test_seeds_that_differ_in_more_than_the_seed_are_refused(tmp_path, capsys, changes, named):
    alike = {"classnames": ["cat", "dog"], "num_test": 100}
    first = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=1, **alike)
    second = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 60, seed=2, **{**alike, **changes})
    assert table([str(tmp_path), "-o", str(tmp_path / "table.md")]) == 2
    error = capsys.readouterr().err
    assert named in error and str(first) in error and str(second) in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"OPTIM": {"MAX_EPOCH": 5}}, "OPTIM.MAX_EPOCH is 10 for base and 5 for new classes"),
        ({"epochs": 2}, "the number of epochs is 10 for base and 2 for new classes"),
    ],
)
def test_halves_of_unlike_trainings_are_refused(tmp_path, capsys, changes, named):
    """As when base was trained anew with other settings, or LOADEP was set for the test."""
    folders = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 60, epochs=10)
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


def test_figures_of_validation_images_stay_out(tmp_path):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 60, split="val")
    placed = place(find_runs([tmp_path])[0])
    assert placed.left_out == [(folder, "tested on val images")] and not placed.fewshot


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


@pytest.mark.parametrize(
    ("trained_part", "part", "reason"),
    [
        ("all", "new", "trained on all classes, tested on new ones"),
        ("base", "all", "trained on base classes of EuroSAT, tested on all"),
        ("all", "all", "tests on EuroSAT once more"),
    ],
)
def test_runs_that_belong_to_no_table(tmp_path, trained_part, part, reason):
    trained = write_results(tmp_path / "a/CoOp/c/seed1", "CoOp", "EuroSAT", 80, trained_part)
    write_results(tmp_path / "b/CoOp/c/seed1", "CoOp", "EuroSAT", 50, part, training=trained)
    ((folder, found),) = place(find_runs([tmp_path])[0]).left_out
    assert folder == tmp_path / "b/CoOp/c/seed1" and found.startswith(reason)


def test_a_method_that_learns_but_was_not_trained_is_left_out(tmp_path, capsys):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 20)
    content = json.loads((folder / "results.json").read_text())
    content["config"]["RUN"]["EVAL_ONLY"] = True
    (folder / "results.json").write_text(json.dumps(content))
    assert table([str(tmp_path)]) == 2
    assert "tested without a training" in capsys.readouterr().err


def test_shots_are_those_of_the_training(tmp_path):
    trained, tested = write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 40)
    content = json.loads((tested / "results.json").read_text())
    (tested / "results.json").write_text(json.dumps({**content, "shots": -1}))
    (table,) = tables(tmp_path, "base2new")
    assert means(table)["CoOp"]["new"] == 40


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


def test_all_images_are_one_number_of_shots(tmp_path):
    """Settings have 0, -1 or any other number below 1 for them."""
    for seed, shots in ((1, 0), (2, -1)):
        options = {"DATASET": {"NUM_SHOTS": shots}}
        more = {"seed": seed, "shots": shots, "options": options, "config": "b"}
        write_base_new(tmp_path / "b", "CoOp", "EuroSAT", 80, 70, **more)
        more.pop("shots")
        write_few_shot(tmp_path / "f", "CoOp", "EuroSAT", shots, 90, **more)
    write_base_new(tmp_path / "b/few", "CoOp", "EuroSAT", 60, 50, config="b", shots=1)
    write_few_shot(tmp_path / "f", "CoOp", "EuroSAT", 1, 60, config="b")
    write_few_shot(tmp_path / "f", "ZeroshotCLIP", "EuroSAT", 1, 50, config="b")

    (table,) = tables(tmp_path / "b", "base2new")
    assert [row.name for row in table.rows] == ["CoOp (all images)", "CoOp (1 shot)"]
    assert [row.values[0].by_seed.keys() for row in table.rows] == [{1, 2}, {1}]
    placed = place(find_runs([tmp_path / "b"])[0])
    assert notes_on([table], placed, [])[0] == "Backbone small; 1 shot, all images; accuracy in %."
    (table,) = tables(tmp_path / "f", "fewshot")
    assert [column.name for column in table.columns] == ["0 shots", "1 shot", "all images"]
    (row, _) = table.rows
    assert row.name == "CoOp" and [v and v.number for v in row.values] == [None, 60, 90]


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ({"TITLE": "mine", "IMAGE_DIR": "/some/pictures"}, "mine"),
        ({"TITLE": "", "IMAGE_DIR": "/some/pictures", "CSV": ""}, "pictures"),
        ({"TITLE": "", "IMAGE_DIR": "/some/pictures", "CSV": "/some/list.csv"}, "list"),
    ],
)
def test_own_images_trained_on_without_a_test_are_no_other_data_set(tmp_path, data, title):
    """As with TEST.NO_TEST, or a training that was killed while it tested."""
    trained, tested = tmp_path / "trained", tmp_path / "tested"
    trained.mkdir()
    settings = {"NAME": "ImageFolder", "SUBSAMPLE_CLASSES": "all", "NUM_SHOTS": 4, **data}
    (trained / "config.yaml").write_text(json.dumps({"DATASET": settings}))
    write_results(
        tested, "CoOp", "ImageFolder", 59.26, shots=4, training=trained, dataset_title=title
    )
    (run,) = find_runs([tested])[0]
    assert run.trained_on == (title, "all")
