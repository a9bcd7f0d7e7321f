"""The networks. Each gives (n, g, g) logits for (n, 1, t, t) tiles."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from frazil_trainer.recipe import CnnSettings, FcnSettings, JunkSettings, MlpSettings

__all__ = ["Cnn", "Fcn", "JunkFinder", "Mlp", "make_network"]


def make_network(
    settings: MlpSettings | CnnSettings | FcnSettings | JunkSettings, seed: int
) -> Mlp | Cnn | Fcn | JunkFinder:
    """An initialised network, as it is trained."""
    network: Mlp | Cnn | Fcn | JunkFinder
    match settings:
        case MlpSettings():
            network = Mlp(settings)
        case CnnSettings():
            network = Cnn(settings)
        case FcnSettings():
            # Patches are small, so that every cell of them counts.
            network = Fcn(settings, cut_halo=False)
        case JunkSettings():
            network = JunkFinder(settings, cut_halo=False)
    network.initialise(torch.Generator().manual_seed(seed))
    return network


def _he_initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights as in He et al. (ICCV 2015); biases zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Mlp(nn.Module):
    """The paper's first picker: 4096 inputs, two hidden layers of 256, one output; dropout before every dense layer."""

    def __init__(self, settings: MlpSettings) -> None:
        super().__init__()
        self.settings = settings
        inputs = settings.tile_px**2
        self.layers = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(inputs, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, 1),
        )

    initialise = _he_initialise

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, 1, 1) logits."""
        flat = tiles.flatten(1)  # (n, t * t)
        logits: torch.Tensor = self.layers(flat)  # (n, 1)
        return logits.reshape(-1, 1, 1)

    def over_tiles(self, step_px: int) -> nn.Module:
        """The same network as convolutions without dropout: it scores all windows of a tile at once, every `step_px`.

        The first dense layer becomes a strided convolution as large as a window, the others become convolutions of one
        pixel (Long et al., CVPR 2015).
        """
        dense = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        layers: list[nn.Module] = []
        for layer in dense:
            first = not layers
            inputs, side = (1, self.settings.tile_px) if first else (layer.in_features, 1)
            convolution = nn.Conv2d(inputs, layer.out_features, side, stride=step_px if first else 1)
            convolution.weight = nn.Parameter(layer.weight.detach().reshape(convolution.weight.shape))
            convolution.bias = nn.Parameter(layer.bias.detach())
            layers += [convolution, nn.ReLU()]
        return _Convolutions(layers[:-1])


class _Convolutions(nn.Module):
    """Layers with one channel of scores at their end."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) logits; g = 1 for tiles of a window's size."""
        logits: torch.Tensor = self.layers(tiles)  # (n, 1, g, g)
        return logits[:, 0]


class Cnn(_Convolutions):
    """The paper's second picker: stages of 3x3 convolutions, each pooled 2x2, then two dense layers.

    The dense layers are convolutions over all features of a window. So they also score every window in a larger tile
    (Long et al., CVPR 2015).
    """

    def __init__(self, settings: CnnSettings) -> None:
        layers: list[nn.Module] = []
        inputs = 1
        for stage, count in enumerate(settings.convolutions):
            outputs = settings.channels * 2**stage
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=int(settings.padding)), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        layers += [
            nn.Dropout(settings.dropout),
            nn.Conv2d(inputs, settings.hidden, settings.side),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Conv2d(settings.hidden, 1, 1),
        ]
        super().__init__(layers)
        self.settings = settings

    initialise = _he_initialise


