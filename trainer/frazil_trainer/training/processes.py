"""One training in several processes: the parts of a network and of the loop that must know of each other.

Each process draws its share of the same batch, so that several of them give what one would. Gradients are averaged by
DistributedDataParallel; dropout and batch normalisation act on the whole batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from frazil.errors import FrazilError, SettingsError
from frazil.settings import Device

__all__ = ["Dropout", "Processes", "join_processes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process and the others of its training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process shows progress and writes files."""
        return self.rank == 0

    def shard(self, batch: int) -> range:
        """Which examples of a batch are this process's.

        Raises:
            SettingsError: the batch cannot be shared evenly.
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
        """The network as the loop trains it, the same in all processes after every update."""
        if self.count == 1:
            return network
        _normalise_whole_batches(network)
        return DistributedDataParallel(network)


@contextlib.contextmanager
def join_processes(choice: Device) -> Iterator[Processes]:
    """Meet the other processes that ``torchrun`` started, if it did, and pick this one's device.

    Raises:
        FrazilError: no CUDA device answers where one was asked for.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise FrazilError("expected a CUDA device (--device cuda), found none; --device cpu trains without")
    cuda = choice == "cuda" or (choice == "auto" and torch.cuda.is_available())
    count = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        # The same seed, the same network: nothing may be chosen by what is faster today.
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


class Dropout(nn.Dropout):
    """Dropout whose mask over a batch is the same whether one process sees the batch or several share it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, the name that torch gave it
        """(n, ...) → (n, ...)."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        n, rank = len(input), distributed.get_rank()
        whole = input.new_ones((n * distributed.get_world_size(), *input.shape[1:]))
        return input * functional.dropout(whole, self.p)[rank * n : (rank + 1) * n]


class _WholeBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over a batch that several processes share, on any device (torch's own needs CUDA)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, the name that torch gave it
        """(n, c, h, w) → (n, c, h, w)."""
        if not self.training:
            return super().forward(input)
        features = input.float()
        own = torch.stack([features.sum((0, 2, 3)), features.square().sum((0, 2, 3))])
        total, squares = all_reduce(own)  # type: ignore[no-untyped-call]
        count = features.numel() // features.shape[1] * distributed.get_world_size()
        mean = total / count
        variance = squares / count - mean.square()
        with torch.no_grad():
            for name, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
                self.get_buffer(name).lerp_(value, self.momentum or 0.0)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], features, scale[:, None, None]).to(input.dtype)


def _normalise_whole_batches(network: nn.Module) -> None:
    """Make every batch normalisation one over all processes; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _WholeBatchNorm
