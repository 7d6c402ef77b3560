"""The U-Net on a ResNet as a PyTorch module, under the names of torchvision and segmentation-models-pytorch 0.2.

The twin of `ahmf_jax.unet`, (B, C, H, W).
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
DECODER = (256, 128, 64, 32, 16)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without a bias, that keeps the size or halves it."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block: 3x3 and 3x3 convolutions (ResNet-18), or 1x1, 3x3 and 1x1 to four times the width."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, outputs, 3), nn.BatchNorm2d(outputs)
        self.bottleneck, self.projects = bottleneck, stride != 1 or inputs != outputs
        if self.projects:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (self.downsample(x) if self.projects else x))


class ResNet(nn.Module):
    """The encoder: features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, `widths` channels each."""

    def __init__(self, encoder: str, inputs: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, 64, 7, 2), nn.BatchNorm2d(64)
        bottleneck = encoder == "resnet50"
        self.widths, layers = [64], []
        for i, count in enumerate(LAYERS[encoder]):
            width, blocks = 64 << i, []
            before, after = self.widths[-1], 4 * width if bottleneck else width
            for number in range(count):
                stride = 2 if i and not number else 1
                blocks.append(Block(after if number else before, width, stride, bottleneck))
            layers.append(nn.Sequential(*blocks))
            self.widths.append(after)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, x: Tensor) -> list[Tensor]:
        """Applies the network."""
        x = F.relu(self.bn1(self.conv1(x)))
        found = [x]
        x = F.max_pool2d(x, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            found.append(x := layer(x))
        return found


class DecoderBlock(nn.Module):
    """Twice as large, with the encoder's features beside it, then two convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Sequential(conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
        self.conv2 = nn.Sequential(conv(outputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Applies the block."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], 1)))


class Decoder(nn.Module):
    """Back to the size of the image, in 16 channels."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        skips = [*widths[-2::-1], 0]
        inputs = [below + skip for below, skip in zip([widths[-1], *DECODER[:-1]], skips, strict=True)]
        self.blocks = nn.ModuleList(DecoderBlock(*sizes) for sizes in zip(inputs, DECODER, strict=True))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Applies the blocks to what the encoder gave."""
        x, *skips = features[::-1]
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip)
        return x


class UNet(nn.Module):
    """Images (B, inputs, H, W), the sizes multiples of 32, to features (B, channels, H, W).

    The weights start as those of the Flax model, by other random numbers.
    """

    def __init__(self, channels: int = 64, encoder: str = "resnet50", inputs: int = 4):
        super().__init__()
        self.encoder = ResNet(encoder, inputs)
        self.decoder = Decoder(self.encoder.widths)
        head = nn.Conv2d(DECODER[-1], channels, 3, padding=1)
        self.segmentation_head = nn.Sequential(head)
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.xavier_uniform_(head.weight)
        nn.init.zeros_(cast(Tensor, head.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the network."""
        return self.segmentation_head(self.decoder(self.encoder(x)))
