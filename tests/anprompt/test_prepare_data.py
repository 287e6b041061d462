import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from anprompt.commands import data as prepare_data
from common.cli import run
from dassl.utils import UsageError
from datasets.splits import split_digest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datasets"))

import fake_trees  # noqa: E402

CATALOGUE = prepare_data.read_catalogue()
KEY_OF = {entry["name"]: key for key, entry in CATALOGUE.items()}
LINK = "https://example.org/file"


def call(*arguments, capsys):
    status = run(prepare_data.main, "anprompt data", [str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out + output.err


def small_entry(name, root):
    """The catalogue's entry with the figures of the small tree that stands for the data set."""
    entry = json.loads(json.dumps(CATALOGUE[KEY_OF[name]]))
    split = prepare_data.open_dataset(entry, root).read_data()
    figures = prepare_data.count(split)
    assert figures["classes"] == 3
    entry["figures"] = {part: figures[part] for part in entry["figures"]}
    entry.pop("split_sha256", None)
    return entry


@pytest.mark.parametrize("key", CATALOGUE)
def test_catalogue_agrees_with_the_readers(key):
    import datasets  # noqa: F401
    from dassl.data.datasets import DATASET_REGISTRY

    entry = CATALOGUE[key]
    dataset = DATASET_REGISTRY.get(entry["name"])
    assert dataset.dataset_dir == entry["folder"]
    assert dataset.help_line() == f"Run python -m anprompt data {key}"
    assert (ROOT / "configs" / "datasets" / f"{key}.yaml").is_file()
    wanted = [target for item in entry["files"] for target in prepare_data.targets(item)]
    if dataset.split_file:
        assert dataset.split_file in wanted
    figures = entry["figures"]
    if "test_base" in figures:
        assert figures["test_base"] + figures["test_new"] == figures["test"]
    for item in entry["files"]:
        assert ("manual" in item) != ("url" in item)


@pytest.mark.parametrize("name", fake_trees.NAMES)
def test_complete_tree_passes(tmp_path, name):
    fake_trees.write_tree(name, tmp_path)
    figures, problems = prepare_data.check(small_entry(name, tmp_path), tmp_path)
    assert problems == []
    assert figures["classes"] == 3


def test_a_split_that_cannot_be_verified_is_said_to_be_so(tmp_path, capsys, monkeypatch):
    """Figures alone do not tell a published split from one that was drawn."""
    catalogue = {}
    for name in ("Food101", "DescribableTextures", "FGVCAircraft"):
        fake_trees.write_tree(name, tmp_path)
        catalogue[KEY_OF[name]] = small_entry(name, tmp_path)
    dtd = catalogue["dtd"]
    split = prepare_data.open_dataset(dtd, tmp_path).read_data()
    dtd["split_sha256"] = split_digest(split)
    monkeypatch.setattr(prepare_data, "read_catalogue", lambda: catalogue)
    status, output = call("all", "--root", tmp_path, "--check", capsys=capsys)
    assert status == 0
    food, note, dtd_line, aircraft = output.splitlines()
    assert food.startswith("food101: complete") and "no checksum" in note
    assert dtd_line.startswith("dtd: complete") and aircraft.startswith("fgvc_aircraft: complete")


def test_everything_wrong_is_named(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    entry = small_entry("EuroSAT", tmp_path)
    entry["split_sha256"] = "0" * 64
    (folder / "2750" / "Forest" / "Forest_2.jpg").unlink()
    (folder / "2750" / "Forest" / "Forest_4.jpg").unlink()
    (folder / "2750" / "SeaLake" / "SeaLake_14.jpg").unlink()
    entry["figures"].update(classes=10, train=4, test_new=30)
    problems = "\n".join(prepare_data.check(entry, tmp_path)[1])
    assert "classes: 3 classes, expected 10 (reduced)" in problems
    assert "train: 18 images, expected 4 (too many)" in problems
    assert "test_new: 3 images, expected 30 (reduced)" in problems
    assert "train: 2 of 18 images not found" in problems
    assert "the first is Forest/Forest_2.jpg" in problems
    assert "test: 1 of 9 images not found" in problems
    assert "is not the published split" in problems
    assert len(problems.splitlines()) == 6


def test_test_images_among_training_images_are_named(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    path = folder / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    split["test"][0] = split["train"][3]
    path.write_text(json.dumps(split))
    _, problems = prepare_data.check(small_entry("EuroSAT", tmp_path), tmp_path)
    assert len(problems) == 1
    assert "1 test images are training images" in problems[0]


def test_same_split_in_another_layout_is_the_published_one(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    from datasets.splits import split_digest

    entry = small_entry("EuroSAT", tmp_path)
    entry["split_sha256"] = split_digest(prepare_data.open_dataset(entry, tmp_path).read_data())
    path = folder / "split_zhou_EuroSAT.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert prepare_data.check(entry, tmp_path)[1] == []


def test_unreadable_data_set_is_a_line(tmp_path):
    figures, problems = prepare_data.check(CATALOGUE["eurosat"], tmp_path)
    assert figures == {}
    assert problems == [
        f"EuroSAT: no folder {tmp_path / 'eurosat'}. Run python -m anprompt data eurosat"
    ]


def archive_of(path, names):
    """A zip or tar.gz file with small files of these names."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in names.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Local files by address, in place of the network; records what was asked for."""
    import gdown

    files, asked = {}, []

    def download(url, output, resume):
        assert resume
        asked.append(url)
        if url not in files:
            raise ConnectionError(f"cannot reach\n{url}")
        shutil.copy(files[url], output)

    monkeypatch.setattr(gdown, "download", download)
    files["asked"] = asked
    return files


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_archive_is_fetched_and_unpacked_once(tmp_path, served, suffix, capsys):
    members = {"a/pics/1.jpg": b"1", "a/list.txt": b"2", "b": b""}
    source = archive_of(tmp_path / f"x{suffix}", members)
    served[LINK] = source
    gives = {"images": "a/pics", "list.txt": "a/list.txt"}
    item = {"archive": source.name, "url": LINK, "gives": gives}
    entry = {"folder": "set", "files": [item]}
    assert prepare_data.prepare("x", entry, tmp_path / "data") == []
    folder = tmp_path / "data" / "set"
    assert sorted(path.name for path in folder.iterdir()) == ["images", "list.txt", source.name]
    assert (folder / "images" / "1.jpg").read_bytes() == b"1"
    (folder / "images" / "mine.txt").touch()
    assert prepare_data.prepare("x", entry, tmp_path / "data") == []
    assert served["asked"] == [LINK]
    assert (folder / "images" / "mine.txt").exists()
    assert capsys.readouterr().out.count("present  images") == 1


def test_inner_archive(tmp_path, served):
    """Caltech101 comes as a zip file with a tar file in it."""
    inner = archive_of(tmp_path / "inner.tgz", {"101/ant/1.jpg": b"ant"})
    served[LINK] = archive_of(tmp_path / "o.zip", {"c/inner.tgz": inner.read_bytes()})
    item = {"archive": "o.zip", "url": LINK, "gives": {"101": "c/inner.tgz!101"}}
    prepare_data.obtain(item, tmp_path / "set")
    assert (tmp_path / "set" / "101" / "ant" / "1.jpg").read_bytes() == b"ant"
    assert sorted(os.listdir(tmp_path / "set")) == ["101", "o.zip"]


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt"])
def test_members_cannot_leave_the_folder(tmp_path, suffix, name):
    source = archive_of(tmp_path / f"x{suffix}", {name: b"x", "ok.txt": b"y"})
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    try:
        prepare_data.unpack(source, {"ok.txt": "ok.txt"}, folder)
    except UsageError as error:
        assert "cannot be unpacked" in str(error)
    assert not list(tmp_path.rglob("outside.txt"))
    assert not Path("/outside.txt").exists()
    assert prepare_data.UNPACKING not in os.listdir(folder)


def test_member_that_is_not_there(tmp_path):
    source = archive_of(tmp_path / "x.zip", {"a/1.jpg": b""})
    (tmp_path / "set").mkdir()
    with pytest.raises(UsageError, match="has no b/pics; unpack it by hand"):
        prepare_data.unpack(source, {"images": "b/pics"}, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == []


def test_damaged_archive(tmp_path):
    source = archive_of(tmp_path / "x.tgz", {"a/1.jpg": os.urandom(5000)})
    source.write_bytes(source.read_bytes()[:3000])
    (tmp_path / "set").mkdir()
    with pytest.raises(UsageError, match="x.tgz: cannot be unpacked"):
        prepare_data.unpack(source, {"a": "a"}, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == []


def test_checksum(tmp_path, served):
    served[LINK] = archive_of(tmp_path / "x.zip", {"a": b""})
    with pytest.raises(UsageError, match="y.zip: not the published file .MD5"):
        prepare_data.download(LINK, tmp_path / "y.zip", md5="0" * 32)
    (tmp_path / "hello").write_text("hello")
    prepare_data.download(LINK, tmp_path / "hello", md5="5d41402abc4b2a76b9719d911017c592")
    assert served["asked"] == [LINK]  # what lies there already is verified, not fetched


def test_failed_download_says_where_to_put_the_file(tmp_path, served):
    with pytest.raises(UsageError) as raised:
        prepare_data.download(LINK, tmp_path / "x.json")
    assert str(raised.value) == (
        f"{LINK}: cannot reach {LINK}; fetch it by hand to {tmp_path / 'x.json'}"
    )


def test_one_failure_does_not_stop_the_rest(tmp_path, served, capsys):
    source = tmp_path / "split.json"
    source.write_text("{}")
    served[CATALOGUE["oxford_pets"]["files"][0]["url"]] = source
    status, output = call("oxford_pets", "stanford_cars", "--root", tmp_path / "d", capsys=capsys)
    assert status == 2
    assert (tmp_path / "d" / "oxford_pets" / "split_zhou_OxfordPets.json").read_text() == "{}"
    assert "oxford_pets: incomplete" in output
    assert "stanford_cars: incomplete" in output
    assert "cars_train" in output and "is gone" in output  # what is to be done by hand


def test_dry_run_touches_nothing(tmp_path, served, capsys):
    status, output = call("all", "--root", tmp_path / "data", "--dry-run", capsys=capsys)
    assert status == 2
    assert served["asked"] == [] and not (tmp_path / "data").exists()
    for key in CATALOGUE:
        assert f"{key}: incomplete" in output


def test_class_names_of_imagenet_serve_its_variants(tmp_path):
    item = CATALOGUE["imagenet_a"]["files"][0]
    folder = tmp_path / "imagenet-adversarial"
    assert prepare_data.missing_targets(item, folder) == ["classnames.txt"]
    fake_trees.touch(tmp_path / "imagenet", ["classnames.txt"])
    assert prepare_data.missing_targets(item, folder) == []


def test_make_split(tmp_path, capsys):
    folders = [f"{name}/{k}.jpg" for name in ("Forest", "River") for k in range(10)]
    fake_trees.touch(tmp_path / "eurosat" / "2750", folders)
    assert call("EuroSAT", "--root", tmp_path, "--make-split", capsys=capsys)[0] == 0
    path = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    written = path.read_text()
    from datasets.eurosat import EuroSAT

    dataset = EuroSAT(fake_trees.make_cfg(EuroSAT, tmp_path))
    assert [len(dataset.train_x), len(dataset.val), len(dataset.test)] == [10, 4, 6]
    status, output = call("eurosat", "--root", tmp_path, "--make-split", capsys=capsys)
    assert status == 2 and "is there already" in output
    assert path.read_text() == written


def test_make_split_without_the_files_it_needs(tmp_path, capsys):
    fake_trees.touch(tmp_path / "oxford_pets", ["x"])
    status, output = call("oxford_pets", "--root", tmp_path, "--make-split", capsys=capsys)
    assert status == 2
    assert "OxfordPets: a split cannot be drawn" in output and "trainval.txt" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["eurosta", "--root", "."], "unknown data set 'eurosta'; nearest known: eurosat"),
        (["eurosat", "--check", "--root", "nowhere"], "no folder"),
        (["eurosat"], "--root"),
        (["Shapes"], "nothing to prepare: Shapes draws"),
    ],
)
def test_bad_input_is_one_line(capsys, monkeypatch, arguments, complaint):
    monkeypatch.delenv("DATA", raising=False)
    status, output = call(*arguments, capsys=capsys)
    assert status == 2
    assert complaint in output and len(output.splitlines()) == 1


def test_runs_as_a_command_from_anywhere(tmp_path):
    command = [sys.executable, "-m", "anprompt", "data", "--help"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0
    assert "imagenet_sketch" in result.stdout
