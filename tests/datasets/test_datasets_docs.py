"""docs/DATASETS.md says what the catalogue says, and its example runs."""

import re
from pathlib import Path

from fake_trees import make_cfg, make_split, write_split_tree

from datasets import prepare
from datasets.base import FewShotDataset
from datasets.imagefolder import SETTINGS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "DATASETS.md").read_text(encoding="utf-8")


def test_table_agrees_with_the_catalogue():
    rows = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"`\w+`", cells[0]):
            rows[cells[0].strip("`")] = cells[1:]
    catalogue = prepare.read_catalogue()
    drawn_or_own = {"shapes", "imagefolder", "defect_tiles", "anomaly_folder"}
    assert set(rows) == {*catalogue, *drawn_or_own}
    for key, entry in catalogue.items():
        name, folder, images, classes, counts = rows[key]
        figures = entry["figures"]
        if entry.get("task") == "anomaly":
            assert (name, folder) == (entry["name"], f"`{entry['folder']}/`")
            numbers = [
                int(n.replace(",", "")) for n in re.findall(r"[\d,]+", f"{classes} {counts}")
            ]
            assert numbers == [figures[part] for part in ("categories", "train", "test")]
            continue
        assert (name, folder) == (entry["name"], f"`{entry['folder']}/`")
        assert int(classes) == figures["classes"]
        numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", counts)]
        parts = ("test",) if "test_base" not in figures else ("train", "val", "test")
        assert numbers == [figures[part] for part in parts if figures[part]]
        wanted = [target for item in entry["files"] for target in prepare.targets(item)]
        for folder in re.findall(r"`([^`]+)/`", images):
            assert folder in wanted


def test_every_setting_of_own_images_is_explained():
    section = TEXT[TEXT.index("## Your own images") : TEXT.index("## How an image file is read")]
    for name in SETTINGS:
        assert f"`DATASET.{name}`" in section


def test_example_of_a_new_data_set_runs(tmp_path):
    example = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)
    namespace = {}
    exec(example.replace("@DATASET_REGISTRY.register()\n", ""), namespace)
    birds = namespace["Birds"]
    assert issubclass(birds, FewShotDataset)
    split = make_split({"wren": "wren", "owl": "owl"})
    write_split_tree(tmp_path / "birds", "images", "split_zhou_Birds.json", split)
    assert birds(make_cfg(birds, tmp_path)).classnames == ["wren", "owl"]
    assert [len(entries) for entries in birds.reader(tmp_path).read()] == [40, 12, 20]
    assert birds(make_cfg(birds, tmp_path)).train_x[0].reading == "as_seen"
