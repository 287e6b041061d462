"""Processes on this machine that share work as those of torchrun do, over gloo."""

import contextlib
import os
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from torch.distributed import TCPStore

PATIENCE = 300  # seconds until a process counts as hung
# What a run imports on the way, read once for all processes.
PRELOADED = ["torch._dynamo", "torch.utils.tensorboard", "sklearn.cluster", "sklearn.metrics"]
PRELOADED += ["train", "trainers", "dassl.data"]


def _serve(pipe: Any, rank: int, size: int, port: int, folder: str) -> None:
    """Join the others, then answer calls until the pipe closes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is in the test's process
        "ANPROMPT_CACHE": folder,
    }
    import torch

    from common.ranks import joined

    torch.set_num_threads(1)
    with joined(), contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            try:
                pipe.send((True, function(*arguments)))
            except Exception as error:
                pipe.send((False, f"{error!r}\n{traceback.format_exc()}"))


class Together:
    """``size`` processes that call a function at the same time.

    Args:
        size: how many.
        folder: their cache.
    """

    def __init__(self, size: int, folder: str):
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.members = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, size, self._store.port, folder)
            process = context.Process(target=_serve, args=arguments)
            process.start()
            theirs.close()
            self.members.append((process, ours))

    def call(self, function: Callable, *arguments: Any) -> list:
        """Return what ``function(*arguments)`` gives in each process, by rank."""
        for _, pipe in self.members:
            pipe.send((function, arguments))
        answers = []
        for rank, (_, pipe) in enumerate(self.members):
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"process {rank} does not answer")
            answers.append(pipe.recv())
        for rank, (done, answer) in enumerate(answers):
            if not done:
                raise RuntimeError(f"process {rank}: {answer}")
        return [answer for _, answer in answers]

    def close(self) -> None:
        for _, pipe in self.members:
            pipe.close()
        for process, _ in self.members:
            process.join(10)
            if process.is_alive():
                process.kill()
