"""Evaluations of trained runs under a little noise, as the tests of them call and read them."""

import json
from pathlib import Path

from anprompt.__main__ import main

SMALL = ["--noise", "char,embed,gaussian_noise,blur,both,learned,pgd", "--severities", "1,4",
         "--seeds", "1", "--images", "20", "--eps", "4"]  # fmt: skip


def call(capsys, *arguments):
    capsys.readouterr()
    try:
        status = main(["robustness", *map(str, arguments)])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def content(folder: Path) -> dict:
    return json.loads((folder / "robustness.json").read_text())
