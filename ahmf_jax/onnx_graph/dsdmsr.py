"""DSDMSR as a graph of plain ONNX operators, in NCHW; the weights carry the names of the published implementation's.

The graph is that of `ahmf_jax.models.DSDMSR`.
"""

from ahmf_jax.models import DSDMSR
from ahmf_jax.models.dsdmsr import UNITS
from ahmf_jax.onnx_graph.graph import Weighted
from ahmf_jax.torch_weights import dsdmsr


class Network(Weighted):
    """DSDMSR's parts; `weights` by their PyTorch names."""

    model: DSDMSR

    def unit(self, x: str, name: str) -> str:
        """The unit of that name."""
        kernels = [row.torch for row in dsdmsr.dcnn(self.model.unit, name, "") if row.kind == "conv"]
        y = x
        for i, kernel in enumerate(kernels, 1):
            y = self.conv(y, kernel.removesuffix(".weight"))
            y = y if i == len(kernels) else self.add("Relu", y)
        return self.add("Add", x, y) if UNITS[self.model.unit].skip else y

    def stage(self, x: str, factor: int) -> str:
        """The four views of an image twice as large, in their places."""
        views = [self.unit(x, f"dcnn_unit_{row}_{column}_x{factor}") for row, column in dsdmsr.VIEWS]
        return self.add("DepthToSpace", self.add("Concat", *views, axis=1), blocksize=2)

    def super_resolve(self, depth_lr: str) -> str:
        """The model, from depth as it sees it to depth of the same scale."""
        maps = {1: depth_lr}  # by the factor that they are enlarged by
        for step in range(1, self.model.steps + 1):
            maps[2**step] = self.stage(maps[2 ** (step - 1)], 2**step)
        if self.model.fusion == "code":
            del maps[1]
        *coarser, fused = maps
        total = maps[fused]
        for factor in coarser:
            total = self.add("Add", total, self.bilinear(maps[factor], self.model.scale // factor))
        if self.model.combine == "mean":
            total = self.add("Div", total, self.tensor("maps", len(maps)))
        return self.unit(total, dsdmsr.FUSION)
