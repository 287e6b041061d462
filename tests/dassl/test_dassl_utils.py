"""Small helpers: registry, files, seeds, images, meters, log."""

import io
import os
import random
import re
import sys

import numpy as np
import pytest
import torch
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st

from dassl.utils import (
    AverageMeter,
    Logger,
    MetricMeter,
    Registry,
    UsageError,
    atomic_write,
    check_availability,
    collect_env_info,
    get_rng_state,
    listdir_nohidden,
    mkdir_if_missing,
    read_image,
    read_json,
    seeded,
    set_random_seed,
    set_rng_state,
    setup_logger,
    write_json,
)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_registry():
    things = Registry("THING")

    @things.register()
    class Circle:
        pass

    assert things.get("Circle") is Circle
    assert things.registered_names() == ["Circle"]
    with pytest.raises(UsageError, match="Circle"):
        things.register(Circle)
    things.register(Circle, force=True)
    with pytest.raises(UsageError, match="unknown thing 'Cirle'; nearest known: Circle"):
        things.get("Cirle")


def test_nothing_near_lists_all():
    with pytest.raises(UsageError, match="known: alpha, beta"):
        check_availability("zzz", ["beta", "alpha"])


@few
@given(st.text(), st.lists(st.text()))
def test_check_availability_accepts_exactly_what_there_is(name, names):
    try:
        check_availability(name, names)
    except UsageError:
        assert name not in names
    else:
        assert name in names


def test_usage_error_is_one_line_even_from_a_worker():
    assert str(UsageError("a\n  b")) == "a b"
    worker = (
        "Caught UsageError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "x.py", line 1\ncommon.errors.UsageError: image not found: a.png\n'
    )
    assert str(UsageError(worker)) == "image not found: a.png"
    assert isinstance(UsageError("a"), ValueError)


def test_json_round_trip_and_mistakes(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json({"a": [1, 2.5, None]}, str(path))
    assert read_json(str(path)) == {"a": [1, 2.5, None]}
    assert os.listdir(path.parent) == ["a.json"]
    path.write_text("{")
    with pytest.raises(UsageError, match="a.json"):
        read_json(str(path))
    with pytest.raises(UsageError, match="missing.json"):
        read_json(str(tmp_path / "missing.json"))


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json({"a": 1}, str(path))
    with pytest.raises(TypeError):
        write_json({"a": object()}, str(path))
    assert read_json(str(path)) == {"a": 1}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_atomic_write_that_fails_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic_write(str(path)) as file:
        file.write("half of the new")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_write_replaces_the_file_and_does_not_write_into_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    os.link(path, tmp_path / "same file.txt")  # whoever has the old file open still reads it whole
    with atomic_write(str(path)) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert (tmp_path / "same file.txt").read_text() == "old"


def test_folders(tmp_path):
    mkdir_if_missing(str(tmp_path / "a" / "b"))
    mkdir_if_missing(str(tmp_path / "a" / "b"))
    (tmp_path / ".hidden").touch()
    (tmp_path / "c").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "c"]


@pytest.mark.parametrize("seed", [0, 1])
def test_seed_zero_counts(seed):
    set_random_seed(seed)
    first = draw()
    draw()
    set_random_seed(seed)
    assert draw() == first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(UsageError, match=str(seed)):
        set_random_seed(seed)


def test_rng_state_continues_and_holds_plain_values():
    set_random_seed(5)
    draw()
    random.gauss(0, 1)
    np.random.standard_normal()  # noqa: NPY002 (leaves a cached second value behind)
    state = get_rng_state()
    expected = [draw(), random.gauss(0, 1), np.random.standard_normal()]  # noqa: NPY002
    set_random_seed(6)
    set_rng_state(state)
    assert [draw(), random.gauss(0, 1), np.random.standard_normal()] == expected  # noqa: NPY002


