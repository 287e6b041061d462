"""Every data set of CoOp's table, on a small tree in its layout."""

from pathlib import Path

import pytest
from fake_trees import (
    COUNTS,
    IMAGENET_VARIANTS,
    NAMES,
    SPLIT_FILE_TREES,
    listing,
    make_cfg,
    write_tree,
)
from yacs.config import CfgNode

import datasets  # noqa: F401 - registers
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UsageError
from datasets.templates import (
    CUSTOM_TEMPLATES,
    IMAGENET_TEMPLATES,
    IMAGENET_TEMPLATES_SELECT,
    PROMPTSRC_TEMPLATES,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"


def build(name, root, *args, **kwargs):
    dataset = DATASET_REGISTRY.get(name)
    return dataset(make_cfg(dataset, root, *args, **kwargs))


def sizes(dataset):
    return [len(part or []) for part in (dataset.train_x, dataset.val, dataset.test)]


@pytest.mark.parametrize("name", NAMES)
def test_full_data_set(tmp_path, name):
    _, classnames = write_tree(name, tmp_path)
    dataset = build(name, tmp_path)
    train, val, test = (3 * count for count in COUNTS)
    expected = {
        "ImageNet": [train, test, test],
        **dict.fromkeys(IMAGENET_VARIANTS, [test, 0, test]),
    }
    assert sizes(dataset) == expected.get(name, [train, val, test])
    assert dataset.classnames == classnames
    assert dataset.num_classes == 3
    for item in dataset.train_x + dataset.test:
        assert Path(item.impath).is_file()
        assert item.classname == classnames[item.label]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IMAGENET_VARIANTS])
def test_few_shots_and_halves(tmp_path, name):
    folder, classnames = write_tree(name, tmp_path)
    base = build(name, tmp_path, 5, 2, "base")
    test = COUNTS[2]
    assert sizes(base) == [10, 2 * test if name == "ImageNet" else 8, 2 * test]
    assert base.classnames == classnames[:2]
    assert (folder / "split_fewshot" / "shot_5-seed_2.json").is_file()
    again = build(name, tmp_path, 5, 2, "base")
    assert listing(again.train_x, folder) == listing(base.train_x, folder)
    with pytest.raises(UsageError, match="1 class"):  # the third class is alone
        build(name, tmp_path, 5, 2, "new")


@pytest.mark.parametrize("name", IMAGENET_VARIANTS)
def test_variants_are_for_testing_alone(tmp_path, name):
    folder, _ = write_tree(name, tmp_path)
    dataset = build(name, tmp_path, 16, 1)
    assert sizes(dataset) == [3 * COUNTS[2], 0, 3 * COUNTS[2]]
    assert not (folder / "split_fewshot").exists()
    with pytest.raises(UsageError, match="SUBSAMPLE_CLASSES"):
        build(name, tmp_path, 16, 1, "new")


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_says_how_to_get_it(tmp_path, name):
    with pytest.raises(UsageError, match=f"^{name}: no folder .*Run python -m anprompt data "):
        build(name, tmp_path)
    folder, _ = write_tree(name, tmp_path)
    text_file = {"FGVCAircraft": "variants.txt"}.get(name, "classnames.txt")
    if name in SPLIT_FILE_TREES:
        text_file = f"split_zhou_{name}.json"
    (folder / text_file).unlink()
    with pytest.raises(UsageError, match=f"{text_file}.*Run python -m anprompt data"):
        build(name, tmp_path)


@pytest.mark.parametrize("yaml", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_names_a_registered_data_set(yaml):
    cfg = CfgNode({"DATASET": {"NAME": ""}})
    for name in DATASET_REGISTRY.registered_names():
        extend = getattr(DATASET_REGISTRY.get(name), "extend_cfg", None)
        if extend:
            extend(cfg)
    cfg.merge_from_file(str(yaml))
    assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()
    if cfg.DATASET.NAME in NAMES:
        assert DATASET_REGISTRY.get(cfg.DATASET.NAME).__module__ == f"datasets.{yaml.stem}"
        assert cfg.DATASET.NAME in CUSTOM_TEMPLATES
    assert CUSTOM_TEMPLATES.get(cfg.DATASET.NAME, "{}").count("{}") == 1


def test_templates():
    assert len(set(IMAGENET_TEMPLATES)) == 80
    assert len(set(PROMPTSRC_TEMPLATES)) == 60
    assert len(set(IMAGENET_TEMPLATES_SELECT)) == 7
    assert set(IMAGENET_TEMPLATES_SELECT) | set(PROMPTSRC_TEMPLATES) <= set(IMAGENET_TEMPLATES)
    for template in IMAGENET_TEMPLATES:
        assert template.count("{}") == 1


def test_aircraft_list_that_names_no_variant(tmp_path):
    folder, _ = write_tree("FGVCAircraft", tmp_path)
    with open(folder / "images_variant_test.txt", "a") as file:
        file.write("../../secret A310\n")
    with pytest.raises(UsageError, match=r"images_variant_test.txt has '../../secret A310'"):
        build("FGVCAircraft", tmp_path)


def test_aircraft_variants_out_of_order_are_refused(tmp_path):
    folder, _ = write_tree("FGVCAircraft", tmp_path)
    path = folder / "variants.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    with pytest.raises(UsageError, match="variants.txt has .* out of its published order"):
        build("FGVCAircraft", tmp_path)


def test_class_names_out_of_order_are_refused(tmp_path):
    folder, _ = write_tree("ImageNetV2", tmp_path)
    path = folder / "classnames.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], lines[2]]))
    with pytest.raises(UsageError, match="n01440764 .tench. stands after n02012849"):
        build("ImageNetV2", tmp_path)


def test_imagenetv2_has_a_name_for_every_folder(tmp_path):
    """Its folders are positions in the names file: one line too few would go unnoticed."""
    folder, classnames = write_tree("ImageNetV2", tmp_path)
    path = folder / "classnames.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UsageError, match=f"{len(classnames) - 1} lines .* no name for folder"):
        build("ImageNetV2", tmp_path)


def test_folder_without_a_class_name_is_refused(tmp_path):
    folder, _ = write_tree("ImageNetA", tmp_path)
    (folder / "imagenet-a" / "n09999999").mkdir()
    with pytest.raises(UsageError, match="no name for folder n09999999"):
        build("ImageNetA", tmp_path)


def test_imagenet_class_names_serve_its_variants(tmp_path):
    write_tree("ImageNet", tmp_path)
    folder, classnames = write_tree("ImageNetR", tmp_path)
    (folder / "classnames.txt").unlink()
    assert build("ImageNetR", tmp_path).classnames == classnames


def test_imagenet_parts_must_agree(tmp_path):
    folder, _ = write_tree("ImageNet", tmp_path)
    (folder / "images" / "val" / "n01440764").rename(folder / "images" / "val" / "n09999999")
    with pytest.raises(UsageError, match="n01440764 is in train but not in val"):
        build("ImageNet", tmp_path)


def test_imagenet_follows_its_folders(tmp_path):
    folder, _ = write_tree("ImageNet", tmp_path)
    before = sizes(build("ImageNet", tmp_path))
    (folder / "images" / "train" / "n01440764" / "extra.JPEG").touch()
    assert sizes(build("ImageNet", tmp_path)) == [before[0] + 1, *before[1:]]
    assert sorted(path.name for path in folder.iterdir()) == ["classnames.txt", "images"]
