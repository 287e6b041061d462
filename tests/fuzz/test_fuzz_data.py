"""Data files: tables, splits, few-shot sets, class names, folders, images and archives."""

import io
import json
import pickle
import random
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from fuzzing import CASES, fuzz, mutate, mutate_json, odd_value
from PIL import Image
from yacs.config import CfgNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets"))

from fake_archives import archive_of  # noqa: E402
from fake_trees import make_cfg, make_split, touch, write_split_tree  # noqa: E402

from common.images import READINGS, read_image  # noqa: E402
from datasets import archives, identity  # noqa: E402
from datasets.classnames import read_classnames  # noqa: E402
from datasets.eurosat import EuroSAT  # noqa: E402
from datasets.imagefolder import ImageFolder, examine  # noqa: E402
from datasets.imagenet_r import ImageNetR  # noqa: E402

pytestmark = pytest.mark.slow

CLASSES = {"Forest": "Forest", "River": "River", "SeaLake": "Sea or Lake"}
SPLIT = make_split(CLASSES, (4, 2, 3))
WORDS = (
    b",", b";", b"\t", b"\n", b'"', b"\r", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"path,label\n",
    b"../", b"/", b"train", b"Testing", b"\xc4\xd6", b"[" * 3000, b"NaN", b"1e999", b"9" * 5000,
)  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    """EuroSAT's layout with twelve images a class, and the same images for a table."""
    write_split_tree(tmp_path / "eurosat", "2750", "split_zhou_EuroSAT.json", SPLIT)
    for number, path in enumerate(sorted((tmp_path / "eurosat/2750").rglob("*.png"))):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return tmp_path


def build(dataset, root, shots=0, **keys) -> None:
    """Read a data set, look into its files, and take its identity."""
    cfg = make_cfg(dataset, root, shots, **keys)
    cfg.DATASET.NAME = dataset.__name__
    identity(CfgNode(cfg))
    dataset(cfg).verify()


def test_tables(root):
    entries = [entry for part in SPLIT.values() for entry in part]
    rows = [f"{path},{name}" for path, _, name in entries]
    parted = [f"{path},{name},{part}" for part in SPLIT for path, _, name in SPLIT[part]]
    tables = [
        "\n".join(rows),
        "\n".join(["file_name,label,width", *(f"{row},4" for row in rows)]),
        "\r\n".join(["label;split;image", *(";".join(row.split(",")[::-1]) for row in parted)]),
        "\n".join(parted),
    ]
    table = root / "table.csv"

    def make(rng):
        encoding = rng.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"])
        text = rng.choice(tables)
        if rng.random() < 0.5:
            return mutate(rng, text.encode(encoding), WORDS)
        rows = text.splitlines()
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(rows))
            change = rng.choice(["drop", "repeat", "blank", "shuffle", "cell"])
            if change == "drop":
                del rows[place]
            elif change == "repeat":
                rows.insert(place, rows[place])
            elif change == "blank":
                rows.insert(place, rng.choice(["", " , ", ",,", "  "]))
            elif change == "shuffle":
                rows[1:] = rng.sample(rows[1:], len(rows) - 1)
            else:
                rows[place] += rng.choice([",", ",train", " ", ',"x', ";"])
        return "\n".join(rows).encode(encoding)

    def attempt(content):
        table.write_bytes(content)
        build(ImageFolder, root, 2, CSV="table.csv", IMAGE_DIR="eurosat/2750")

    outcomes = fuzz("tables", make, attempt)
    assert outcomes["refused"] and outcomes["ran"]


def test_splits(root):
    path = root / "eurosat" / "split_zhou_EuroSAT.json"
    text = json.dumps(SPLIT).encode()

    def make(rng):
        if rng.random() < 0.3:
            return mutate(rng, text, WORDS)
        return mutate_json(rng, SPLIT).encode("utf-8", "surrogatepass")

    def attempt(content):
        path.write_bytes(content)
        for subsample in ("all", "base"):
            build(EuroSAT, root, 2, subsample=subsample)
        assert all(
            Path(item.impath).resolve().is_relative_to(root.resolve())
            for item in EuroSAT(make_cfg(EuroSAT, root)).train_x
        )

    assert fuzz("splits", make, attempt)["refused"]


