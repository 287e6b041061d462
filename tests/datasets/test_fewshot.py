import json
import logging
import pickle
import random
import sys
import types

import pytest
from fake_trees import listing, make_cfg, write_eurosat

from dassl.utils import UsageError
from datasets import fewshot
from datasets.eurosat import EuroSAT
from datasets.fewshot import FewShotCache

SPLIT = [(f"c{label}/{k}.jpg", label, f"class {label}") for label in range(3) for k in range(8)]
VAL = [(f"v{label}/{k}.jpg", label, f"class {label}") for label in range(3) for k in range(5)]
TWO_EACH = SPLIT[5:7] + SPLIT[9:11] + SPLIT[16:18]
OTHERS = TWO_EACH[2:]  # without class 0


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "user_cache"))


@pytest.mark.parametrize("subsample", ["base", "new", "all"])
def test_lists_are_those_of_upstream(tmp_path, golden, subsample):
    folder = write_eurosat(tmp_path)
    expected = golden("eurosat_fewshot")[subsample]
    random.seed(99)  # what the run's own generator did before must not matter
    for _ in range(2):  # drawn, then read back
        dataset = EuroSAT(make_cfg(EuroSAT, tmp_path, 16, 1, subsample))
        for part in ("train_x", "val", "test"):
            found = listing(getattr(dataset, part), folder / "2750")
            assert found == expected[part], part
        assert dataset.classnames == expected["classnames"]
    assert random.random() == random.Random(99).random()


def test_drawing_as_upstream_writes_it():
    """Against the plain rule: one generator, class by class, then validation with at most four."""
    plain = random.Random(5)
    expected = []
    for part, shots in ((SPLIT, 6), (VAL, 4)):
        chosen = []
        for label in range(3):
            chosen += plain.sample([entry for entry in part if entry[1] == label], shots)
        expected.append(chosen)
    assert list(fewshot.draw(SPLIT, VAL, 6, 5)) == expected


def test_small_classes_are_taken_whole():
    train, val = fewshot.draw(SPLIT[:3] + SPLIT[8:], [], 4, 1)
    assert train[:3] == SPLIT[:3]
    assert len(train) == 3 + 4 + 4
    assert val == []


def test_cache_holds_relative_paths_and_is_used(tmp_path, monkeypatch):
    cache = FewShotCache(tmp_path, "X", "x")
    drawn = cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    assert [tuple(entry) for entry in content["train"]] == drawn[0]
    monkeypatch.setattr(fewshot, "draw", None)
    assert cache.get(SPLIT, VAL, 2, 1) == drawn


def other_images(content):
    content["train"] = [list(entry) for entry in TWO_EACH]


def as_before(content):
    """As written before files had a digest of their own content."""
    content["format"] = 1
    del content["sha256"]


def test_cache_of_before_is_used(tmp_path):
    cache = FewShotCache(tmp_path, "X", "x")
    drawn = cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    as_before(content)
    path.write_text(json.dumps(content))
    assert cache.get(SPLIT, VAL, 2, 1) == drawn


@pytest.mark.parametrize("spoil", [(other_images,), (other_images, as_before)])
def test_cache_with_other_images_of_the_split_is_refused(tmp_path, spoil):
    cache = FewShotCache(tmp_path, "X", "x")
    cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    for change in spoil:
        change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="was changed since it was drawn; remove it"):
        cache.get(SPLIT, VAL, 2, 1)


def test_a_look_at_the_draw_leaves_nothing(tmp_path, caplog):
    cache = FewShotCache(tmp_path, "X", "x")
    caplog.set_level(logging.INFO)
    looked = cache.get(SPLIT, VAL, 2, 1, keep=False)
    assert list(tmp_path.rglob("*.json")) == [] and not cache.holds(2, 1)
    assert cache.get(SPLIT, VAL, 2, 1) == looked
    assert cache.holds(2, 1)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Few-shot set drawn and kept"
    ]


def spoil_hash(content):
    content["split_sha256"] = "0" * 64


def spoil_shape(content):
    content["val"] = 5


