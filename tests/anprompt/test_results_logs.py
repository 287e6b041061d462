"""Tables from the logs of upstream's code, in its folder layouts."""

import pytest
from called import table
from test_results_protocols import means, tables
from written_runs import write_base_new, write_log

from anprompt.results.logs import read_header
from anprompt.results.run import find_runs


def test_header(tmp_path):
    write_log(tmp_path, "CoOp", "EuroSAT", 50.0, part="base", seed=3, backbone="RN50")
    arguments, settings = read_header(tmp_path / "log.txt")
    assert arguments["eval_only"] is False and arguments["opts"] == ["A", "1"]
    assert settings["DATALOADER.TEST.BATCH_SIZE"] == 100
    assert settings["DATASET.SOURCE_DOMAINS"] == []
    assert settings["MODEL.BACKBONE.NAME"] == "RN50" and settings["MODEL.HEAD.NAME"] == ""
    assert (settings["SEED"], settings["TRAINER.NAME"]) == (3, "CoOp")
    (tmp_path / "log.txt").write_text("nothing of the kind\n")
    assert read_header(tmp_path / "log.txt") == ({}, {})


@pytest.mark.parametrize("end", ["Finish training", "Finished training"])
def test_base_to_new(tmp_path, end):
    for seed, base, new in ((1, 90.0, 60.0), (2, 92.0, 64.0)):
        run = f"eurosat/shots_16/MaPLe/vit_b16_c2_ep5_batch4_2ctx/seed{seed}"
        trained = f"output/base2new/train_base/{run}"
        tested = tmp_path / f"output/base2new/test_new/{run}"
        write_log(tmp_path / trained, "MaPLe", "EuroSAT", base, "base", seed, end=end)
        write_log(tested, "MaPLe", "EuroSAT", new, "new", seed, model_dir=trained)
    (table,) = tables(tmp_path, "base2new")
    assert means(table)["MaPLe"]["base"] == 91 and means(table)["MaPLe"]["new"] == 62
    assert table.rows[0].seeds == "2" and table.rows[0].method.backbone == "ViT-B/16"


def test_cross_dataset_and_few_shot(tmp_path):
    """CoOp's layout: the training is a few-shot run; tests name it and not the shots."""
    config = "CoOp/vit_b16_ep50_16shots/nctx16_cscFalse_ctpend"
    trained = f"output/imagenet/{config}/seed1"
    write_log(tmp_path / trained, "CoOp", "ImageNet", 71.5)
    for stem, dataset, accuracy in (
        ("eurosat", "EuroSAT", 46.4),
        ("imagenet_a", "ImageNetA", 49.7),
    ):
        folder = tmp_path / f"output/evaluation/{config}/{stem}/seed1"
        write_log(folder, "CoOp", dataset, accuracy, shots=-1, model_dir=trained)
    (table,) = tables(tmp_path, "crossdata")
    assert means(table)["CoOp"]["ImageNet (source)"] == 71.5
    assert means(table)["CoOp"]["EuroSAT"] == 46.4
    (table,) = tables(tmp_path, "domaingen")
    assert means(table)["CoOp"]["ImageNetA"] == 49.7
    (table,) = tables(tmp_path, "fewshot")
    assert means(table) == {"CoOp": {"16 shots": 71.5}}


def test_cross_dataset_of_mmrl(tmp_path):
    """Its scripts put a training on all classes where trainings on base classes are."""
    run = "shots_16/MMRL/vit_b16_cross_datasets/seed1"
    trained = f"output/base2new/train_base/imagenet/{run}"
    write_log(tmp_path / trained, "MMRL", "ImageNet", 72.0, task="CD")
    for name, dataset, accuracy in (("eurosat", "EuroSAT", 53.1), ("imagenetv2", "ImageNetV2", 64)):
        folder = tmp_path / f"output/base2new/test_new/{name}/{run}"
        write_log(folder, "MMRL", dataset, accuracy, model_dir=trained, task="CD")
    (table,) = tables(tmp_path, "crossdata")
    assert means(table)["MMRL"]["ImageNet (source)"] == 72.0
    assert means(table)["MMRL"]["EuroSAT"] == 53.1
    (table,) = tables(tmp_path, "domaingen")
    assert means(table)["MMRL"]["ImageNetV2"] == 64
    assert not tables(tmp_path, "fewshot") and not tables(tmp_path, "base2new")


