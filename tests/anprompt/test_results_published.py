"""The file of published figures, and where they stand beside ours."""

import json
import re
import statistics

import pytest
from called import table
from runs_of_tests import ROOT
from test_results_protocols import means
from written_runs import write_base_new, write_few_shot, write_source, write_target

from anprompt.protocols.methods import all_methods
from anprompt.results.assign import place
from anprompt.results.protocol_tables import make_tables
from anprompt.results.published import add_published, load
from anprompt.results.run import find_runs
from anprompt.results.table import DATASETS, ELEVEN, IMAGENET_VARIANTS
from anprompt.results.value import harmonic_mean
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg

PROTOCOLS = ("base2new", "crossdata", "domaingen", "fewshot")
ENTRIES = [(protocol, entry) for protocol in PROTOCOLS for entry in load()[protocol]]
# Two figures and their mean are rounded to 0.005 each.
ROUNDING = 0.0151


def test_every_entry_has_a_source_and_none_is_of_anprompt():
    for entry in [entry for _, entry in ENTRIES] + load()["cost"]:
        assert entry["source"].strip(), entry
        name = entry.get("method") or entry["what"]
        assert name and "anprompt" not in name.lower()
    methods = [(protocol, entry["method"]) for protocol, entry in ENTRIES]
    assert len(set(methods)) == len(methods)


def test_figures_are_accuracies_of_known_data_sets():
    for protocol, entry in ENTRIES:
        datasets = entry.get("datasets", {})
        assert set(datasets) <= set(DATASETS), entry["method"]
        if protocol == "domaingen":
            assert set(datasets) == {"ImageNet", *IMAGENET_VARIANTS}
        figures = [f for f in datasets.values() if not isinstance(f, dict)]
        for row in [f for f in datasets.values() if isinstance(f, dict)]:
            figures += [row[key] for key in ("base", "new", "hm", "16") if key in row]
        figures += entry.get("average_by_shots", {}).values()
        least = 0 if "robust" in entry else 10  # trained adversarially, some are near chance
        assert all(least < figure < 100 for figure in figures), entry["method"]


@pytest.mark.parametrize(
    ("protocol", "entry"),
    [(p, e) for p, e in ENTRIES if "robust" in e],
    ids=lambda value: value if isinstance(value, str) else value["method"],
)
def test_robust_figures_are_of_the_same_cells_and_lower(protocol, entry):
    robust = entry["robust"]
    assert (entry["backbone"], robust["attack"]) == ("ViT-B/32", "pgd100 1/255")
    key = "average_by_shots" if protocol == "fewshot" else "datasets"
    assert robust[key].keys() == entry[key].keys()
    assert robust.get("datasets", {}).keys() == entry.get("datasets", {}).keys()
    for half in ("base", "new") if protocol == "base2new" else ():
        assert robust["average"][half] < entry["average"][half]
        for name, row in entry["datasets"].items():
            assert robust["datasets"][name][half] <= row[half]
        mean = statistics.fmean(row[half] for row in robust["datasets"].values())
        assert mean == pytest.approx(robust["average"][half], abs=0.0101)
        assert robust["average"]["std"][half] > 0


def test_own_images_with_the_name_of_a_known_data_set_are_no_such(tmp_path, capsys):
    own = {"backbone": "ViT-B/16", "dataset_title": "EuroSAT"}
    folders = write_base_new(tmp_path / "own", "CoOp", "ImageFolder", 80, 40, **own)
    assert table([tmp_path / "own", "--published"]) == 0
    printed = capsys.readouterr().out
    assert "Base to new: EuroSAT (own images)" in printed and "92.19" not in printed
    write_base_new(tmp_path / "known", "CoOp", "EuroSAT", 90, 50, backbone="ViT-B/16")
    assert table([tmp_path, "--published"]) == 0
    printed = capsys.readouterr().out
    assert "Base to new: EuroSAT\n" in printed and "Base to new: EuroSAT (own" in printed
    assert printed.count("92.19") == 1

    settings = {"NAME": "ImageFolder", "SUBSAMPLE_CLASSES": "base", "TITLE": "eurosat"}
    (folders[0] / "config.yaml").write_text(json.dumps({"DATASET": settings}))
    (folders[0] / "results.json").unlink()  # trained, and not tested
    ((run,), _) = find_runs([tmp_path / "own"])
    assert run.trained_on == ("eurosat (own images)", "base")