def upstream_pickle() -> bytes:
    """A few-shot set as upstream writes it."""
    name = "dassl.data.datasets.base_dataset"
    datum = type("Datum", (), {"__module__": name})
    parts = {}
    for part, count in (("train", 2), ("val", 2)):
        parts[part] = []
        for folder in CLASSES:
            for path, label, classname in [e for e in SPLIT[part] if e[0].startswith(folder)][
                :count
            ]:
                item = datum()
                item._impath, item._label, item._domain = f"/x/{path}", label, 0
                item._classname = classname
                parts[part].append(item)
    module = types.ModuleType(name)
    module.Datum = datum
    real, sys.modules[name] = sys.modules[name], module
    try:
        return pickle.dumps(parts)
    finally:
        sys.modules[name] = real


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_few_shot_sets(root, kind):
    folder = root / "eurosat" / "split_fewshot"
    path = folder / f"shot_2-seed_1.{kind}"
    EuroSAT(make_cfg(EuroSAT, root, 2, 1))
    drawn = folder / "shot_2-seed_1.json"
    content = json.loads(drawn.read_text())
    expected = {tuple(entry) for entry in content["train"]}
    good = drawn.read_bytes() if kind == "json" else upstream_pickle()

    def make(rng):
        if kind == "json" and rng.random() < 0.7:
            return mutate_json(rng, content).encode("utf-8", "surrogatepass")
        return mutate(rng, good, WORDS)

    def attempt(damaged):
        path.write_bytes(damaged)
        dataset = EuroSAT(make_cfg(EuroSAT, root, 2, 1))
        image_dir = Path(root / "eurosat/2750")
        found = {Path(item.impath).relative_to(image_dir).as_posix() for item in dataset.train_x}
        assert len(found) == 6
        if kind == "json":  # what was changed is not believed
            assert found == {name for name, _, _ in expected}

    outcomes = fuzz(f"few-shot {kind}", make, attempt)
    assert outcomes["refused" if kind == "pkl" else "ran"]


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_class_names(root, suffix):
    names = {folder: f"a {folder}" for folder in CLASSES}
    lines = "\n".join(f"{key} {name}" for key, name in names.items())
    path = root / f"names.{suffix}"

    def make(rng):
        if suffix == "json" and rng.random() < 0.6:
            return mutate_json(rng, names).encode("utf-8", "surrogatepass")
        return mutate(rng, (lines if suffix == "txt" else json.dumps(names)).encode(), WORDS)

    def attempt(content):
        path.write_bytes(content)
        read_classnames(path)
        build(ImageFolder, root, IMAGE_DIR="eurosat/2750", CLASSNAMES_FILE=path.name)

    assert fuzz(f"class names {suffix}", make, attempt)["refused"]


def test_folders(tmp_path):
    names = ["cat", "dog", "Train", "test", "valid", "Cat", "1", "2", ".git", "__MACOSX", "a b"]
    suffixes = [".png", ".JPG", ".jfif", ".txt", ".heic", "", ".xyz"]
    good = io.BytesIO()
    Image.new("RGB", (4, 4)).save(good, "PNG")

    def picture(rng):
        return good.getvalue() + rng.randbytes(8)  # no two are copies

    def make(rng):
        files = {}
        if rng.random() < 0.6:  # something like a data set
            parts = rng.choice([[""], ["Train", "test"], ["training", "valid", "Test"]])
            for part in parts:
                for folder in rng.sample(["cat", "dog", "a b", "owl"], rng.randint(2, 4)):
                    for number in range(rng.randint(2, 5)):
                        files[f"{part}/{folder}/{number}.png".lstrip("/")] = picture(rng)
        for _ in range(rng.randint(0, 3 if files else 30)):
            path = "/".join(rng.choice(names) for _ in range(rng.randint(0, 3)))
            number = rng.randrange(5)
            content = picture(rng) if rng.random() < 0.95 else rng.choice([b"", b"<html>"])
            files[f"{path}/{number}{rng.choice(suffixes)}".lstrip("/")] = content
        return files

    def attempt(files):
        folder = tmp_path / "x"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        found = examine(str(folder))
        assert found.problems or len(found.classnames) > 1
        build(ImageFolder, tmp_path, 1, IMAGE_DIR="x")
        assert not found.problems

    outcomes = fuzz("folders", make, attempt)
    assert outcomes["refused"] and outcomes["ran"]


