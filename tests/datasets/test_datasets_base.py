import json
import os

import pytest
from fake_trees import EUROSAT, make_cfg, make_split, write_eurosat, write_split_tree

from dassl.utils import UsageError
from datasets.base import FewShotDataset
from datasets.caltech101 import Caltech101
from datasets.eurosat import EuroSAT


def test_full_training_set_without_shots(tmp_path):
    write_eurosat(tmp_path)
    dataset = EuroSAT(make_cfg(EuroSAT, tmp_path, shots=0))
    assert [len(part) for part in (dataset.train_x, dataset.val, dataset.test)] == [200, 60, 100]
    assert not (tmp_path / "eurosat" / "split_fewshot").exists()
    assert all(os.path.isabs(item.impath) and os.path.isfile(item.impath) for item in dataset.test)


@pytest.mark.parametrize("n_classes", [4, 5])
def test_halves_partition_the_classes(tmp_path, n_classes):
    classes = dict(list(EUROSAT.items())[:n_classes])
    split = make_split(classes, (3, 1, 2))
    write_split_tree(tmp_path / "eurosat", "2750", "split_zhou_EuroSAT.json", split)
    halves = {
        half: EuroSAT(make_cfg(EuroSAT, tmp_path, subsample=half))
        for half in ("base", "new", "all")
    }
    assert halves["base"].num_classes == (3 if n_classes == 5 else 2)
    names = halves["base"].classnames + halves["new"].classnames
    assert names == halves["all"].classnames == list(classes.values())
    for half in ("base", "new"):
        dataset = halves[half]
        for item in dataset.train_x + dataset.val + dataset.test:
            assert dataset.classnames[item.label] == item.classname


def test_both_halves_share_one_draw(tmp_path):
    write_eurosat(tmp_path)
    draws = {
        half: {item.impath for item in EuroSAT(make_cfg(EuroSAT, tmp_path, 4, 3, half)).train_x}
        for half in ("all", "base", "new")
    }
    assert draws["base"] | draws["new"] == draws["all"]
    assert len(draws["all"]) == 40


def test_unknown_half_names_the_choices(tmp_path):
    write_eurosat(tmp_path)
    with pytest.raises(UsageError, match="'novel': choose from all, base, new"):
        EuroSAT(make_cfg(EuroSAT, tmp_path, subsample="novel"))


def test_fewer_than_two_classes_is_refused(tmp_path):
    split = make_split(dict(list(EUROSAT.items())[:3]), (3, 1, 2))
    write_split_tree(tmp_path / "eurosat", "2750", "split_zhou_EuroSAT.json", split)
    assert EuroSAT(make_cfg(EuroSAT, tmp_path, subsample="base")).num_classes == 2
    with pytest.raises(UsageError, match="EuroSAT: 1 class.* SUBSAMPLE_CLASSES new"):
        EuroSAT(make_cfg(EuroSAT, tmp_path, subsample="new"))


def test_missing_image_is_named(tmp_path):
    folder = write_eurosat(tmp_path, (3, 1, 2))
    (folder / "2750" / "Forest" / "Forest_2.png").unlink()
    (folder / "2750" / "River" / "River_6.png").unlink()
    with pytest.raises(UsageError) as raised:
        EuroSAT(make_cfg(EuroSAT, tmp_path))
    assert str(raised.value) == (
        f"EuroSAT: split lists Forest/Forest_2.png, not found under {folder / '2750'} "
        "(and 1 more). Run python -m anprompt data eurosat"
    )


def test_missing_folder_split_and_root_say_what_to_do(tmp_path):
    with pytest.raises(
        UsageError, match="no folder .*caltech-101. Run python -m anprompt data caltech"
    ):
        Caltech101(make_cfg(Caltech101, tmp_path))
    (tmp_path / "caltech-101").mkdir()
    with pytest.raises(
        UsageError, match="no split file .*split_zhou_Caltech101.json. Run python -m"
    ):
        Caltech101(make_cfg(Caltech101, tmp_path))
    with pytest.raises(UsageError, match="--root"):
        Caltech101(make_cfg(Caltech101, ""))


def test_symbolic_link_to_the_data_is_followed(tmp_path):
    write_eurosat(tmp_path / "elsewhere", (3, 1, 2))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eurosat").symlink_to(tmp_path / "elsewhere" / "eurosat")
    assert EuroSAT(make_cfg(EuroSAT, tmp_path / "data")).num_classes == 10


def test_split_that_escapes_is_refused(tmp_path):
    folder = write_eurosat(tmp_path, (3, 1, 2))
    (tmp_path / "secret.png").touch()
    path = folder / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    split["test"][0][0] = "../../secret.png"
    path.write_text(json.dumps(split))
    with pytest.raises(UsageError, match="leaves the image folder"):
        EuroSAT(make_cfg(EuroSAT, tmp_path))


def test_no_data_set_draws_a_split_unasked(tmp_path):
    folder = write_eurosat(tmp_path, (5, 2, 3))
    (folder / "split_zhou_EuroSAT.json").unlink()
    with pytest.raises(UsageError, match="no split file"):
        EuroSAT(make_cfg(EuroSAT, tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == ["2750"]


def test_a_new_data_set_is_four_lines(tmp_path):
    class Mine(FewShotDataset):
        dataset_dir = "mine"
        image_folder = "pictures"
        split_file = "split.json"

    write_split_tree(tmp_path / "mine", "pictures", "split.json", make_split({"a": "A", "b": "B"}))
    assert Mine(make_cfg(Mine, tmp_path, 2)).classnames == ["A", "B"]


def test_images_of_a_data_set_of_ones_own_are_decoded_before(tmp_path, monkeypatch):
    class Mine(FewShotDataset):
        dataset_dir = "mine"
        image_folder = "pictures"
        split_file = "split.json"

    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "cache"))
    split = make_split({"a": "A", "b": "B"}, (2, 1, 1))
    write_split_tree(tmp_path / "mine", "pictures", "split.json", split)
    with pytest.raises(UsageError, match="^Mine: image cannot be decoded: .*empty file.* 5 more"):
        Mine(make_cfg(Mine, tmp_path)).verify()
    cfg = make_cfg(Mine, tmp_path)
    cfg.DATASET.CHECK_IMAGES = False
    Mine(cfg).verify()
    write_eurosat(tmp_path, (3, 1, 2))
    EuroSAT(make_cfg(EuroSAT, tmp_path)).verify()  # published: nobody waits for that