def spoil_entry(content):
    content["train"][0] = [["nested"], 0, "class 0"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_hash, "is of another split: drawn anew"),
        (spoil_shape, "is damaged: drawn anew"),
        (spoil_entry, "is damaged: drawn anew"),
        (dict.clear, "is damaged: drawn anew"),
    ],
)
def test_cache_that_does_not_match_is_redrawn(tmp_path, caplog, spoil, said):
    cache = FewShotCache(tmp_path, "X", "x")
    drawn = cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    assert cache.get(SPLIT, VAL, 2, 1) == drawn
    assert f"{path} {said}" in caplog.text
    assert [tuple(entry) for entry in json.loads(path.read_text())["train"]] == drawn[0]


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ([("../outside.jpg", 0, "class 0"), *OTHERS], "../outside.jpg with label 0"),
        ([("/etc/passwd", 0, "class 0"), *OTHERS], "/etc/passwd with label 0"),
        ([("c0/99.jpg", 0, "class 0"), *OTHERS], "c0/99.jpg with label 0"),
        ([("c0/1.jpg", 2, "class 2"), *OTHERS], "c0/1.jpg with label 2"),
        ([VAL[0], *OTHERS], "v0/0.jpg with label 0"),
        (OTHERS, "0 training images of class 'class 0' (label 0)"),
        ([SPLIT[0], *OTHERS], "1 training images of class 'class 0' (label 0)"),
        ([*SPLIT[:3], *OTHERS], "3 training images of class 'class 0' (label 0)"),
        ([SPLIT[4], SPLIT[4], *OTHERS], "c0/4.jpg is in the training set 2 times"),
    ],
)
def test_edited_cache_that_asks_for_other_images_is_refused(tmp_path, train, complaint):
    cache = FewShotCache(tmp_path, "X", "x")
    cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train": train}))
    before = path.read_bytes()
    with pytest.raises(UsageError) as raised:
        cache.get(SPLIT, VAL, 2, 1)
    assert complaint in str(raised.value) and str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_truncated_cache_is_redrawn(tmp_path):
    cache = FewShotCache(tmp_path, "X", "x")
    drawn = cache.get(SPLIT, VAL, 2, 1)
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    path.write_text(path.read_text()[:40])
    assert cache.get(SPLIT, VAL, 2, 1) == drawn


def test_changed_split_is_redrawn(tmp_path):
    cache = FewShotCache(tmp_path, "X", "x")
    cache.get(SPLIT, VAL, 2, 1)
    fewer = [entry for entry in SPLIT if not entry[0].endswith(("0.jpg", "1.jpg", "2.jpg"))]
    train, _ = cache.get(fewer, VAL, 2, 1)
    assert set(train) <= set(fewer)


def test_read_only_folder_falls_back(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o555)
    cache = FewShotCache(data, "X", "x")
    drawn = cache.get(SPLIT, VAL, 2, 1)
    assert not (data / "split_fewshot").exists()
    kept = list((tmp_path / "user_cache").rglob("shot_2-seed_1.json"))
    assert len(kept) == 1
    assert cache.get(SPLIT, VAL, 2, 1) == drawn
    assert FewShotCache(data, "X", "another").fallback != cache.fallback
    data.chmod(0o755)


def test_nowhere_to_write_still_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(fewshot, "is_writable", lambda folder: False)
    assert FewShotCache(tmp_path, "X", "x").get(SPLIT, VAL, 2, 1) == fewshot.draw(SPLIT, VAL, 2, 1)
    assert list(tmp_path.rglob("*.json")) == []


def test_unseeded_runs_share_one_draw_as_upstream(tmp_path):
    cache = FewShotCache(tmp_path, "X", "x")
    assert cache.get(SPLIT, VAL, 2, -1) == cache.get(SPLIT, VAL, 2, -1)


