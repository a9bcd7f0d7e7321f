"""Which size of the paper's CNN can be trained for 100 epochs, and how long that takes on two cores.

    python benchmarks/train_cnn.py

Times are of the processor, not of the clock, so that other work on the machine counts little.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from frazil_trainer.networks import Cnn
from frazil_trainer.recipe import CnnSettings, Sgd
from frazil_trainer.training.loop import make_optimiser

BATCH = 128
UPDATES = 100 * (63_000 // BATCH)
CORES = 2
SIZES = [
    (channels, convolutions)
    for convolutions in ((1, 1, 1, 1, 1), (1, 1, 1, 2, 2), (1, 1, 2, 2, 2), (1, 2, 2, 2, 2))
    for channels in (8, 12, 16)
]


def seconds_of_update(config: CnnSettings, *, mixed_precision: bool, repetitions: int = 8) -> float:
    """Processor seconds of one update, the best of several."""
    network = Cnn(config).to(memory_format=torch.channels_last)
    optimiser, _ = make_optimiser(network, Sgd(), UPDATES)
    tiles = torch.rand(BATCH, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 2.0
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
            logits = network(tiles)[:, 0, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    """Measure every size and print a table."""
    torch.set_num_threads(CORES)
    print("| channels | convolutions | parameters | float32 ms | bfloat16 ms | 100 epochs, minutes |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for channels, convolutions in SIZES:
        config = CnnSettings(channels=channels, convolutions=convolutions)
        parameters = sum(p.numel() for p in Cnn(config).parameters())
        single, mixed = (seconds_of_update(config, mixed_precision=mixed) for mixed in (False, True))
        minutes = mixed * UPDATES / CORES / 60
        sizes = ", ".join(str(count) for count in convolutions)
        print(f"| {channels} | {sizes} | {parameters:,} | {1e3 * single:.0f} | {1e3 * mixed:.0f} | {minutes:.0f} |")


if __name__ == "__main__":
    main()
