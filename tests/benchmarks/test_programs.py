"""The benchmark programs, run on a CLIP of toy size. What they time is not looked at."""

import json
import xml.etree.ElementTree
from pathlib import Path

import pytest

from benchmarks import (
    end_to_end,
    eval_throughput,
    features,
    measure,
    noise_pass,
    scaling,
    step_time,
    sweeps,
    synthetic,
)
from benchmarks.upstream import UpstreamSteps
from benchmarks.workload import Workload
from clip.simple_tokenizer import SimpleTokenizer

pytestmark = pytest.mark.slow

TOY = ["--backbone", "micro", "--classes", "4", "--batch", "2", "--threads", "1"]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return ["--scratch", str(tmp_path_factory.mktemp("scratch"))]


def test_step_time_writes_what_it_prints(scratch, tmp_path, capsys):
    record = tmp_path / "steps.json"
    options = ["--rounds", "2", "--skip-memory", "--json", str(record)]
    step_time.main([*TOY, *scratch, *options])
    printed = capsys.readouterr().out
    figures = json.loads(record.read_text())
    assert [row["path"] for row in figures["rows"]] == ["fast", "plain"]
    assert figures["rows"][0]["times fast"] == 1
    assert {path: len(times) for path, times in figures["seconds"].items()} == {
        "fast": 2,
        "plain": 2,
    }
    assert max(figures["difference"]) < 1e-4
    assert figures["environment"]["torch"] in json.dumps(figures)
    assert printed.count("| CoOp | 4 | 2 |") == 2


@pytest.mark.slow
def test_step_memory_is_a_process_of_its_own(scratch):
    work = Workload("CoOp", "micro", classes=4, batch=2, threads=1)
    _, peak = measure.in_own_process(step_time.single_step, work, Path(scratch[1]), "fast")
    assert 50 < peak < 4000


def test_eval_throughput(scratch, capsys):
    options = ["--batches", "2", "--plain-batches", "1", "--rounds", "1"]
    eval_throughput.main([*TOY, *scratch, *options])
    printed = capsys.readouterr().out
    assert "| fast | 2 |" in printed and "| plain | 1 |" in printed


def test_end_to_end(scratch, capsys):
    options = ["--shots", "2", "--test-images", "1", "--epochs", "1", "--trainer", "MaPLe"]
    end_to_end.main([*TOY, *scratch, *options])
    printed = capsys.readouterr().out
    assert "| MaPLe | fast |" in printed and "| MaPLe | plain |" in printed


def test_scaling_draws_what_it_measured(scratch, tmp_path, capsys):
    plot = tmp_path / "plot.svg"
    options = ["--counts", "3,6", "--plain-up-to", "3", "--rounds", "1", "--skip-memory"]
    scaling.main([*TOY, *scratch, *options, "--plot", str(plot)])
    assert capsys.readouterr().out.count("| CoOp |") == 3  # plain at 3 classes only
    drawing = xml.etree.ElementTree.parse(plot).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    lines = {path: drawing.find(f".//{svg}g[@id='{path}']") for path in ("fast", "plain")}
    markers = {path: len(line.findall(f".//{svg}use")) for path, line in lines.items()}
    assert markers == {"fast": 2, "plain": 1}


def test_features(scratch, capsys, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", "")
    features.main([*TOY, *scratch, "--images", "6", "--methods", "CoOp,CLIPAdapter"])
    printed = capsys.readouterr().out
    assert printed.count("| 8 |") == 2 and printed.count("| yes |") == 2


def test_class_names_differ_and_keep_to_their_lengths():
    names, tokenizer = synthetic.class_names(300), SimpleTokenizer()
    lengths = [len(tokenizer.encode(name)) for name in names]
    assert len(set(names)) == 300
    assert set(lengths) == set(synthetic.NAME_TOKENS)
    assert names == synthetic.class_names(300)


def test_upstream_names_what_it_cannot_measure(tmp_path):
    with pytest.raises(ValueError, match="measures CoOp, CoCoOp, .*, TCP in fp32"):
        UpstreamSteps(str(tmp_path), Workload("ANPrompt", "micro"), tmp_path)
    with pytest.raises(ValueError, match="no trainers/coop.py"):
        UpstreamSteps(str(tmp_path), Workload("CoOp", "micro"), tmp_path)
    with UpstreamSteps(None, Workload("CoOp", "micro"), tmp_path) as steps:
        assert steps is None


def test_sweeps_plan_and_keep_gpus_busy(capsys):
    sweeps.main(["--planned", "3000", "--runs", "6", "--gpus", "2", "--mean-seconds", "0.05"])
    printed = capsys.readouterr().out
    assert "| 3000 runs: pack into shards |" in printed
    assert "| 2 GPUs busy, 6 runs of 0.05 s on average |" in printed


def test_scaling_by_processes(scratch, capsys):
    scaling.main([*TOY, *scratch, "--ranks", "1,2", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 1", "| 2"]


def test_noise_pass(tmp_path, capsys):
    few = ["--methods", "zsclip", "--noise", "jpeg", "--severities", "1", "--images", "8"]
    noise_pass.main([*few, "--scratch", str(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 | jpeg")]
    evaluations = [row.split(" | ")[3] for row in rows]
    assert evaluations == ["one call", "a call for each"]
    assert all(float(row.split(" | ")[4]) > 0 for row in rows)
