"""python -m anprompt table: which run stands in which table, and what averages are over."""

import json
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
from anprompt.results.marks import marks
from anprompt.results.protocol_tables import OF_AVERAGES, make_tables, notes_on, protocols_with_runs
from anprompt.results.run import find_runs


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
    assert f"{OF_AVERAGES}: CoOp: 2 (not 1)." in average.notes


def test_an_average_says_over_which_seeds_it_is(tmp_path, capsys):
    for seed, accuracy in ((1, 40), (2, 60), (3, 80)):
        write_target(tmp_path, "CoOp", "Caltech101", "DescribableTextures", accuracy, seed=seed)
        write_source(tmp_path, "CoOp", "Caltech101", 90, seed=seed)
        for dataset in ("EuroSAT", "UCF101")[: 1 + (seed < 3)]:
            write_few_shot(tmp_path, "CoOp", dataset, 4, accuracy, seed=seed)
            write_few_shot(tmp_path, "MaPLe", dataset, 4, accuracy, seed=seed)
    write_target(tmp_path, "CoOp", "Caltech101", "EuroSAT", 40, seed=1)
    (transfer,) = tables(tmp_path, "crossdata")
    assert means(transfer)["CoOp"]["average of 2"] == 40
    assert transfer.notes == [f"{OF_AVERAGES}: CoOp: 1 (not 2, 3)."]
    average = tables(tmp_path, "fewshot")[-1]
    assert means(average)["CoOp"]["4 shots"] == 50
    told = f"{OF_AVERAGES}: CoOp (4 shots), MaPLe (4 shots): 1, 2 (not 3)."
    assert told in average.notes
    for options in ([], ["--grid", "--columns", "4 shots"]):
        assert table([str(tmp_path), "--protocol", "fewshot", *options]) == 0
        assert told in capsys.readouterr().out


def test_without_a_common_seed_there_is_no_average_and_it_is_said(tmp_path, capsys):
    for dataset, seed in (("EuroSAT", 1), ("Shapes", 2)):
        write_base_new(tmp_path, "CoOp", dataset, 80, 40, seed=seed)
        write_base_new(tmp_path, "ZeroshotCLIP", dataset, 60, 50, seed=seed)
    average = tables(tmp_path, "base2new")[-1]
    assert means(average)["CoOp"]["base"] is None
    assert means(average)["ZeroshotCLIP"]["base"] == 60  # which no seed changes
    assert average.notes == [f"{OF_AVERAGES}: CoOp: no seed in common (of 1, 2)."]
    assert table([str(tmp_path)]) == 0
    told = "- in a column of figures: no finished run, nothing published, or other seeds."
    assert told in capsys.readouterr().out


def test_halves_of_other_seeds_have_no_harmonic_mean_and_it_is_said(tmp_path, capsys):
    for seed in (1, 2):
        write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 40, seed=seed)
        write_base_new(tmp_path, "MaPLe", "EuroSAT", 80, 40, seed=seed)
    shutil.rmtree(next(tmp_path.glob("base2new/test_new/**/MaPLe/*/seed2")))
    told = "EuroSAT, MaPLe: no harmonic mean, as the halves have other seeds."
    assert table([str(tmp_path), "--grid"]) == 0
    assert told in capsys.readouterr().out
    assert table([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert told in printed and "no finished run, nothing published, or other seeds" in printed


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


def test_figures_of_validation_images_stay_out(tmp_path):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 60, split="val")
    placed = place(find_runs([tmp_path])[0])
    assert placed.left_out == [(folder, "tested on val images")] and not placed.fewshot


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


def test_what_sees_other_images_stands_last_and_is_not_bold(tmp_path):
    """PromptKD learns from images of new classes: the best of the others is bold."""
    for trainer, accuracy in (("PromptKD", 90), ("CoOp", 60), ("MaPLe", 70)):
        write_base_new(tmp_path, trainer, "EuroSAT", accuracy, accuracy)
    (found,) = tables(tmp_path, "base2new")
    assert [row.name for row in found.rows] == ["CoOp", "MaPLe", "PromptKD"]
    (note,) = [note for note in found.notes if "without labels" in note]
    assert note.startswith("PromptKD also learns from all training images of all classes")
    assert {i for i, _ in marks(found).best} == {1} and {i for i, _ in marks(found).second} == {0}
    given = ["MaPLe", "PromptKD", "CoOp"]
    (found,) = tables(tmp_path, "base2new", methods=given)
    assert [row.name for row in found.rows] == given and {i for i, _ in marks(found).best} == {0}
    shutil.rmtree(tmp_path / "base2new/train_base/eurosat/shots_16/PromptKD")
    shutil.rmtree(tmp_path / "base2new/test_new/eurosat/shots_16/PromptKD")
    (found,) = tables(tmp_path, "base2new")
    assert not [note for note in found.notes if "without labels" in note]
