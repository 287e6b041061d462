"""The environment variables that scripts, sweeps and ``anprompt run`` share."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anprompt.protocols.methods import own_backbone, weights_at_hand
from anprompt.protocols.plan import NEED_NO_DATA, RunSpec
from common import paths
from common.errors import UsageError

BUNDLED = "small"
TRAIN = [sys.executable, str(paths.ROOT / "train.py")]
"""How train.py is called."""


@dataclass(frozen=True)
class Environment:
    """What the environment says; empty where it says nothing.

    Attributes:
        output: OUTPUT, where results go.
        data: DATA, the folder that holds the data sets.
        backbone: BACKBONE.
        config: CFG, a configuration of the method.
        plugins: PLUGIN, a file of trainers or data sets of one's own.
        shots: SHOTS, images per class.
        source: SOURCE, the data set trained on in a transfer.
        load_epoch: LOADEP, the epoch that a test reads.
        is_dry_run: DRY_RUN, print the commands and run nothing.
    """

    output: str
    data: str = ""
    backbone: str = ""
    config: str = ""
    plugins: tuple[str, ...] = ()
    shots: str = ""
    source: str = "imagenet"
    load_epoch: str = ""
    is_dry_run: bool = False

    @classmethod
    def read(
        cls, environ: Mapping[str, str] | None = None, output: str = "output"
    ) -> "Environment":
        """Read the variables.

        Args:
            output: where results go without OUTPUT: this folder of the repository.
        """
        given = {key: value for key, value in (environ or os.environ).items() if value}
        plugin = given.get("PLUGIN")
        return cls(
            output=given.get("OUTPUT", "").rstrip("/") or default_output(output),
            data=given.get("DATA", ""),
            backbone=given.get("BACKBONE", ""),
            config=given.get("CFG", ""),
            plugins=(plugin,) if plugin else (),
            shots=given.get("SHOTS", ""),
            source=given.get("SOURCE", "imagenet"),
            load_epoch=given.get("LOADEP", ""),
            is_dry_run="DRY_RUN" in given,
        )

    def argv(self, run: RunSpec, options: Sequence[str] = ()) -> list[str]:
        """Return train.py's arguments for a run."""
        return run.argv(
            self.output,
            root=self.data,
            plugins=self.plugins,
            load_epoch=self.load_epoch if run.stage == "test" else "",
            options=options,
        )

    def command(self, run: RunSpec, options: Sequence[str] = ()) -> list[str]:
        """Return the command of a run."""
        return [*TRAIN, *self.argv(run, options)]

    def with_backbone(self, runs: Sequence[RunSpec]) -> list[RunSpec]:
        """Return the runs on the backbone that is asked for.

        Without BACKBONE that is the one that all configurations name, if its weights are on this
        machine already, else the bundled small CLIP.
        """
        backbone = self.backbone
        if not backbone:
            (own, *others) = {own_backbone(run.config_file) for run in runs} or {""}
            backbone = own if not others and weights_at_hand(own) else BUNDLED
        return [replace(run, backbone=backbone) for run in runs]

    def about_backbone(self, backbone: str) -> str:
        """Return the line that says which backbone runs, and how to name another."""
        hint = ""
        if backbone == BUNDLED:
            hint = " (bundled; BACKBONE=ViT-B/16 takes OpenAI's)"
        elif not self.backbone:
            hint = " (the configuration's own, found on this machine; BACKBONE=small is bundled)"
        return f"Backbone: {backbone}{hint}"

    def check_data(self, datasets: Sequence[str]) -> None:
        """Refuse data sets without a folder that holds them.

        Raises:
            UsageError: DATA is not set or is no folder.
        """
        if all(Path(name).stem in NEED_NO_DATA for name in datasets):
            return
        if not self.data:
            raise UsageError(
                "DATA is not set: it names the folder that holds the data sets, "
                "export DATA=/path/to/datasets (shapes and imagefolder need none)"
            )
        if not Path(self.data).is_dir():
            raise UsageError(
                f"DATA={self.data}: no such folder; it should be the one that holds the data sets"
            )


def default_output(name: str = "output") -> str:
    """Return a folder of the repository, relative where that is the current one."""
    if Path.cwd() == paths.ROOT:
        return name
    return str(paths.ROOT / name)


def numbers(name: str, text: str, least: int) -> list[int]:
    """Return the whole numbers of a list such as ``1,2,3``, each once.

    Args:
        name: what the message calls it.

    Raises:
        UsageError: one is no whole number, or is less than ``least``, or there is none.
    """
    words = [word for word in re.split(r"[,\s]+", text) if word]
    for word in words or [""]:
        if not (word.isdecimal() and len(word) < 10 and int(word) >= least):
            raise UsageError(f"{name} {word!r}: expected whole numbers from {least}, as 1,2,3")
    return list(dict.fromkeys(map(int, words)))
