"""Data sets for anomaly detection: layouts, draws, masks, and what is refused in one line."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from anprompt.commands import data as data_command
from common.errors import UsageError
from common.images import read_mask
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset, task_of
from datasets import defect_tiles, identity
from datasets._defect_pictures import DEFECTS, TEXTURES, picture_of


def save(path, size=(8, 6), value=90, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(path)


def write_category(folder, normal=6, masks=True):
    for number in range(normal):
        save(folder / f"train/good/{number:03d}.png", value=number)
    for number in range(2):
        save(folder / f"test/good/{number:03d}.png", value=100 + number)
        save(folder / f"test/crack/{number:03d}.png", value=200 + number)
        if masks:
            save(folder / f"ground_truth/crack/{number:03d}_mask.png", value=255, mode="L")
    return folder


def cfg_of(name="AnomalyFolder", root="", category="", shots=2, seed=1, **more):
    cfg = get_cfg_default()
    for known in DATASET_REGISTRY.registered_names():
        if hasattr(DATASET_REGISTRY.get(known), "extend_cfg"):
            DATASET_REGISTRY.get(known).extend_cfg(cfg)
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.CATEGORY = name, str(root), category
    cfg.DATASET.NUM_SHOTS, cfg.SEED = shots, seed
    for key, value in more.items():
        cfg.DATASET[key] = str(value)
    return cfg


def build(*args, **named):
    cfg = cfg_of(*args, **named)
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
    dataset.verify()
    return dataset


def test_own_folder(tmp_path):
    write_category(tmp_path / "tile")
    dataset = build(IMAGE_DIR=tmp_path / "tile")
    assert dataset.classnames == ["normal", "anomalous"] and dataset.num_classes == 2
    assert [item.label for item in dataset.test] == [1, 1, 0, 0]
    assert dataset.samples[0].mask == "ground_truth/crack/000_mask.png"
    assert dataset.masks and dataset.title == "tile" and len(dataset.train_x) == 2
    assert build(IMAGE_DIR=tmp_path, category="tile").test[0].impath == dataset.test[0].impath
    assert build(IMAGE_DIR=tmp_path).category == "tile"
    shutil.rmtree(tmp_path / "tile/ground_truth")
    assert not build(IMAGE_DIR=tmp_path / "tile").masks


def drawn(folder, **named):
    return [item.impath[-7:-4] for item in build(IMAGE_DIR=folder, **named).train_x]


def test_draws_are_seeded_and_nested(tmp_path):
    folder = write_category(tmp_path / "tile")
    draws = [drawn(folder, shots=k) for k in (1, 2, 4)]
    assert draws[2][:2] == draws[1] and draws[1][:1] == draws[0]
    assert drawn(folder, shots=4) == draws[2]
    assert len({tuple(drawn(folder, shots=4, seed=seed)) for seed in range(5)}) > 1
    assert drawn(folder, shots=-1) == [f"{i:03d}" for i in range(6)]
    assert sorted(drawn(folder, shots=99)) == [f"{i:03d}" for i in range(6)]  # it says how many


def test_a_draw_without_a_seed_is_refused(tmp_path):
    """Its memory would be another each time that it is made."""
    folder = write_category(tmp_path / "tile")
    file = tmp_path / "shots.txt"
    file.write_text("#2: 4 3\n")
    cfg = cfg_of(IMAGE_DIR=folder, shots=2, seed=-1)
    assert not {"few_shot", "train_files"} & identity(cfg).keys()  # a finished run is recognised
    with pytest.raises(UsageError, match=r"without a seed .*give a seed, as --seed 1"):
        build_dataset(cfg).verify()
    assert drawn(folder, shots=2, seed=-1, SHOTS_FROM=file) == ["004", "003"]
    for shots, named in ((2, {"SHOTS_FROM": file}), (6, {}), (-1, {})):
        cfg = cfg_of(IMAGE_DIR=folder, shots=shots, seed=-1, **named)
        assert {"few_shot", "train_files"} <= identity(cfg).keys()
        assert drawn(folder, shots=shots, seed=-1, **named) == drawn(
            folder, shots=shots, seed=-1, **named
        )


def test_nothing_is_left_out_in_silence(tmp_path, capsys, caplog):
    write_category(tmp_path / "two")
    save(tmp_path / "loose/1.png")
    folder = write_category(tmp_path / "one")
    before = build(IMAGE_DIR=folder, shots=-1)
    assert not caplog.text and before.notes == []
    for name in ("train/good/more/1.png", "test/crack/more/1.png", "train/bad/1.png"):
        save(folder / name)
    for name in ("test/1.jpg", "test/2.jpg", "1.png"):
        save(folder / name)
    (folder / "train/good/a.heic").write_bytes(b"x")
    after = build(IMAGE_DIR=folder, shots=-1)
    assert [i.impath for i in after.train_x] == [i.impath for i in before.train_x]
    assert after.samples == before.samples
    assert data_command.main(["check", str(tmp_path)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if ": note: " in line]
    assert notes == [
        f"{tmp_path}: note: loose holds images but no folder train: left out",
        f"{tmp_path}: note: one: 6 images left out, in test, test/crack/more, the folder itself, "
        "train/bad, train/good/more: images are read from train/good and the folders of test/, "
        "not from folders in these",
        f"{tmp_path}: note: one: 1 file left out, no images by their names: 1 .heic (HEIC "
        "photographs are not read: save them as JPEG), such as train/good/a.heic",
    ]
    for note in notes[1:]:
        assert note.partition(": one: ")[2] in caplog.text


def test_copies_of_normal_images_are_said(tmp_path, capsys, caplog):
    folder = write_category(tmp_path / "tile")
    shutil.copy(folder / "train/good/000.png", folder / "test/good/leak.png")
    assert data_command.main(["check", str(folder)]) == 2
    said = "1 test images are copies of training images, such as test/good/leak.png of train/good/"
    assert said in capsys.readouterr().out
    build(IMAGE_DIR=folder, shots=-1)
    assert said in caplog.text


def test_shots_from_promptads_files(tmp_path):
    folder = write_category(tmp_path / "tile")
    file = tmp_path / "selected_samples_per_run.txt"
    file.write_text(
        "#1: 5\n#2: 4 003\n#4: 1 2 3 9\n#8: 1 x\n#5: 0000000000001234\n#6: 1 1 2\n"
        f"#7: {'0' * 5000}1\n"
    )
    assert drawn(folder, shots=2, SHOTS_FROM=file) == ["004", "003"]
    assert drawn(folder, shots=1, SHOTS_FROM=file) == ["005"]
    for shots, words in ((3, "no line '#3:'"), (4, "'9'.*0 to 5"), (8, "'x'"), (-1, "NUM_SHOTS"),
                         (5, "'1234'"), (6, "3 positions"), (7, "1 positions")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            drawn(folder, shots=shots, SHOTS_FROM=file)


def remove(folder, name):
    shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: remove(f, "train/good"), "no category|no normal images"),
        (lambda f: [p.unlink() for p in (f / "train/good").iterdir()], "no normal images"),
        (lambda f: remove(f, "test/good"), "no normal images, and no AUROC"),
        (lambda f: (remove(f, "test/crack"), remove(f, "ground_truth")), "no anomalous images"),
        (lambda f: remove(f, "test/crack"), "ground_truth/crack has masks"),
        (lambda f: (f / "test/crack/001.png").unlink(), "001_mask.png has no image"),
        (lambda f: (f / "ground_truth/crack/001_mask.png").unlink(), "1 of 2 .* no mask"),
        (lambda f: save(f / "ground_truth/crack/000_mask.png", (6, 8), 0, "L"), "6x8 pixels"),
        (lambda f: (f / "ground_truth/crack/000_mask.png").write_bytes(b"x"), "cannot be read"),
        (lambda f: (f / "test/good/000.png").write_bytes(b"x"), "cannot be decoded"),
        (
            lambda f: save(f / "test/crack/000.jpg"),
            "crack/000_mask.png may be the mask of .*/000.jpg or of .*/000.png",
        ),
        (
            lambda f: save(f / "ground_truth/crack/000.png", value=9, mode="L"),
            "crack/000.png and .*crack/000_mask.png are both a mask of one image",
        ),
    ],
)
def test_refused_in_one_line(tmp_path, spoil, words):
    folder = write_category(tmp_path / "tile")
    assert data_command.main(["check", str(folder)]) == 0
    spoil(folder)
    with pytest.raises(UsageError, match=words) as found:
        build(IMAGE_DIR=folder)
    assert "\n" not in str(found.value)


def test_check_names_what_is_wrong(tmp_path, capsys):
    write_category(tmp_path / "one")
    (write_category(tmp_path / "two") / "ground_truth/crack/000_mask.png").unlink()
    assert data_command.main(["check", str(tmp_path)]) == 2
    printed = capsys.readouterr().out
    assert "two: 1 of 2 anomalous images have no mask" in printed
    assert "1 problem(s); 2 categories, 12 train, 8 test, 4 anomalous" in printed


def test_categories_are_named(tmp_path):
    write_category(tmp_path / "mvtec/bottle")
    write_category(tmp_path / "mvtec/cable")
    assert build("MVTecAD", tmp_path, "cable").category == "cable"
    with pytest.raises(UsageError, match=r"no category 'cabel'; nearest: cable"):
        build("MVTecAD", tmp_path, "cabel")
    with pytest.raises(UsageError, match=r"name one with DATASET.CATEGORY; there are: bottle"):
        build("MVTecAD", tmp_path)
    with pytest.raises(UsageError, match=r"no folder .*anprompt data mvtec"):
        build("MVTecAD", tmp_path / "nowhere")


def write_visa(root, rows):
    (root / "visa/split_csv").mkdir(parents=True)
    with open(root / "visa/split_csv/1cls.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "split", "label", "image", "mask"])
        writer.writerows(rows)
    for row in rows:
        save(root / "visa" / row[3])
        if row[4]:
            save(root / "visa" / row[4], value=1, mode="L")


def test_visa(tmp_path):
    write_visa(
        tmp_path,
        [
            ["candle", "train", "normal", "candle/Data/Images/Normal/2.png", ""],
            ["candle", "train", "normal", "candle/Data/Images/Normal/1.png", ""],
            ["candle", "test", "normal", "candle/Data/Images/Normal/3.png", ""],
            ["candle", "test", "anomaly", "candle/Data/Images/Anomaly/0.png", "candle/M/0.png"],
        ],
    )
    dataset = build("VisA", tmp_path, "candle", shots=-1)
    assert [item.impath[-5] for item in dataset.train_x] == ["1", "2"]
    assert [sample.defect for sample in dataset.samples] == ["", "anomaly"]
    table = tmp_path / "visa/split_csv/1cls.csv"
    table.write_text(table.read_text() + "candle,test,normal,../../secret.png,\n")
    with pytest.raises(UsageError, match="line 6"):
        build("VisA", tmp_path, "candle")
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="expected columns object"):
        build("VisA", tmp_path, "candle")


def test_what_a_mask_marks(tmp_path):
    grey = np.zeros((4, 4), np.uint8)
    grey[1, 2] = 1
    wanted = grey > 0
    deep = Image.fromarray(grey.astype(np.uint16) * 300)
    alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (4, 4), 255)])
    for name, image in {"grey": Image.fromarray(grey), "deep": deep, "alpha": alpha}.items():
        image.save(tmp_path / f"{name}.png")
        assert (read_mask(tmp_path / f"{name}.png") == wanted).all(), name
    Image.fromarray(wanted).save(tmp_path / "bit.png")
    assert (read_mask(tmp_path / "bit.png") == wanted).all()
    square = np.zeros((32, 32), np.uint8)
    square[8:16, 8:16] = 255
    Image.fromarray(square).save(tmp_path / "square.jpg", quality=60)
    assert (read_mask(tmp_path / "square.jpg") == (square > 0)).all()


def test_identity_sees_masks_and_draws(tmp_path):
    folder = write_category(tmp_path / "tile")
    cfg = cfg_of(IMAGE_DIR=folder)
    before = identity(cfg)
    assert identity(cfg) == before
    save(folder / "ground_truth/crack/000_mask.png", value=1, mode="L")
    after = identity(cfg)
    assert {key for key in before if before[key] != after[key]} == {"test_files"}
    cfg.SEED = 3
    assert identity(cfg)["few_shot"] != after["few_shot"]


def test_defect_tiles(tmp_path, monkeypatch):
    for name in ("TRAIN", "TEST_GOOD", "TEST_DEFECT"):
        monkeypatch.setattr(defect_tiles, name, 2)
    assert task_of("DefectTiles") == "anomaly" and task_of("Shapes") == "classification"
    dataset = build("DefectTiles", tmp_path, "wood", shots=1)
    assert {sample.defect for sample in dataset.samples} == {"", *DEFECTS}
    assert len(dataset.test) == 8 and dataset.masks
    assert sorted(dataset.categories()) == sorted(TEXTURES)
    figures, problems = dataset.examine()
    assert figures == {"categories": 4, "train": 8, "test": 32, "anomalous": 24} and not problems


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_drawn_defect_is_where_its_mask_is(defect):
    for category in TEXTURES:
        first, mask = picture_of(category, "test", defect, 0)
        again, _ = picture_of(category, "test", defect, 0)
        marked = np.asarray(mask) > 0
        assert np.array_equal(first, again) and 10 < marked.sum() < 3000
        assert picture_of(category, "test", "", 0)[1] is None
