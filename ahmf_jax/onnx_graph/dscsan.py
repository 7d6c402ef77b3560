"""DSCSAN as a graph of plain ONNX operators, in NCHW; the weights carry the names of `torch_modules.DSCSAN`.

The graph is that of `ahmf_jax.models.DSCSAN`.
"""

from collections.abc import Sequence

import numpy as np

from ahmf_jax import resample
from ahmf_jax.covariance import ITERATIONS, TINY_TRACE
from ahmf_jax.models import DSCSAN
from ahmf_jax.models.dscsan import CELLS
from ahmf_jax.onnx_graph.graph import Weighted


class Network(Weighted):
    """DSCSAN's parts."""

    model: DSCSAN

    def relu_conv(self, x: str, name: str) -> str:
        """The convolution of that name, then a ReLU."""
        return self.add("Relu", self.conv(x, name))

    def gate(self, described: str, squeeze: str, excite: str) -> str:
        """Weights from 0 to 1, of descriptions (batch, n, 1, 1)."""
        return self.add("Sigmoid", self.conv(self.relu_conv(described, squeeze), excite))

    def block(self, x: str, name: str) -> str:
        """The residual block of that name."""
        y = self.relu_conv(x, f"{name}.conv_1")
        if self.model.block == "brb":
            inner = self.conv(self.relu_conv(y, f"{name}.widen"), f"{name}.narrow")
            y = self.conv(self.add("Add", y, inner), f"{name}.conv_2")
        else:
            y = self.conv(y, f"{name}.conv_2")
            y = self.add("Mul", self.gate(self.add("GlobalAveragePool", y), f"{name}.squeeze", f"{name}.excite"), y)
        return self.add("Add", x, y)

    def pooled(self, x: str, cell: int) -> str:
        """Averages over cells, of which those at the border are averaged over what of them is there."""
        if cell == 1:
            return x
        sides = [cell, cell]
        return self.add("AveragePool", x, kernel_shape=sides, strides=sides, ceil_mode=1, count_include_pad=0)

    def attention(self, x: str, name: str) -> str:
        """The cross-scale attention of that name."""
        maps = [self.relu_conv(self.pooled(x, cell), f"{name}.scale.{k}") for k, cell in enumerate(CELLS)]
        size = self.add("Shape", x, start=2)
        weighed = []
        for k, row in enumerate(self.correlations(maps)):
            means = [self.add("ReduceMean", matrix, axes=[2]) for matrix in row]
            described = self.add("Unsqueeze", self.add("Concat", *means, axis=1), self.whole(3))
            gate = self.gate(described, f"{name}.squeeze.{k}", f"{name}.excite.{k}")
            image = self.add("Mul", gate, maps[k])
            if CELLS[k] > 1:
                image = self.bilinear(image, CELLS[k])
                image = self.add("Slice", image, self.whole(0, 0), size, self.whole(2, 3))
            weighed.append(image)
        return self.add("Add", x, self.conv(self.add("Concat", *weighed, axis=1), f"{name}.merge"))

    def correlations(self, maps: Sequence[str]) -> list[list[str]]:
        """`covariance.correlations` of maps on the grids of `CELLS`, (batch, c, c) each."""
        scales = range(len(CELLS))
        covariances = {
            (k, m): self.covariance(self.pooled(maps[k], CELLS[m] // CELLS[k]), maps[m])
            for k in scales
            for m in scales
            if k <= m
        }
        traces = [self.trace(covariances[k, k]) for k in scales]
        found = {(k, k): self.square_root(covariances[k, k], traces[k]) for k in scales}
        for (k, m), matrix in covariances.items():
            if k < m:
                found[k, m] = self.add("Div", matrix, self.add("Sqrt", self.add("Mul", traces[k], traces[m])))
                found[m, k] = self.transposed(found[k, m])
        return [[found[k, m] for m in scales] for k in scales]

    def covariance(self, a: str, b: str) -> str:
        """Of the channels of two maps of one size."""
        a, b = (self.add("Reshape", x, self.whole(0, 0, -1)) for x in (a, b))
        count = self.add("CastLike", self.add("Shape", a, start=2), a)
        a, b = (self.add("Sub", x, self.add("ReduceMean", x, axes=[2])) for x in (a, b))
        return self.add("Div", self.add("MatMul", a, self.transposed(b)), count)

    def transposed(self, matrix: str) -> str:
        """Of every sample."""
        return self.add("Transpose", matrix, perm=[0, 2, 1])

    def trace(self, matrix: str) -> str:
        """What is divided by, (batch, 1, 1)."""
        diagonal = self.add("Mul", matrix, self.identity())
        return self.add("Add", self.add("ReduceSum", diagonal, self.whole(1, 2)), self.tensor("tiny_trace", TINY_TRACE))

    def identity(self, times: int = 1) -> str:
        """So many times the identity, of as many rows as a scale has channels."""
        return self.tensor(f"identity_{times}", times * np.eye(self.model.features // 2))

    def square_root(self, matrix: str, trace: str) -> str:
        """`covariance.square_root`."""
        y, z = self.add("Div", matrix, trace), self.identity()
        thrice, half = self.identity(3), self.tensor("half", 0.5)
        for _ in range(ITERATIONS):
            step = self.add("Mul", self.add("Sub", thrice, self.add("MatMul", z, y)), half)
            y, z = self.add("MatMul", y, step), self.add("MatMul", step, z)
        return self.add("Mul", y, self.add("Sqrt", trace))

    def body(self, x: str, name: str) -> str:
        """The groups of a stage."""
        y = x
        for g in range(self.model.groups):
            group = f"{name}.groups.{g}"
            z = y
            for b in range(self.model.blocks):
                z = self.block(z, f"{group}.blocks.{b}")
            if self.model.attention:
                z = self.attention(z, f"{group}.attention")
            y = self.add("Add", y, self.conv(z, f"{group}.conv"))
        return self.add("Add", x, self.conv(y, f"{name}.conv"))

    def doubled(self, depth: str) -> str:
        """Depth at twice its size by MATLAB's bicubic, which mirrors the image about its edges."""
        for axis in (2, 3):
            size = self.add("Shape", depth, start=axis, end=axis + 1)
            last = self.add("Sub", size, self.whole(1))
            # An axis of one sample is that sample, mirrored again and again.
            before = self.add("Min", self.whole(1, 0), last)
            after = self.add("Max", self.add("Sub", size, self.whole(1, 2)), self.whole(0))
            above, below = (self.add("Gather", depth, places, axis=axis) for places in (before, after))
            depth = self.add("Concat", above, depth, below, axis=axis)
        # Of a pixel in the middle of an axis: what the two pixels in its place are made of.
        weights = resample.matrix(5, 10, "matlab_bicubic")[4:6]
        kernels = np.einsum("yi,xj->yxij", weights, weights).reshape(4, 1, 5, 5)
        made = self.add("Conv", depth, self.tensor("bicubic", kernels), kernel_shape=[5, 5])
        return self.add("DepthToSpace", made, blocksize=2)

    def super_resolve(self, depth_lr: str) -> str:
        """The model, from depth as it sees it to depth of the same scale."""
        model = self.model
        doublings = model.steps // model.outputs  # of a stage
        depth, x = depth_lr, self.conv(depth_lr, "input")
        for stage in range(model.outputs):
            x = self.body(x, f"body.{stage}")
            for doubling in range(doublings):
                x = self.conv(x, f"up.{stage * doublings + doubling}")
                x = self.add("DepthToSpace", x, blocksize=2, mode="CRD")
                depth = self.doubled(depth) if model.interpolated else depth
            made = self.conv(x, f"output.{stage}")
            depth = self.add("Add", depth, made) if model.interpolated else made
        return depth