@few
@given(st.integers(0, 2**63 - 1))
def test_seeded_repeats_and_leaves_the_outer_state(seed):
    with seeded(seed):
        first = draw()
    set_random_seed(1)
    expected = draw()
    set_random_seed(1)
    with seeded(seed):
        assert draw() == first
    assert draw() == expected


def test_seeded_restores_after_an_error():
    set_random_seed(1)
    expected = draw()
    set_random_seed(1)
    with pytest.raises(RuntimeError), seeded(3):
        raise RuntimeError
    assert draw() == expected


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"0" * 50])
def test_image_that_does_not_decode_names_its_path(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="broken.png"):
        read_image(str(path))


def test_truncated_image_names_its_path(tmp_path, toy_root):
    path = tmp_path / "cut.png"
    path.write_bytes((toy_root / "train" / "0_0.png").read_bytes()[:300])
    with pytest.raises(UsageError, match="cut.png"):
        read_image(str(path))


def test_missing_image_names_its_path(tmp_path):
    with pytest.raises(UsageError, match="gone.png"):
        read_image(str(tmp_path / "gone.png"))


def test_meters():
    meter = AverageMeter()
    meter.update(1.0)
    meter.update(torch.tensor(4.0), n=2)
    assert (meter.val, meter.avg, meter.count) == (4.0, 3.0, 3)
    ema = AverageMeter(ema=True)
    ema.update(1.0)
    ema.update(1.0)
    assert ema.avg == pytest.approx(0.19)
    metrics = MetricMeter()
    metrics.update({"loss": 2.0, "acc": torch.tensor([50.0])})
    metrics.update(None)
    metrics.update({"loss": 1.0})
    assert str(metrics) == "loss 1.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError):
        metrics.update([1.0])


@pytest.fixture
def stdout(monkeypatch):
    """Puts back ``sys.stdout`` after setup_logger() replaced it."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    yield
    if isinstance(sys.stdout, Logger):
        sys.stdout.close()


def test_log_tee(tmp_path, stdout, capsys):
    setup_logger(str(tmp_path))
    print("first")
    # Readable at once: a killed process has written every line it printed.
    assert (tmp_path / "log.txt").read_text() == "first\n"
    setup_logger(str(tmp_path), append=True)
    print("second")
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"
    setup_logger(str(tmp_path))
    print("third")
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    assert re.fullmatch(r"log\.txt-\d{4}(-\d\d){5}", names[1])
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"
    assert capsys.readouterr().out == "first\nsecond\nthird\n"


def test_log_to_a_named_file(tmp_path, stdout):
    setup_logger(str(tmp_path / "sub" / "mine.log"))
    print("here")
    assert (tmp_path / "sub" / "mine.log").read_text() == "here\n"


def test_log_keeps_what_came_before_the_file(tmp_path, stdout, capsys):
    with Logger(keeps=True, shows=False) as log:
        sys.stdout = log
        print("early")
        log.open(str(tmp_path / "log.txt"))
        print("late")
        log.show("shown\n")
        assert (tmp_path / "log.txt").read_text() == "early\nlate\n"
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O on closed file")])
def test_log_goes_on_without_a_console(tmp_path, monkeypatch, error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

        flush = write.__get__(io.StringIO(), io.StringIO)

    monkeypatch.setattr(sys, "stdout", Gone())
    log = Logger(str(tmp_path / "log.txt"))
    log.write("first\n")
    log.write("second\n")
    log.close()
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"


def test_log_on_a_console_of_another_encoding(tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", console)
    log = Logger(str(tmp_path / "log.txt"))
    log.write("class круг\n")
    log.flush()
    log.close()
    assert console.buffer.getvalue() == b"class \\u043a\\u0440\\u0443\\u0433\n"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "class круг\n"


def test_environment_is_described():
    text = collect_env_info()
    for name in (torch.__version__, np.__version__, "torchvision", "Pillow"):
        assert name in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_log_on_a_full_disk_is_named():
    logger = Logger(keeps=True)
    logger.write("a line\n")
    with pytest.raises(OSError, match="/dev/full"):
        logger.open("/dev/full")