@pytest.mark.parametrize(
    "entry",
    [entry for entry in load()["base2new"] if "hm" in entry["average"]],
    ids=lambda entry: entry["method"],
)
def test_harmonic_means_are_those_of_base_and_new(entry):
    rows = {"average": entry["average"], **entry.get("datasets", {})}
    differing = [
        name
        for name, row in rows.items()
        if abs(harmonic_mean(row["base"], row["new"]) - row["hm"]) > ROUNDING
    ]
    assert differing == entry.get("hm_differs", [])
    # Where printed differently, it is still the same row: no base and new exchanged, no typo.
    for name in differing:
        row = rows[name]
        assert abs(harmonic_mean(row["base"], row["new"]) - row["hm"]) < 0.3


@pytest.mark.parametrize(
    ("protocol", "entry"),
    [(p, e) for p, e in ENTRIES if "datasets" in e],
    ids=lambda value: value if isinstance(value, str) else value["method"],
)
def test_averages_are_those_of_the_data_sets(protocol, entry):
    datasets = entry["datasets"]
    if protocol == "fewshot":
        assert set(datasets) == set(ELEVEN)
        mean = statistics.fmean(row["16"] for row in datasets.values())
        assert mean == pytest.approx(entry["average_by_shots"]["16"], abs=0.0101)
        return
    if protocol == "base2new":
        assert set(datasets) == set(ELEVEN)
        for half in ("base", "new"):
            mean = statistics.fmean(row[half] for row in datasets.values())
            assert mean == pytest.approx(entry["average"][half], abs=0.0101)
        return
    targets = [value for name, value in datasets.items() if name != entry["trained_on"]]
    is_other = entry.get("note", "").startswith("the row average prints") and "robust" not in entry
    if targets and not is_other:
        assert statistics.fmean(targets) == pytest.approx(entry["average"], abs=0.0101)


def published_rows(tmp_path, protocol: str, number: int = -1, always: bool = False):
    found = make_tables(protocol, place(find_runs([tmp_path])[0]))
    table = add_published(found, always)[number]
    return table, [row for row in table.rows if row.published]


def test_beside_vit_b16_by_default_and_marked(tmp_path, capsys):
    write_base_new(tmp_path / "b16", "CoOp", "EuroSAT", 90, 50, backbone="ViT-B/16")
    assert table([str(tmp_path / "b16")]) == 0
    printed = capsys.readouterr().out
    assert "CoOp, published (ViT-B/16) [1]" in printed and "92.19" in printed
    assert "[1] CoOp (arXiv:2109.01134): zhengli97/PromptKD" in printed
    assert table([str(tmp_path / "b16"), "--no-published"]) == 0
    assert "published" not in capsys.readouterr().out
    write_base_new(tmp_path / "small", "CoOp", "EuroSAT", 70, 50)
    assert table([str(tmp_path / "small")]) == 0
    assert "published" not in capsys.readouterr().out.replace("nothing published", "")
    assert table([str(tmp_path / "small"), "--published"]) == 0
    assert "CoOp, published (ViT-B/16) [1]" in capsys.readouterr().out


def test_averages_are_over_the_same_data_sets_as_ours(tmp_path):
    for dataset in ("EuroSAT", "Caltech101"):
        write_base_new(tmp_path, "CoOp", dataset, 90, 50)
    table, (row,) = published_rows(tmp_path, "base2new", always=True)
    base, new = (92.19 + 98.0) / 2, (54.74 + 89.81) / 2
    assert [figure and figure.number for figure in row.values] == [
        pytest.approx(base), pytest.approx(new), pytest.approx(harmonic_mean(base, new)), None,
    ]  # fmt: skip
    assert any("computed here" in note for note in table.notes)
    write_base_new(tmp_path, "CoOp", "Shapes", 90, 50)
    assert published_rows(tmp_path, "base2new", always=True)[1] == []


