"""Training in several processes, by torch's DistributedDataParallel.

Each process draws its shard of every batch, and gradients are averaged. Dropout and batch normalisation act on a shard
alone, so several processes train a network as good as that of one process, but not the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from frazil.errors import FrazilError, SettingsError
from frazil.model import Device

__all__ = ["Processes", "join_processes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of a training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process shows progress and writes files."""
        return self.rank == 0

    def shard(self, batch: int) -> range:
        """The examples of a batch that this process draws.

        Raises:
            SettingsError: the batch cannot be divided evenly.
        """
        if batch % self.count:
            raise SettingsError(f"batch: expected a multiple of the {self.count} processes, found {batch}")
        size = batch // self.count
        return range(self.rank * size, (self.rank + 1) * size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network with averaged gradients, so that its weights stay the same in all processes."""
        return network if self.count == 1 else DistributedDataParallel(network)


@contextlib.contextmanager
def join_processes(choice: Device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if any, and choose the device of this one.

    Raises:
        FrazilError: CUDA was chosen, and no device is found.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise FrazilError("expected a CUDA device (--device cuda), found none; --device cpu trains without")
    cuda = choice == "cuda" or (choice == "auto" and torch.cuda.is_available())
    count = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        # The same seed must give the same network: torch may not choose algorithms by their speed.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
    if count == 1:
        yield Processes(device=device)
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(rank=distributed.get_rank(), count=count, device=device)
    finally:
        distributed.destroy_process_group()
