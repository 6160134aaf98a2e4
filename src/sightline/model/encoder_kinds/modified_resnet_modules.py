"""Modules of CLIP's residual networks. Letters: K crops, n tokens of a crop, C channels, E width of what is pooled (see batch.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, relu, scaled_dot_product_attention

from sightline.errors import Problem, Refused
from sightline.model import composite_weights
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.crop_tower_modules import CropTower, stacked
from sightline.model.encoder_kinds.modified_resnet import EXPANSION, ModifiedResNetEncoder
from sightline.model.encoders import Read
from sightline.model.tiling import Grid


class BatchNorm(nn.BatchNorm2d):
    """Takes the statistics of the batch only where it trains: frozen weights keep their running ones, so that a frozen tower never changes and sees each crop alone."""

    def forward(self, input: Tensor) -> Tensor:
        """(K, C, h, w) to the same."""
        if self.weight.requires_grad:
            return super().forward(input)
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)


def _convolution(inner: int, outer: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, side, stride=stride, padding=side // 2, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut. A stride is an average over its window, after the 3x3 convolution and before that of the shortcut."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        outer = width * EXPANSION
        self.conv1, self.bn1 = _convolution(inner, width, 1), BatchNorm(width)
        self.conv2, self.bn2 = _convolution(width, width, 3), BatchNorm(width)
        self.conv3, self.bn3 = _convolution(width, outer, 1), BatchNorm(outer)
        self.stride = stride
        self.downsample = nn.Sequential(_convolution(inner, outer, 1), BatchNorm(outer)) if stride > 1 or inner != outer else None
        nn.init.zeros_(self.bn3.weight)  # each block begins as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(K, inner, h, w) to (K, 4 * width, h / stride, w / stride)."""
        branch = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        if self.stride > 1:
            x, branch = avg_pool2d(x, self.stride), avg_pool2d(branch, self.stride)
        return relu(self.bn3(self.conv3(branch)) + (x if self.downsample is None else self.downsample(x)))


class ModifiedResNet(nn.Module):
    """Stem and stages, under open_clip's names."""

    def __init__(self, depths: tuple[int, ...], width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = _convolution(3, half, 3, stride=2), BatchNorm(half)
        self.conv2, self.bn2 = _convolution(half, half, 3), BatchNorm(half)
        self.conv3, self.bn3 = _convolution(half, width, 3), BatchNorm(width)
        self.stages = len(depths)
        inner = width
        for stage, depth in enumerate(depths):
            inside = width * 2**stage
            first = Bottleneck(inner, inside, stride=1 if stage == 0 else 2)
            inner = inside * EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *(Bottleneck(inner, inside, stride=1) for _ in range(depth - 1))))

    @property
    def blocks(self) -> list[nn.Module]:
        """Bottlenecks in depth order."""
        return [block for stage in range(self.stages) for block in self.get_submodule(f"layer{stage + 1}").children()]

    def forward(self, x: Tensor) -> Tensor:
        """(K, 3, h, w) to (K, C, rows, columns)."""
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = relu(norm(convolution(x)))
        x = avg_pool2d(x, 2)
        for block in self.blocks:
            x = block(x)
        return x


class ModifiedResNetTower(CropTower):
    """See ModifiedResNetEncoder."""

    config: ModifiedResNetEncoder

    def __init__(self, config: ModifiedResNetEncoder) -> None:
        super().__init__(config)
        self.tower = ModifiedResNet(config.depths, config.width)
        composite_weights.load(self.tower, config.checkpoint, ("visual.", ""), config.path, without=("attnpool.",))

    @property
    def layers(self) -> list[nn.Module]:
        """Bottlenecks in depth order."""
        return self.tower.blocks

    def forward(self, pictures: Pictures, read: Read) -> Features:
        """Features of the crops that are seen, (sum of counts, C)."""
        seen = self.seen(pictures, read)
        crops = stacked(seen.crops, self.config.path).to(self.tower.conv1.weight.dtype)
        return seen.features(self.tower(crops).flatten(2).transpose(1, 2).flatten(0, 1))


class AttentionPool(nn.Module):
    """One vector per crop: the mean of its tokens asks all of them and itself (section 2.4 of the paper). Under open_clip's names, `visual.attnpool.*`.

    `grid`: tokens of every crop, for which positions are learnt; `width`: E. As published, heads = channels / 64.
    """

    def __init__(self, channels: int, grid: Grid, heads: int, width: int) -> None:
        super().__init__()
        assert channels % heads == 0, f"{channels} channels for {heads} heads"
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1 + grid.count, channels) / channels**0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, width)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=channels**-0.5)

    def load(self, checkpoint: str | None, place: str) -> None:
        """Takes the published weights where they are at hand."""
        composite_weights.load(self, checkpoint, ("visual.attnpool.", "attnpool."), place)

    def forward(self, tokens: Tensor) -> Tensor:
        """(K, n, C) to (K, E). Raises Refused where n is not the grid's: model/pool-grid."""
        count = len(self.positional_embedding) - 1
        if tokens.shape[1] != count:
            raise Refused(
                Problem(
                    code="model/pool-grid",
                    place="attention pooling",
                    found=f"{tokens.shape[1]} tokens a crop",
                    allowed=f"{count}: its positions are learnt",
                    fix="use the crop size of the checkpoint",
                )
            )
        x = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.positional_embedding
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)))
        return self.c_proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1))