def test_zero_shot_needs_no_training(tmp_path):
    folder = tmp_path / "output/ZeroshotCLIP/vit_b16/eurosat"
    write_log(folder, "ZeroshotCLIP", "EuroSAT", 48.3, seed=-1, shots=-1, model_dir="")
    (table,) = tables(tmp_path, "fewshot")
    assert means(table) == {"ZeroshotCLIP": {"0 shots": 48.3}}


def test_a_log_without_settings_is_placed_by_its_path(tmp_path):
    for part, text in (
        ("train_base", "Finish training\n=> result\n* accuracy: 90.0%\n"),
        ("test_new", "=> result\n* accuracy: 60.0%\n"),
    ):
        folder = tmp_path / f"base2new/{part}/dtd/shots_16/CoCoOp/vit_b16_c4/seed1"
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text(text)
    (table,) = tables(tmp_path, "base2new")
    assert table.subject == "DescribableTextures"
    assert means(table)["CoCoOp"]["base"] == 90 and means(table)["CoCoOp"]["new"] == 60


def test_unfinished_logs_are_named(tmp_path, capsys):
    root = tmp_path / "output/base2new/train_base/eurosat/shots_16/CoOp/vit_b16"
    write_log(root / "seed1", "CoOp", "EuroSAT", 90.0, "base", 1)
    write_log(root / "seed2", "CoOp", "EuroSAT", None, "base", 2)
    assert table([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "90.00" in printed and "99.9" not in printed
    assert f"not finished, left out: {root / 'seed2'}" in printed
    # Resumed: the second log has the result.
    write_log(
        root / "seed2", "CoOp", "EuroSAT", 92.0, "base", 2, name="log.txt-2025-01-02-03-04-05"
    )
    assert table([str(tmp_path)]) == 0
    assert "91.00 +- 1.00" in capsys.readouterr().out


def test_a_run_with_both_files_counts_once(tmp_path):
    trained, tested = write_base_new(tmp_path, "CoOp", "EuroSAT", 80.123, 40)
    write_log(trained, "CoOp", "EuroSAT", 80.1, "base")
    (table,) = tables(tmp_path, "base2new")
    assert means(table)["CoOp"]["base"] == 80.123 and table.rows[0].seeds == "1"


def test_a_log_does_not_speak_for_a_run_of_ours_that_is_not_finished(tmp_path):
    folder = write_log(tmp_path / "CoOp/c/seed1", "CoOp", "EuroSAT", 80.1, "base")
    (folder / "config.yaml").write_text("TRAINER:\n  NAME: CoOp\n")
    assert find_runs([tmp_path], logs=True) == ([], [folder])


def test_runs_of_upstream_and_ours_are_not_averaged(tmp_path):
    write_base_new(tmp_path, "CoOp", "EuroSAT", 80, 40, backbone="ViT-B/16")
    run = tmp_path / "upstream/base2new/train_base/eurosat/shots_16/CoOp/vit_b16/seed2"
    write_log(run, "CoOp", "EuroSAT", 90.0, "base", 2)
    (table,) = tables(tmp_path, "base2new")
    assert [row.seeds for row in table.rows] == ["1", "1 / 0"]
    assert [row.name for row in table.rows] == ["CoOp", "CoOp (log.txt)"]


def test_settings_in_logs_are_compared_as_well(tmp_path, capsys):
    root = tmp_path / "output/base2new/train_base/eurosat/shots_16/CoOp/vit_b16"
    write_log(root / "seed1", "CoOp", "EuroSAT", 90.0, "base", 1)
    log = write_log(root / "seed2", "CoOp", "EuroSAT", 92.0, "base", 2) / "log.txt"
    log.write_text(log.read_text().replace("MAX_EPOCH: 5", "MAX_EPOCH: 50"))
    assert table([str(tmp_path)]) == 2
    assert "OPTIM.MAX_EPOCH is 5 in the first and 50 in the second" in capsys.readouterr().err