def test_lists_of_images_on_disk(tmp_path):
    """ImageNet's variants list their folders and read a names file."""
    folder = tmp_path / "imagenet-rendition"
    wnids = ["n01440764", "n02012849", "n03126707"]
    touch(folder / "imagenet-r", [f"{wnid}/{k}.jpg" for wnid in wnids for k in range(2)])
    text = "".join(f"{wnid} name {wnid}\n" for wnid in wnids).encode()

    def attempt(content):
        (folder / "classnames.txt").write_bytes(content)
        build(ImageNetR, tmp_path)

    assert fuzz("names of ImageNet", lambda rng: mutate(rng, text, WORDS), attempt)["refused"]


def pictures() -> list[bytes]:
    """Small images in the formats and modes that are met."""
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    plain = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    saved = []
    for image, form, options in (
        (plain, "PNG", {"exif": exif}),
        (plain, "JPEG", {"exif": exif}),
        (plain, "JPEG", {"progressive": True}),
        (plain.convert("CMYK"), "JPEG", {}),
        (plain.convert("RGBA"), "PNG", {}),
        (plain.convert("P"), "PNG", {"transparency": 3}),
        (plain, "GIF", {"save_all": True, "append_images": [plain.rotate(90)]}),
        (plain, "BMP", {}),
        (plain, "TIFF", {"compression": "tiff_lzw"}),
        (grey16, "TIFF", {}),
        (grey16, "PNG", {}),
        (grey16, "PPM", {}),
        (plain, "WEBP", {}),
        (plain, "AVIF", {}),
        (plain, "JPEG2000", {}),
        (plain.convert("1"), "PPM", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        saved.append(buffer.getvalue())
    return saved


def test_images(tmp_path):
    good = pictures()
    path = tmp_path / "x.img"

    def attempt(content):
        path.write_bytes(content)
        for reading in READINGS:
            assert read_image(path, reading).mode == "RGB"

    outcomes = fuzz("images", lambda rng: mutate(rng, rng.choice(good)), attempt, 10 * CASES)
    assert outcomes["refused"] and outcomes["ran"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_archives(tmp_path, suffix):
    members = {f"a/{k}.jpg": bytes([k]) * 300 for k in range(4)} | {"b.txt": b"x"}
    good = archive_of(tmp_path / f"good{suffix}", members).read_bytes()
    archive, folder = tmp_path / f"x{suffix}", tmp_path / "deep" / "set"
    (tmp_path / "deep").mkdir()

    def make(rng):
        if rng.random() < 0.6:
            return mutate(rng, good)
        names = [rng.choice(["a", "..", ".", "", "b.txt", "C:", "x" * 300, "\\"]) for _ in range(8)]
        odd = {"/".join(rng.sample(names, rng.randint(1, 4))) or "x": b"1" for _ in range(3)}
        return archive_of(tmp_path / f"odd{suffix}", odd).read_bytes()

    def attempt(content):
        archive.write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            archives.unpack(archive, folder.joinpath)
        finally:
            beside = {path.name for path in tmp_path.iterdir()}
            assert beside <= {"deep", "good" + suffix, "x" + suffix, "odd" + suffix}
            assert {path.name for path in (tmp_path / "deep").iterdir()} <= {"set"}

    assert fuzz(f"archives {suffix}", make, attempt, 2 * CASES)["refused"]


def test_the_same_seed_makes_the_same_input():
    texts = [mutate_json(random.Random(3), SPLIT) for _ in range(2)]
    assert texts[0] == texts[1] != json.dumps(SPLIT)
    assert mutate(random.Random(3), b"abc" * 50) == mutate(random.Random(3), b"abc" * 50)
    assert repr(odd_value(random.Random(3))) == repr(odd_value(random.Random(3)))


def test_what_fuzz_takes_for_bad():
    def fail(value):
        raise KeyError(value)

    with pytest.raises(
        AssertionError, match="(?s)keys: 2 bad, among them\nANPROMPT_FUZZ.*KeyError"
    ):
        fuzz("keys", lambda rng: "x", fail, 2)
