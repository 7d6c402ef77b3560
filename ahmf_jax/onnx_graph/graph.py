"""A graph of ONNX nodes that grows as operators are added to it. Needs the package onnx."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Graph:
    """Nodes in the order in which they are added, and the tensors that they read.

    Of a graph inside another (a loop's body) the names begin with `prefix`, as the two share their names.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """The output of a new node."""
        name = to or f"{self.prefix}{operator}_{len(self.nodes)}"
        return self.split(operator, *inputs, to=(name,), **attributes)[0]

    def split(self, operator: str, *inputs: str, to: Sequence[str], **attributes: Any) -> Sequence[str]:
        """The outputs of a new node that has several."""
        self.nodes.append(helper.make_node(operator, inputs, to, name=to[0], **attributes))
        return to

    def tensor(self, name: str, value: Any) -> str:
        """A constant, float32."""
        self.tensors[name] = np.array(value, np.float32, order="C")
        return name

    def whole(self, *values: int) -> str:
        """A constant list of whole numbers, int64."""
        name = f"whole_{'_'.join(map(str, values))}"
        self.tensors[name] = np.array(values, np.int64)
        return name

    def made(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """The graph."""
        tensors = [numpy_helper.from_array(value, name) for name, value in self.tensors.items()]
        return helper.make_graph(self.nodes, name, inputs, outputs, tensors)


class Weighted(Graph):
    """A model's parts; `weights` by their PyTorch names, kernels (out, in, k, k)."""

    def __init__(self, model: Any, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def weight(self, name: str) -> str:
        """The tensor of that name."""
        return self.tensor(name, self.weights[name])

    def conv(self, x: str, name: str, stride: int = 1) -> str:
        """The convolution of that name, with a bias if it has one."""
        k = self.weights[f"{name}.weight"].shape[-1]
        tensors = (self.weight(f"{name}.{part}") for part in ("weight", "bias") if f"{name}.{part}" in self.weights)
        return self.add("Conv", x, *tensors, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride] * 2)

    def bilinear(self, x: str, factor: int) -> str:
        """An image so many times as large."""
        factors = self.tensor(f"times_{factor}", [1, 1, factor, factor])
        return self.add("Resize", x, "", factors, mode="linear", coordinate_transformation_mode="half_pixel")
