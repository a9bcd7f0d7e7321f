"""The training loop of the fully convolutional network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional

from frazil_trainer.labelled import LabelledMicrograph
from frazil_trainer.networks import Fcn, FcnConfig
from frazil_trainer.patches import PatchSampler
from frazil_trainer.recipe import DenseSettings, Recipe
from frazil_trainer.training import EpochReport, mean_loss

__all__ = ["quality_focal_loss", "train_dense"]

_HELD_OUT_PATCHES = 32
_WARM_UP_SHARE = 0.1
_LARGEST_GRADIENT = 5.0

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def train_dense(
    recipe: Recipe,
    training: Sequence[LabelledMicrograph],
    held_out: Sequence[LabelledMicrograph],
    report: Callable[[EpochReport], None],
) -> Fcn:
    """Train on patches with AdamW and one cycle of the learning rate.

    The recipe's seed decides every random draw: the same seed gives the same network on the same machine.

    Args:
        recipe: all settings, with its dense table.
        training: micrographs to draw patches from.
        held_out: micrographs only looked at.
        report: called after every epoch.

    Raises:
        FrazilError: the loss is no longer a number.
    """
    dense = recipe.dense or DenseSettings()
    torch.manual_seed(recipe.seed)
    config = FcnConfig(widths=dense.widths, dilations=dense.dilations, halo_cells=0)
    network = Fcn(config)
    network.initialise(torch.Generator().manual_seed(recipe.seed))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    updates = math.ceil(recipe.samples_per_epoch / recipe.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=dense.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, recipe.epochs * updates, pct_start=_WARM_UP_SHARE
    )
    aside = _sampler(recipe, dense, held_out, recipe.seed + 1, augment=False)
    held_out_patches = next(_batches(aside, _HELD_OUT_PATCHES, 1))
    patches = _batches(
        _sampler(recipe, dense, training, recipe.seed, augment=True), recipe.batch, recipe.epochs * updates
    )
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses, right, told = [], 0, 0
        for _ in range(updates):
            tiles, wanted, weights = next(patches)
            with torch.autocast("cpu", torch.bfloat16, enabled=dense.mixed_precision):
                logits = network(tiles)
            loss = quality_focal_loss(logits.float(), wanted, weights, dense.focus)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
            batch_right, batch_told = _count_right(logits, wanted, weights)
            right, told = right + batch_right, told + batch_told
        loss_of_epoch = mean_loss(losses, epoch, recipe)
        network.eval()
        with torch.no_grad():
            held_right, held_told = _count_right(network(held_out_patches[0]), *held_out_patches[1:])
        report(
            EpochReport(
                epoch=epoch,
                loss=loss_of_epoch,
                accuracy=right / max(1, told),
                held_out_accuracy=held_right / max(1, held_told),
            )
        )
    scorer = Fcn(FcnConfig(widths=dense.widths, dilations=dense.dilations, halo_cells=dense.halo_cells))
    scorer.load_state_dict(network.state_dict())
    return scorer.eval()


def quality_focal_loss(logits: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, focus: float) -> torch.Tensor:
    """Cross entropy weighed by how far the score is off, per particle (Li et al., NeurIPS 2020).

    The many easy cells of background do not drown the few hard ones, and the score still means what it says.

    Args:
        logits: (n, g, g).
        wanted: (n, g, g) scores from 0 to 1.
        weights: (n, g, g), 0 where a cell does not count.
        focus: power of the distance.
    """
    distance = (torch.sigmoid(logits) - wanted).abs()
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    particles = (wanted * weights).sum().clamp(min=1)
    return (entropy * distance**focus * weights).sum() / particles


def _count_right(logits: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> tuple[int, int]:
    """Cells that hold a particle and were taken for one; and those of which either is true."""
    counts = weights > 0
    taken, particle = (logits > 0) & counts, (wanted > 0.5) & counts
    return int((taken & particle).sum()), int((taken | particle).sum())


def _sampler(
    recipe: Recipe, dense: DenseSettings, micrographs: Sequence[LabelledMicrograph], seed: int, *, augment: bool
) -> PatchSampler:
    return PatchSampler(
        micrographs,
        patch_px=dense.patch_px,
        step_px=Fcn.step_px,
        diameter_px=recipe.diameter_px,
        spread_diameters=dense.spread_diameters,
        seed=seed,
        augment=augment,
    )


def _batches(sampler: PatchSampler, count: int, batches: int) -> Iterator[Batch]:
    """Draw batches one ahead, in a thread: OpenCV and numpy work while torch does. The order stays the same."""
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(sampler.draw, count)
        for i in range(batches):
            tiles, wanted, weights = (torch.from_numpy(array) for array in following.result())
            if i + 1 < batches:
                following = ahead.submit(sampler.draw, count)
            yield tiles.contiguous(memory_format=torch.channels_last), wanted, weights