@pytest.fixture
def upstream_pickle(monkeypatch):
    """Write a cache as upstream does: protocol HIGHEST, Datum objects with absolute paths."""
    name = "dassl.data.datasets.base_dataset"
    datum = type("Datum", (), {"__module__": name})

    def dump(content, path, prefix):
        def convert(entry):
            item = datum()
            item._impath, item._label, item._domain = prefix + entry[0], entry[1], 0
            item._classname = entry[2]
            return item

        content = {part: [convert(entry) for entry in entries] for part, entries in content.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as patch:
            module = types.ModuleType(name)
            module.Datum = datum
            patch.setitem(sys.modules, name, module)
            path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))

    return dump


@pytest.mark.parametrize("prefix", ["/home/them/data/x/", "C:\\data\\x\\"])
def test_upstream_cache_is_rerooted(tmp_path, upstream_pickle, prefix):
    chosen = {"train": TWO_EACH, "val": VAL[3:5] + VAL[5:7] + VAL[10:12]}
    upstream_pickle(chosen, tmp_path / "split_fewshot" / "shot_2-seed_1.pkl", prefix)
    cache = FewShotCache(tmp_path, "X", "x")
    assert cache.get(SPLIT, VAL, 2, 1) == (chosen["train"], chosen["val"])
    assert cache.get(SPLIT, VAL, 2, 2) == fewshot.draw(SPLIT, VAL, 2, 2)


def test_upstream_cache_without_val(tmp_path, upstream_pickle):
    """ImageNet's has no validation part."""
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.pkl"
    upstream_pickle({"train": TWO_EACH}, path, "/x/")
    assert FewShotCache(tmp_path, "X", "x").get(SPLIT, [], 2, 1) == (TWO_EACH, [])


def test_a_small_class_is_whole_in_a_cache(tmp_path, upstream_pickle):
    path = tmp_path / "split_fewshot" / "shot_4-seed_1.pkl"
    small = [*SPLIT[:2], *SPLIT[8:]]
    whole = [*SPLIT[:2], *SPLIT[8:12], *SPLIT[16:20]]
    upstream_pickle({"train": whole}, path, "/x/")
    assert FewShotCache(tmp_path, "X", "x").get(small, [], 4, 1)[0] == whole
    upstream_pickle({"train": whole[1:]}, path, "/x/")
    with pytest.raises(UsageError, match="1 training images of class 'class 0'"):
        FewShotCache(tmp_path, "X", "x").get(small, [], 4, 1)


def test_validation_images_of_a_cache_are_counted(tmp_path, upstream_pickle):
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.pkl"
    upstream_pickle({"train": TWO_EACH, "val": VAL[:1]}, path, "/x/")
    with pytest.raises(UsageError, match="1 validation images of class 'class 0'"):
        FewShotCache(tmp_path, "X", "x").get(SPLIT, VAL, 2, 1)


@pytest.mark.parametrize("entry", [("other/1.jpg", 0, "class 0"), ("c0/1.jpg", 2, "class 2")])
def test_upstream_cache_of_another_split_is_refused(tmp_path, upstream_pickle, entry):
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.pkl"
    upstream_pickle({"train": [*OTHERS, entry]}, path, "/x/")
    with pytest.raises(UsageError, match="not of this split, .* remove it") as raised:
        FewShotCache(tmp_path, "X", "x").get(SPLIT, VAL, 2, 1)
    assert f"/x/{entry[0]} with label {entry[1]}" in str(raised.value)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_upstream_cache_of_other_shots_is_refused(tmp_path, upstream_pickle):
    path = tmp_path / "split_fewshot" / "shot_1-seed_1.pkl"
    upstream_pickle({"train": SPLIT[:2] + SPLIT[8::8]}, path, "/x/")
    with pytest.raises(UsageError, match="2 training images of class 'class 0'.* 1 a class"):
        FewShotCache(tmp_path, "X", "x").get(SPLIT, VAL, 1, 1)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"train": [bad], "val": []}])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, wrap):
    marker = tmp_path / "was_run"
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(wrap(Malicious(marker))))
    with pytest.raises(UsageError, match="io.open") as raised:
        FewShotCache(tmp_path, "X", "x").get(SPLIT, VAL, 2, 1)
    assert str(path) in str(raised.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps(5), pickle.dumps({"train": [1]})]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="x.pkl"):
        fewshot.read_upstream_cache(path)
