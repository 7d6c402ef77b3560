"""DADA as a graph of plain ONNX operators, in NCHW; the weights carry the names of the authors' file.

The graph is that of `ahmf_jax.models.DADA` where all depth is known. The iterations are one Loop node.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ahmf_jax import diffusion, unet
from ahmf_jax.models import DADA
from ahmf_jax.models.dada import LOW, MEAN, STD
from ahmf_jax.onnx_graph.graph import Graph, Weighted

AXES = [1, 2, 3]  # of a sample
NETWORK = "feature_extractor.1"
END = np.iinfo(np.int64).max  # of an axis, wherever that is


class Network(Weighted):
    """DADA's parts; `weights` by their PyTorch names, none of a model that learns nothing."""

    model: DADA

    def norm(self, x: str, name: str) -> str:
        """The batch normalisation of that name, by the running statistics."""
        parts = [self.weight(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        return self.add("BatchNormalization", x, *parts, epsilon=unet.EPSILON)

    def enlarged(self, x: str, factor: int, mode: str, graph: Graph | None = None) -> str:
        """An image so many times as large: "cubic", as PyTorch has it, or "nearest"."""
        factors = self.tensor(f"times_{factor}", [1, 1, factor, factor])
        how: dict[str, Any] = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        if mode == "cubic":
            how = {"cubic_coeff_a": -0.75, "coordinate_transformation_mode": "half_pixel"}
        return (graph or self).add("Resize", x, "", factors, mode=mode, **how)

    def shrunk(self, x: str, factor: int, graph: Graph | None = None) -> str:
        """The means of blocks of pixels."""
        return (graph or self).add("AveragePool", x, kernel_shape=[factor] * 2, strides=[factor] * 2)

    def block(self, x: str, name: str, stride: int) -> str:
        """A residual block of the encoder (`unet.BasicBlock`, `unet.Bottleneck`)."""
        strides = [stride, 1] if self.model.encoder == "resnet18" else [1, stride, 1]
        y = x
        for i, step in enumerate(strides, 1):
            y = self.norm(self.conv(y, f"{name}.conv{i}", step), f"{name}.bn{i}")
            y = y if i == len(strides) else self.add("Relu", y)
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return self.add("Relu", self.add("Add", y, x))

    def unet(self, x: str) -> str:
        """`unet.UNet`."""
        name = f"{NETWORK}.encoder"
        x = self.add("Relu", self.norm(self.conv(x, f"{name}.conv1", 2), f"{name}.bn1"))
        found = [x]
        x = self.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        for layer, blocks in enumerate(unet.LAYERS[self.model.encoder], 1):
            for number in range(blocks):
                x = self.block(x, f"{name}.layer{layer}.{number}", 2 if layer > 1 and not number else 1)
            found.append(x)
        for number, skip in enumerate([*found[-2::-1], None]):
            x = self.enlarged(x, 2, "nearest")
            x = x if skip is None else self.add("Concat", x, skip, axis=1)
            for i in (1, 2):
                name = f"{NETWORK}.decoder.blocks.{number}.conv{i}"
                x = self.add("Relu", self.norm(self.conv(x, f"{name}.0"), f"{name}.1"))
        return self.conv(x, f"{NETWORK}.segmentation_head.0")

    def features(self, colours: str, begin: str) -> str:
        """Of every pixel."""
        if self.model.features == "rgb":
            return self.add("Concat", colours, begin, axis=1)
        centred = self.add("Sub", begin, self.add("ReduceMean", begin, axes=AXES))
        x = self.add("Concat", colours, centred, axis=1)
        size = self.add("Shape", x, start=2)
        missing = self.add("Mod", self.add("Neg", size), self.whole(self.model.stride))
        beyond = self.add("Concat", self.whole(0, 0, 0, 0, 0, 0), missing, axis=0)
        x = self.add("Pad", x, beyond, mode="edge")
        if self.model.enlarge > 1:
            x = self.enlarged(x, self.model.enlarge, "cubic")
        x = self.unet(x)
        if self.model.enlarge > 1:
            x = self.shrunk(x, self.model.enlarge)
        return self.add("Slice", x, self.whole(0, 0), size, self.whole(2, 3))

    def differences(self, graph: Graph, x: str, axis: int) -> str:
        """Of neighbours along an axis of an image, in a graph: what comes after less what comes before."""
        first, last, along = self.whole(0), self.whole(-1), self.whole(axis)
        after = graph.add("Slice", x, self.whole(1), self.whole(END), along)
        return graph.add("Sub", after, graph.add("Slice", x, first, last, along))

    def links(self, features: str) -> dict[int, str]:
        """`rate` times the coefficients along either axis."""
        if self.model.features == "rgb":
            contrast = self.tensor("contrast", self.model.contrast)
        else:
            contrast = self.add("Exp", self.weight("logk"))
        one, rate = self.tensor("one", 1), self.tensor("rate", self.model.rate)
        found = {}
        for axis in (2, 3):
            difference = self.add("ReduceMean", self.add("Abs", self.differences(self, features, axis)), axes=[1])
            part = self.add("Div", difference, contrast)
            found[axis] = self.add("Div", rate, self.add("Add", one, self.add("Mul", part, part)))
        return found

    def upsampled(self, depth_lr: str) -> str:
        """The depth, which the features are made from and the diffusion mostly begins with."""
        low, high = (self.add(f"Reduce{end}", depth_lr, axes=AXES) for end in ("Min", "Max"))
        enlarged = self.enlarged(depth_lr, self.model.scale, "cubic")
        return self.add("Min", self.add("Max", enlarged, low), high)

    def added(self, depth_lr: str) -> str:
        """What depth is raised by while it is diffused."""
        axes = AXES if self.model.shift == "sample" else [0, *AXES]
        low, limit = self.add("ReduceMin", depth_lr, axes=axes), self.tensor("low", LOW)
        return self.add("Where", self.add("LessOrEqual", low, limit), limit, self.tensor("zero", 0))

    def iteration(self, links: dict[int, str], source: str) -> onnx.GraphProto:
        """The body of the loop.

        What flows is added to the one pixel and taken from the other separately: summed up first, for one addition, it
        would be lost in the rounding sooner, and the result of thousands of iterations be several times as far off.
        """
        body = Graph("loop/")
        moved = "loop/before"
        for axis, link in links.items():
            flow = body.add("Mul", self.differences(body, "loop/before", axis), link)
            behind, before = ([int(place == at) for place in range(8)] for at in (4 + axis, axis))
            moved = body.add("Add", moved, body.add("Pad", flow, self.whole(*behind)))
            moved = body.add("Sub", moved, body.add("Pad", flow, self.whole(*before)))
        mean = body.add("Add", self.shrunk(moved, self.model.scale, body), self.tensor("epsilon", diffusion.EPSILON))
        ratio = self.enlarged(body.add("Div", source, mean), self.model.scale, "nearest", body)
        body.add("Mul", moved, ratio, to="loop/after")
        body.add("Identity", "loop/go", to="loop/on")

        def image(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "rows", "columns"])

        count = helper.make_tensor_value_info("loop/count", TensorProto.INT64, [])
        go, on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("loop/go", "loop/on"))
        return body.made("iteration", [count, go, image("loop/before")], [on, image("loop/after")])

    def diffuse(self, image: str, links: dict[int, str], source: str) -> str:
        """All iterations."""
        model = self.model
        count = model.iterations + (model.gradient_iterations if model.features == "learned" else 0)
        return self.add("Loop", self.whole(count), "", image, body=self.iteration(links, source))

    def super_resolve(self, depth_lr: str, guide: str) -> str:
        """The model, from depth as it sees it to depth of the same scale."""
        mean, std = (self.tensor(name, np.reshape(x, (3, 1, 1))) for name, x in (("mean", MEAN), ("std", STD)))
        colours = self.add("Div", self.add("Sub", guide, mean), std)
        deviation = self.tensor("deviation", self.model.deviation)
        depth_lr = self.add("Div", depth_lr, deviation)
        begin, added = self.upsampled(depth_lr), self.added(depth_lr)
        links = self.links(self.features(colours, begin))
        if self.model.initial == "constant":
            begin = self.add("Expand", self.tensor("one", 1), self.add("Shape", begin))
        image = self.diffuse(self.add("Add", begin, added), links, self.add("Add", depth_lr, added))
        return self.add("Mul", self.add("Sub", image, added), deviation)