def test_all_eleven_data_sets_have_the_printed_average(tmp_path):
    for dataset in ELEVEN:
        write_base_new(tmp_path, "IVLP", dataset, 90, 50)
        for shots in (1, 16):
            write_few_shot(tmp_path, "MaPLe", dataset, shots, 60)
    _, (row,) = published_rows(tmp_path, "base2new", always=True)
    ivlp = next(e for e in load()["base2new"] if e["method"] == "IVLP")["average"]
    assert [figure.number for figure in row.values[:3]] == [ivlp["base"], ivlp["new"], ivlp["hm"]]
    _, (row,) = published_rows(tmp_path, "fewshot", always=True)
    assert [figure.number for figure in row.values] == [69.27, 81.79]


def test_transfer_from_imagenet_only(tmp_path):
    for source in ("ImageNet", "Caltech101"):
        write_source(tmp_path, "CoOp", source, 70)
        write_target(tmp_path, "CoOp", source, "EuroSAT", 45)
        write_target(tmp_path, "CoOp", source, "UCF101", 60)
    tables = add_published(make_tables("crossdata", place(find_runs([tmp_path])[0])), True)
    by_source = {table.subject: table for table in tables}
    assert [row.published for row in by_source["Caltech101"].rows] == [""]
    shown = means(by_source["ImageNet"])["CoOp, published (ViT-B/16) [1]"]
    assert shown == {
        "ImageNet (source)": 71.51,
        "EuroSAT": 46.39,
        "UCF101": 66.55,
        "average of 2": pytest.approx((46.39 + 66.55) / 2),
    }


def test_the_authors_figures_before_those_of_re_runs(tmp_path):
    write_base_new(tmp_path, "MMRL", "EuroSAT", 90, 50)
    write_base_new(tmp_path, "MMRLpp", "EuroSAT", 90, 50)
    _, rows = published_rows(tmp_path, "base2new", always=True)
    assert rows[0].name.startswith("MMRL, published")
    assert rows[1].name.startswith("MMRL++ (independent re-run, PyTorch AMP), published")


def test_figures_of_every_method_here_are_its_own():
    """Published figures of a method that is a trainer here stand beside it."""
    trainers = {method.trainer.lower(): method.trainer for method in all_methods()}
    missing = {
        (protocol, entry["method"])
        for protocol, entries in load().items()
        if protocol in PROTOCOLS
        for entry in entries
        if (own := trainers.get(re.sub(r"[^a-z0-9]", "", entry["method"].lower())))
        and entry.get("trainer") != own
    }
    # Not the probe that starts at zero-shot CLIP, which is the one here.
    assert missing == {("fewshot", "Linear probe")}


def test_what_published_figures_have_beyond_a_run_is_said(tmp_path):
    write_base_new(tmp_path, "CoPrompt", "EuroSAT", 90, 50)
    write_base_new(tmp_path, "CoOp", "EuroSAT", 90, 50)
    table, rows = published_rows(tmp_path, "base2new", always=True)
    assert len(rows) == 2
    (note,) = [note for note in table.notes if "sentences on each class" in note]
    assert note.startswith("CoPrompt's published figures are with")


def test_the_recipe_of_a_published_row_is_told_and_there(tmp_path):
    """FAP's AdvTP stands beside AdvCoOp, whose usual configuration is another's."""
    for trainer in ("AdvCoOp", "AdvMaPLe"):
        write_few_shot(tmp_path, trainer, "EuroSAT", 16, 60)
    table, rows = published_rows(tmp_path, "fewshot", always=True)
    assert len(rows) == 2
    (note,) = [note for note in table.notes if "AdvTP" in note]
    (file,) = re.findall(r"configs/\S+\.yaml", note)
    flags = ["--trainer", "AdvCoOp", "--config-file", str(ROOT / file), "--output-dir", "run"]
    flags += ["--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")]
    cfg = build_cfg(make_parser().parse_args(flags))
    attack = cfg.TRAINER.ADVERSARIAL
    assert (attack.LOSS, attack.EPS, attack.STEP, attack.STEPS) == ("adv_full", 1, 1, 2)
    assert (cfg.TRAINER.COOP.N_CTX, cfg.OPTIM.NAME, cfg.OPTIM.LR) == (16, "sgd", 0.002)
    assert (cfg.OPTIM.MAX_EPOCH, cfg.MODEL.BACKBONE.NAME) == (200, "ViT-B/32")