class Fcn(nn.Module):
    """Scores every fourth pixel of a tile of any size, from a context of some 60 pixels around each.

    Two strided convolutions, then residual blocks (He et al., CVPR 2016) with growing dilation (Yu and Koltun, ICLR
    2016). Score (i, j) before the halo is cut belongs to pixel (4 i, 4 j), since every convolution is centred.

    With `folded`, convolutions have a bias instead of batch normalisation, as in an exported model, whose statistics
    are folded into the weights.
    """

    step_px = 4
    """Distance between scores."""

    def __init__(self, settings: FcnSettings, *, cut_halo: bool = True, folded: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.folded = folded
        self._halo_cells = settings.halo_cells if cut_halo else 0
        full, half, quarter = settings.widths
        self.body = nn.Sequential(
            *_convolution(1, full, folded=folded),
            *_convolution(full, half, stride=2, folded=folded),
            _Residual(half, 1, folded=folded),
            *_convolution(half, quarter, stride=2, folded=folded),
            *(_Residual(quarter, dilation, folded=folded) for dilation in settings.dilations),
        )
        self.head = nn.Conv2d(quarter, 1, 1)

    def initialise(self, generator: torch.Generator) -> None:
        """He initialisation. The head starts at a score of 0.02, since most places hold no particle."""
        _initialise_dense(self, self.head, generator)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) logits, g = t / 4 - 2 * halo."""
        centred = (tiles - 0.5) * 8  # padding with zeros is then padding with background
        logits: torch.Tensor = self.head(self.body(centred))  # (n, 1, t / 4, t / 4)
        cut = self._halo_cells
        inner = slice(cut, -cut or None)
        return logits[:, 0, inner, inner]


class JunkFinder(nn.Module):
    """Scores every fourth pixel of a coarse tile of any size for junk.

    What is junk shows in what lies around: a film in its edge, far away. So features go down to a sixteenth of the
    resolution, where a few dilated convolutions see most of a micrograph, and are added on the way up to those of each
    resolution (U-Net: Ronneberger et al., MICCAI 2015). Score (i, j) before the halo is cut belongs to pixel
    (4 i, 4 j).
    """

    step_px = 4
    """Distance between scores."""

    def __init__(self, settings: JunkSettings, *, cut_halo: bool = True) -> None:
        super().__init__()
        self.settings = settings
        self._halo_cells = settings.halo_cells if cut_halo else 0
        full, half, quarter, eighth, sixteenth = settings.widths
        self.fine = nn.Sequential(
            *_convolution(1, full),
            *_convolution(full, half, stride=2),
            *_convolution(half, quarter, stride=2),
            _Residual(quarter, 1),
        )
        self.middle = nn.Sequential(*_convolution(quarter, eighth, stride=2))
        self.coarse = nn.Sequential(
            *_convolution(eighth, sixteenth, stride=2),
            *(_Residual(sixteenth, dilation) for dilation in settings.dilations),
            nn.Conv2d(sixteenth, eighth, 1, bias=False),
        )
        self.join_middle = nn.Sequential(*_convolution(eighth, quarter))
        self.join_fine = nn.Sequential(*_convolution(quarter, quarter), _Residual(quarter, 1))
        self.head = nn.Conv2d(quarter, 1, 1)

    def initialise(self, generator: torch.Generator) -> None:
        """He initialisation. The head starts at a score of 0.02."""
        _initialise_dense(self, self.head, generator)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, g, g) logits, g = t / 4 - 2 * halo."""
        fine = self.fine((tiles - 0.5) * 8)
        middle = self.middle(fine)
        joined = self.join_middle(middle + _enlarged(self.coarse(middle), middle))
        logits: torch.Tensor = self.head(self.join_fine(fine + _enlarged(joined, fine)))
        cut = self._halo_cells
        inner = slice(cut, -cut or None)
        return logits[:, 0, inner, inner]


def _enlarged(features: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) features at the places of others. Corners are aligned: strided convolutions keep the first place."""
    return functional.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=True)


def _initialise_dense(network: nn.Module, head: nn.Conv2d, generator: torch.Generator) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer is not head:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.constant_(head.bias, -4.0)  # type: ignore[arg-type]


def _convolution(
    inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1, folded: bool = False
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=folded)
    return convolution, nn.Identity() if folded else nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class _Residual(nn.Module):
    """Two convolutions, the second one dilated, and a shortcut over both."""

    def __init__(self, channels: int, dilation: int, *, folded: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels, channels, folded=folded),
            *_convolution(channels, channels, dilation=dilation, folded=folded)[:2],
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) → (n, c, h, w)."""
        return torch.relu(features + self.layers(features))
