"""Runs of anomaly detection through the commands: train, table, page, predict."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from anprompt.__main__ import main
from anprompt.commands import anomaly_report, predict, robustness, run, table
from anprompt.results.anomaly import find_anomaly_runs
from anprompt.results.run import find_runs
from anprompt.runs.predictor import Predictor
from common.errors import UsageError
from datasets import defect_tiles

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def output(tmp_path_factory, tiny_clip_path):
    """Two seeds of AnomalyFusion on two categories."""
    folder = tmp_path_factory.mktemp("anomaly")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TRAIN", 3), ("TEST_GOOD", 2), ("TEST_DEFECT", 1)):
            patch.setattr(defect_tiles, name, count)
        defect_tiles.ensure_drawn(folder / "data")
    for category in ("metal", "wood"):
        for seed in ("1", "2"):
            place = f"{category}/shots_1/AnomalyFusion/vit_b16/seed{seed}"
            assert train.main(arguments(folder, tiny_clip_path, place, category, seed)) == 0
    return folder / "output"


def arguments(folder, clip_path, place, category, seed):
    return [
        "--quiet", "--root", str(folder / "data"), "--seed", seed, "--backbone", str(clip_path),
        "--trainer", "AnomalyFusion", "--output-dir", str(folder / "output" / place),
        "--config-file", str(ROOT / "configs/trainers/AnomalyFusion/vit_b16.yaml"),
        "--dataset-config-file", str(ROOT / "configs/datasets/defect_tiles.yaml"),
        "DATASET.NUM_SHOTS", "1", "DATASET.CATEGORY", category, "TRAINER.ANOMALY.MAP_SIZE", "40",
    ]  # fmt: skip


@pytest.fixture
def copied(output, tmp_path):
    shutil.copytree(output, tmp_path / "output")
    return tmp_path / "output"


def test_a_finished_run_is_recognised(output, tiny_clip_path, capsys):
    folder = output.parent
    place = "wood/shots_1/AnomalyFusion/vit_b16/seed1"
    assert train.main(arguments(folder, tiny_clip_path, place, "wood", "1")) == 0
    assert "Finished already, image AUROC" in capsys.readouterr().out
    assert train.main(arguments(folder, tiny_clip_path, place, "metal", "1")) == 2


def test_table_is_the_mean_over_categories_then_seeds(output, capsys):
    assert table.main(["--protocol", "anomaly", "--format", "json", str(output)]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert [t["measure"][:5] for t in tables] == ["Image", "Pixel", "AUPRO"]
    for metric, made in zip(("image_auroc", "pixel_auroc", "aupro"), tables, strict=True):
        assert [column["name"] for column in made["columns"]] == ["metal", "wood", "mean"]
        rows = {row["rule"]: row["values"] for row in made["rows"]}
        assert set(rows) == {"harmonic", "text", "memory"}
        numbers = np.array(
            [
                [
                    json.loads(file.read_text())["rules"]["memory"][metric]
                    for file in sorted(output.glob(f"{category}/**/results.json"))
                ]
                for category in ("metal", "wood")
            ]
        )
        for value, expected in zip(rows["memory"], [*numbers, numbers.mean(axis=0)], strict=True):
            assert value["value"] == pytest.approx(expected.mean())
            assert value["std"] == pytest.approx(expected.std())


def test_means_by_shots_stand_behind_the_tables(copied, capsys):
    for file in copied.glob("*/shots_1/**/seed1/results.json"):
        results = json.loads(file.read_text())
        results["shots"] = 2
        results["rules"]["text"]["image_auroc"] = 60.0 if "metal" in str(file) else 70.0
        folder = Path(str(file.parent).replace("shots_1", "shots_2"))
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
    command = ["--protocol", "anomaly", "--metric", "image_auroc", "--format", "json"]
    assert table.main([*command, str(copied)]) == 0
    one, two, joined = json.loads(capsys.readouterr().out)["tables"]
    assert "mean over categories" in joined["title"]
    assert [c["name"] for c in joined["columns"]] == ["1 normal image", "2 normal images"]
    for row, ours, theirs in zip(joined["rows"], one["rows"], two["rows"], strict=True):
        assert row["rule"] == ours["rule"] == theirs["rule"]
        assert row["values"] == [ours["values"][-1], theirs["values"][-1]]
        if row["rule"] == "text":
            assert row["values"][1]["value"] == 65.0


def test_tables_of_classification_pass_them_over(output):
    assert find_runs([output]) == ([], [])
    assert len(find_anomaly_runs([output])[0]) == 4
    with pytest.raises(UsageError, match="no finished run"):
        table.main([str(output)])
    with pytest.raises(UsageError, match="--protocol anomaly"):
        table.main(["--metric", "aupro", str(output)])


def test_runs_that_differ_are_not_averaged(copied):
    file = next(copied.glob("wood/**/seed1/results.json"))
    results = json.loads(file.read_text())
    results["config"]["TRAINER"]["ANOMALY"]["RADIUS"] = 1
    file.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="differ in TRAINER.ANOMALY.RADIUS"):
        table.main(["--protocol", "anomaly", str(copied)])
    del results["config"]["TRAINER"]["ANOMALY"]["RADIUS"]
    results["identity"]["data"]["test_files"] = "ab" * 32
    file.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="the digest of the files of test images is"):
        table.main(["--protocol", "anomaly", str(copied)])
    results["image_auroc"] = 170.0
    file.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="image_auroc"):
        table.main(["--protocol", "anomaly", str(copied)])


@pytest.mark.parametrize(
    "damage",
    [
        {"rules": 5},
        {"config": [1]},
        {"config": {"RUN": {"MODEL_DIR": 7}}},
        {"scores": {"file": "../../x", "sha256": "x"}, "seed": "one"},
        {"category": None},
        {"task": ["anomaly"]},
        {"image_auroc": "high"},
        {"rules": {"text": {"image_auroc": 50.0}}},
        {"scores": {"file": 1}},
    ],
    ids=str,
)
def test_damaged_results_are_one_line(copied, tmp_path, damage, capsys):
    file = next(copied.glob("wood/**/seed1/results.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    for command, *more in (
        ["table", "--protocol", "anomaly"],
        ["anomaly-report", "-o", str(tmp_path / "page.html")],
    ):
        assert main([command, *more, str(copied)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "results.json" in said


def test_page(copied, tmp_path):
    page = tmp_path / "page.html"
    assert anomaly_report.main([str(copied), "-o", str(page), "--title", "<b>T</b>"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;T" in text and "<b>T" not in text
    assert text.count("data:image/jpeg") >= 6 and "ROC, DefectTiles wood" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    kept = next(copied.glob("metal/**/seed1/anomaly.npz"))
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(UsageError, match="not the file"):
        anomaly_report.main([str(copied), "-o", str(page)])


def test_arrays_that_no_test_wrote_are_a_line(copied, tmp_path, monkeypatch):
    monkeypatch.setattr("anprompt.results.report.anomaly.to_svg", lambda chart: "")
    file = next(copied.glob("metal/**/seed1/anomaly.npz"))
    with np.load(file, allow_pickle=False) as kept:
        good = {name: kept[name] for name in kept.files}
    results = json.loads(file.with_name("results.json").read_text())
    rng = random.Random(0)
    refused = 0
    for name in (*sorted(good), *rng.choices(sorted(good), k=20)):
        array = good[name]
        damaged = rng.choice(
            [
                *(None, array.reshape(-1)[:0], array[..., None], array.astype("U8"), np.array("x")),
                *(np.full(array.shape, np.nan), np.full(array.shape, 10**6), np.zeros((1, 9))),
            ]
        )
        np.savez(file, **{key: good[key] for key in good if key != name}
                 | ({} if damaged is None else {name: damaged}))  # fmt: skip
        results["scores"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_name("results.json").write_text(json.dumps(results))
        try:
            anomaly_report.main([str(copied), "-o", str(tmp_path / "page.html")])
        except UsageError as error:
            assert "not the scores of a test" in str(error)
            refused += 1
    assert refused > 10


def test_predict_gives_the_scores_of_the_test(output, tmp_path, capsys):
    folder = output / "wood/shots_1/AnomalyFusion/vit_b16/seed1"
    images = output.parent / "data/defect_tiles/wood/test"
    maps = tmp_path / "maps"
    found = ["--model-dir", str(folder), str(images), "--json", "--maps", str(maps)]
    assert predict.main(found) == 0
    rows = {Path(row["image"]): row for row in json.loads(capsys.readouterr().out)}
    with np.load(folder / "anomaly.npz", allow_pickle=False) as kept:
        for path, score in zip(kept["paths"], kept["scores_0"], strict=True):
            row = rows[images.parents[1] / str(path)]
            assert row["score"] == pytest.approx(float(score), abs=1e-4)
            with Image.open(row["map"]) as picture:
                assert picture.size == (128, 128)
                assert np.asarray(picture).dtype == np.uint16
    (images / "good/broken.png").write_bytes(b"x")
    assert predict.main(["--model-dir", str(folder), str(images / "good"), "--csv"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("image,score\n") and "broken.png" in printed.err
    (images / "good/broken.png").unlink()
    with pytest.raises(UsageError, match="--classes"):
        predict.main(["--model-dir", str(folder), str(images), "--classes", str(ROOT / "LICENSE")])


def test_maps_stay_in_their_folder(output, tmp_path, monkeypatch, capsys):
    folder = output / "wood/shots_1/AnomalyFusion/vit_b16/seed1"
    for name in ("here/in", "there"):
        (tmp_path / name).mkdir(parents=True)
        image = output.parent / "data/defect_tiles/wood/test/good/000.png"
        shutil.copy(image, tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path / "here/in")
    command = ["--model-dir", str(folder), "a.png", "../../there/a.png", "--maps", "maps", "--csv"]
    before = set(tmp_path.rglob("*"))
    assert predict.main(command) == 0
    made = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    maps = tmp_path / "here/in/maps"
    assert made == {maps / "here/in/a.png_map.png", maps / "there/a.png_map.png"}


def test_a_memory_of_other_images_than_the_runs_is_refused(output):
    folder = output / "wood/shots_1/AnomalyFusion/vit_b16/seed1"
    normal = sorted((output.parent / "data/defect_tiles/wood/train/good").iterdir())
    before = {path: path.read_bytes() for path in normal}
    test = output.parent / "data/defect_tiles/wood/test/good/000.png"
    try:
        for path in normal:
            with Image.open(path) as picture:
                changed = Image.eval(picture.convert("RGB"), lambda value: value ^ 1)
            changed.save(path)
        with pytest.raises(UsageError, match="its memory is made of normal images, and they have"):
            predict.main(["--model-dir", str(folder), str(test)])
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert predict.main(["--model-dir", str(folder), str(test)]) == 0


def test_classification_says_what_it_cannot_do(output):
    folder = output / "wood/shots_1/AnomalyFusion/vit_b16/seed1"
    with pytest.raises(UsageError, match="a model for anomaly detection"):
        robustness.main(["--model-dir", str(folder)])
    with pytest.raises(UsageError, match="names no classes"):
        Predictor.load(folder)
    with pytest.raises(UsageError, match="--export: not for"):
        predict.main(["--model-dir", str(folder), "--export", "x", str(ROOT / "LICENSE")])


def test_run_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setenv("BACKBONE", "small")
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    start = ["anomaly", "anomalyapt", "train", "defect_tiles"]
    assert run.main([*start, "wood,metal", "1,2", "3", "--", "OPTIM.MAX_EPOCH", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    place = "anomaly/train/defect_tiles/wood/shots_1/AnomalyAPT/vit_b16-small/seed3"
    assert f"--output-dir {tmp_path}/{place} " in lines[0]
    assert lines[0].endswith("TASK FS DATASET.CATEGORY wood OPTIM.MAX_EPOCH 5")
    folder = tmp_path / "bolts"
    own = ["anomaly", "promptad", "test", "anomaly_folder", "-", "1", "1"]
    assert run.main([*own, "--", "DATASET.IMAGE_DIR", str(folder)]) == 0
    line = capsys.readouterr().out
    assert "/anomaly/test/bolts/-/shots_1/PromptAD/" in line and "--model-dir" in line
    monkeypatch.setenv("DATA", str(folder))
    for image_dir, name in (("..", tmp_path.name), (".", "bolts"), ("", "anomaly_folder")):
        assert run.main([*own, "--", "DATASET.IMAGE_DIR", image_dir]) == 0
        assert f"/anomaly/test/{name}/-/shots_1/" in capsys.readouterr().out
    with pytest.raises(UsageError, match="DATASET.IMAGE_DIR /: results are called after this"):
        run.main([*own, "--", "DATASET.IMAGE_DIR", "/"])
    for words, said in (
        (["anomaly", "coop", "train", "defect_tiles", "wood"], "method of classification"),
        (["fewshot", "promptad", "shapes"], "method of anomaly"),
        ([*start], "needs DATASET and CATEGORY"),
        ([*start[:3], "shapes", "all"], "data set for classification"),
    ):
        with pytest.raises(UsageError, match=said):
            run.main(words)
