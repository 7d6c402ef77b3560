"""AHMF as a graph of plain ONNX operators, in NCHW; the weights carry the names of the authors' file.

The graph is that of `ahmf_jax.models.AHMF`. Pixel-unshuffle is SpaceToDepth, whose order of channels is another, so the
kernels behind it are permuted.
"""

from typing import Any

import numpy as np

from ahmf_jax import torch_weights
from ahmf_jax.onnx_graph.graph import Graph
from ahmf_jax.variants import GRU_LAYERS


class Network(Graph):
    """AHMF's blocks; `weights` by their PyTorch names, kernels (out, in, k, k)."""

    def __init__(self, model: Any, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.model, self.weights, self.forms = model, weights, model.forms

    def conv_by(self, x: str, name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> str:
        """A convolution that keeps the image's size."""
        inputs = [x, self.tensor(f"{name}.weight", kernel)]
        if bias is not None:
            inputs.append(self.tensor(f"{name}.bias", bias))
        k = kernel.shape[-1]
        return self.add("Conv", *inputs, kernel_shape=[k, k], pads=[k // 2] * 4)

    def conv(self, x: str, name: str) -> str:
        """The convolution of that name."""
        return self.conv_by(x, name, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def prelu(self, x: str, name: str) -> str:
        """The PReLU of that name."""
        return self.add("PRelu", x, self.tensor(f"{name}.weight", self.weights[f"{name}.weight"]))

    def conv_prelu(self, x: str, name: str) -> str:
        """Both, as the authors name them where they are one block."""
        return self.prelu(self.conv(x, f"{name}.layers"), f"{name}.act")

    def unshuffle_conv(self, x: str, name: str) -> str:
        """Pixel-unshuffle by 2, then the convolution of that name."""
        kernel = self.weights[f"{name}.weight"]
        outputs, inputs, k, _ = kernel.shape
        # From (c, dy, dx), c slowest, to (dy, dx, c).
        kernel = kernel.reshape(outputs, inputs // 4, 2, 2, k, k).transpose(0, 2, 3, 1, 4, 5).reshape(kernel.shape)
        return self.conv_by(self.add("SpaceToDepth", x, blocksize=2), name, kernel, self.weights[f"{name}.bias"])

    def conv_shuffle(self, x: str, name: str) -> str:
        """The convolution of that name, then pixel-shuffle by 2."""
        return self.add("DepthToSpace", self.conv(x, name), blocksize=2, mode="CRD")

    def residual(self, x: str, name: str) -> str:
        """Res of Eq. 17."""
        y = self.conv(self.conv_prelu(x, f"{name}.layers.0"), f"{name}.layers.1.layers")
        y = self.add("Add", x, y)
        return self.prelu(y, f"{name}.act") if self.forms("activation") == "release" else y

    def depth_head(self, depth_lr: str) -> str:
        """The depth's features of level 1 (Eq. 2)."""
        return self.prelu(self.conv(depth_lr, "head.depth_in.0"), "head.depth_in.1")

    def guide_head(self, x: str) -> str:
        """The guide's features of level 1, at the depth's resolution (Eq. 1, 3)."""
        stages = torch_weights.stages(self.model)
        if self.forms("guidance_head") == "release":
            x = self.prelu(self.conv(x, "head.guidance_in.0"), "head.guidance_in.1")
            for i in range(stages):
                x = self.unshuffle_conv(x, f"head.guidance_in.2.{3 * i + 1}")
                x = self.prelu(x, f"head.guidance_in.2.{3 * i + 2}")
            return x
        for i in range(stages - 1):
            x = self.unshuffle_conv(x, f"head.guidance_in.0.{3 * i + 1}")
            x = self.prelu(x, f"head.guidance_in.0.{3 * i + 2}")
        return self.prelu(self.unshuffle_conv(x, "head.guidance_in.1"), "head.guidance_in.2")

    def enhance(self, x: str, name: str) -> str:
        """FEB (Eq. 10, 11)."""
        gate = self.add("Sigmoid", self.conv(x, f"{name}.Attention.0"))
        return self.add("Mul", self.prelu(self.conv(x, f"{name}.Feature.0"), f"{name}.Feature.1"), gate)

    def recalibrate(self, depth: str, guide: str, name: str) -> str:
        """FRB (Eq. 12-16)."""
        joint = self.conv_prelu(self.add("Concat", depth, guide, axis=1), f"{name}.squeeze")
        mean = self.add("ReduceMean", joint, axes=[2, 3])
        away = self.add("Sub", joint, mean)
        spread = self.add("ReduceMean", self.add("Mul", away, away), axes=[2, 3])
        if self.forms("statistics") == "paper":
            spread = self.add("Sqrt", self.add("Add", spread, self.tensor("variance_floor", 1e-12)))
        pooled = self.add("Add", mean, spread)
        weighted = []
        for x, block in ((depth, "excitation1"), (guide, "excitation2")):
            excitation = self.conv(pooled, f"{name}.{block}.layers")
            if self.forms("excitation") == "release":
                excitation = self.add("Sigmoid", excitation)
            else:
                excitation = self.prelu(excitation, f"{name}.{block}.act")
            if self.forms("halving") == "release":
                excitation = self.add("Mul", excitation, self.tensor("half", 0.5))
            weighted.append(self.add("Mul", excitation, x))
        return self.add("Add", *weighted)

    def fuse(self, depth: str, guide: str, name: str) -> str:
        """MMAF of one level (section IV)."""
        if self.model.fusion in ("feb_frb", "feb"):
            depth, guide = self.enhance(depth, f"{name}.filter_conv1"), self.enhance(guide, f"{name}.filter_conv")
        if self.model.fusion in ("feb_frb", "frb"):
            fused = self.recalibrate(depth, guide, f"{name}.attention_layer")
        else:
            fused = self.conv(self.add("Concat", depth, guide, axis=1), f"{name}.reduce_conv.layers")
        return self.residual(fused, f"{name}.res_conv") if self.forms("residual") == "release" else fused

    def recur(self, levels: list[str], name: str) -> list[str]:
        """A ConvGRU over the levels from the zero state (Eq. 18-21), in two halves as `models.ahmf.ConvGRUCell`."""
        f = self.model.features
        for layer in range(GRU_LAYERS[self.forms("gru_layers")]):
            cell = f"{name}.cell_list.{layer}"
            gates = [f"{cell}.{gate}_gate" for gate in ("update", "reset", "out")]
            kernels = [self.weights[f"{gate}.weight"] for gate in gates]
            of_input = np.concatenate([kernel[:, :f] for kernel in kernels])
            bias = np.concatenate([self.weights[f"{gate}.bias"] for gate in gates])
            of_state = np.concatenate([kernel[:, f:] for kernel in kernels[:2]])
            states: list[str] = []
            for i, x in enumerate(levels):
                here = f"{cell}/{i}"
                projected = self.conv_by(x, f"{cell}.input", of_input, bias)
                names = [f"{here}/input_{gate}" for gate in ("update", "reset", "out")]
                update, reset, out = self.split("Split", projected, to=names, axis=1)
                if not states:
                    states.append(self.add("Mul", self.add("Sigmoid", update), self.add("Tanh", out)))
                    continue
                h = states[-1]
                names = [f"{here}/state_{gate}" for gate in ("update", "reset")]
                h_update, h_reset = self.split("Split", self.conv_by(h, f"{cell}.state", of_state), to=names, axis=1)
                z = self.add("Sigmoid", self.add("Add", update, h_update))
                r = self.add("Sigmoid", self.add("Add", reset, h_reset))
                h_out = self.conv_by(self.add("Mul", r, h), f"{cell}.reset_state", kernels[2][:, f:])
                c = self.add("Tanh", self.add("Add", out, h_out))
                states.append(self.add("Add", h, self.add("Mul", z, self.add("Sub", c, h))))
            levels = states
        return levels

    def reconstruct(self, refined: list[str]) -> str:
        """From the refined features of all levels to the residual (Eq. 8)."""
        stages = torch_weights.stages(self.model)
        x = self.conv(self.add("Concat", *refined, axis=1), "up_conv.0.layers")
        release = self.forms("reconstruction") == "release"
        x = self.prelu(x, "up_conv.0.act") if release else x
        for i in range(stages if release else stages - 1):
            x = self.prelu(self.conv_shuffle(x, f"up_conv.{3 * i + 1}"), f"up_conv.{3 * i + 3}")
        if release:
            return self.conv(x, f"up_conv.{3 * stages + 1}.layers")
        return self.conv_shuffle(x, f"up_conv.{3 * stages - 2}")

    def super_resolve(self, depth_lr: str, guide: str) -> str:
        """The network, from depth as it sees it to depth of the same scale."""
        model = self.model
        levels = [(self.depth_head(depth_lr), self.guide_head(guide))]
        for i in range(model.num_levels - 1):
            depth, colour = levels[-1]
            levels.append((self.conv_prelu(depth, f"depth_conv.{i}"), self.conv_prelu(colour, f"rgb_conv.{i}")))
        levels = [levels[level - 1] for level in model.level_order]
        fused = [self.fuse(*level, f"fuse_conv.{i}") for i, level in enumerate(levels)]
        directions = []
        if model.recurrence in ("both", "forward"):
            directions.append(self.recur(fused, "forward_gru_cell"))
        if model.recurrence in ("both", "backward"):
            directions.append(self.recur(fused[::-1], "reverse_gru_cell")[::-1])
        if len(directions) == 2:
            directions = [[self.add("Add", *pair) for pair in zip(*directions, strict=True)]]
        states = directions[0] if directions else fused
        residual = self.reconstruct([self.residual(x, f"compress_out.{i}.layers") for i, x in enumerate(states)])
        factor = self.tensor("resize_scales", [1, 1, model.scale, model.scale])
        bicubic = self.add(
            "Resize",
            depth_lr,
            "",
            factor,
            mode="cubic",
            cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )
        return self.add("Add", bicubic, residual)
