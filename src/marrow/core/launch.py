"""Starts one process a device with torch's elastic launcher, tells how they ended, and joins them inside."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import uuid
from typing import Sequence

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from .errors import MarrowError, near
from .resources import keep_freed_memory

INTERRUPTED = 130
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def launched() -> bool:
    """True inside a process that a launcher started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def relaunch(argv: Sequence[str], devices: int) -> int:
    """Run `python -m marrow.cli ARGV` in `devices` processes on this machine; the exit code of the first that failed.

    Ctrl-C and SIGTERM are passed on, and the processes have half a minute to leave their checkpoint. When one is killed,
    the others are ended and MarrowError says which it was.
    """
    again = shlex.join(["marrow", *argv, *([] if "--resume" in argv else ["--resume"])])
    return run([sys.executable, "-m", "marrow.cli", *argv], devices, f"Go on with: {again}")


def run(command: Sequence[str], devices: int, hint: str = "") -> int:
    """As `relaunch`, for any command. hint: what to do after a kill."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # how they ended is said below
    # Several processes with all of the machine's threads each would slow one another down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=devices, run_id=uuid.uuid4().hex, max_restarts=0,
                          rdzv_backend="c10d", rdzv_endpoint="localhost:0")  # fmt: skip
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        # Those that lost a killed one fail as well, perhaps before it is seen.
        killed = next(((rank, -f.exitcode) for rank, f in error.failures.items() if f.exitcode < 0), None)
        if killed is None:
            return max(error.get_first_failure()[1].exitcode, 1)
        if killed[1] in (signal.SIGINT, signal.SIGTERM):
            return INTERRUPTED
        raise MarrowError(f"process {killed[0] + 1} of {devices} was ended by {signal.Signals(killed[1]).name}, and the "
                          "others with it", where="--devices", hint=hint) from None  # fmt: skip
    except SignalException:
        return INTERRUPTED
    return 0


def lost(error: Exception) -> bool:
    """Whether it says that another process of the run is gone."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)  # which has no class of its own


def join(precision: str, device: str, devices: int) -> Fabric:
    """Fabric for this process: alone, or with the others that the launcher started on one or many machines."""
    if precision not in PRECISIONS:
        raise MarrowError(f"unknown precision '{precision}'{near(precision, PRECISIONS)}", where="precision")
    cuda = torch.cuda.is_available()
    kind = ("cuda" if cuda else "cpu") if device == "auto" else device
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not cuda):
        raise MarrowError(
            f"no device '{device}' here.", where="device", hint=f"Use {'cuda or cpu' if cuda else 'cpu'}."
        )
    if precision == "16-mixed" and kind == "cpu":
        raise MarrowError("16-mixed needs a GPU.", where="precision", hint="Use bf16-mixed on a CPU.")
    world, local = (int(os.environ.get(k, "1")) for k in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if devices > 1 and local != devices:
        raise MarrowError(f"{devices} devices need {devices} processes, and the launcher started {local}.",
                          where="devices", hint=f"Use marrow run --devices {devices}, or torchrun.")  # fmt: skip
    nodes = world // local if local == devices else 1
    strategy = "ddp" if devices * nodes > 1 else "auto"
    # Its notes ("Using bfloat16 ...") say what the recipe says; its warnings still come through.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    if kind == "cpu":
        keep_freed_memory()
    return fabric
