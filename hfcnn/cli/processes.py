"""Training with several processes, as torchrun starts them."""

from __future__ import annotations

import atexit
import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfcnn.ranks import Ranks

__all__ = ["checkpoint_to_resume", "is_worker", "join_group", "start_workers"]

#: Longest that a process waits for another before it gives up: reading data takes them unequally long.
TIMEOUT = datetime.timedelta(minutes=5)

#: How often the processes are started again where one is lost, if there is a checkpoint to go on from.
RESTARTS = 3


def is_worker() -> bool:
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def start_workers(n_processes: int, checkpoint: Path | None) -> int:
    """Run this very command in several processes on this machine, by torchrun; return its exit code.

    Parameters
    ----------
    n_processes : int
        How many.
    checkpoint : path or None
        Where the run is kept. With it, a run that loses a process starts again and goes on from there.
    """
    # torchrun would take --nproc for the beginning of an option of its own
    arguments = [text for text in sys.argv[1:] if not text.startswith("--nproc=")]
    if "--nproc" in arguments:
        place = arguments.index("--nproc")
        del arguments[place : place + 2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n_processes}", f"--max-restarts={RESTARTS if checkpoint else 0}"]
    return subprocess.call([*command, "-m", "hfcnn", *arguments])


def join_group(device: str) -> Ranks | None:
    """Join the processes that torchrun has started, if it has; each uses a GPU of its own where there are.

    Parameters
    ----------
    device : str
        The parameter `device` of the classifier.
    """
    if not is_worker():
        return None
    import torch
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    from hfcnn.ranks import Ranks

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    name = "nccl" if on_gpu else "gloo"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # the agent's store outlives a restart, and with it addresses of processes that are gone: those who
        # find them wait for each other
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=TIMEOUT
        )
        torch.distributed.init_process_group(
            name,
            store=PrefixStore(f"hfcnn/{_n_restarts()}", store),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=TIMEOUT,
        )
    else:
        torch.distributed.init_process_group(name, timeout=TIMEOUT)
    atexit.register(torch.distributed.destroy_process_group)
    return Ranks.current()


def checkpoint_to_resume(resume: Path | None, checkpoint: Path | None) -> Path | None:
    """Where to go on from: after torchrun has started the processes again, the checkpoint if there is one."""
    return checkpoint if _n_restarts() > 0 and checkpoint is not None and checkpoint.is_file() else resume


def _n_restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
