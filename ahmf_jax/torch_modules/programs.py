"""A trained model as a PyTorch module, and as a program that takes depth in its unit."""

import inspect
import io
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from ahmf_jax import torch_weights
from ahmf_jax.errors import InputError
from ahmf_jax.torch_modules.ahmf import AHMF
from ahmf_jax.torch_modules.dada import DADA
from ahmf_jax.torch_modules.dscsan import DSCSAN
from ahmf_jax.torch_modules.dsdmsr import DSDMSR

if TYPE_CHECKING:
    from ahmf_jax.models import Model


def network(model: "Model", weights: Mapping[str, Any]) -> nn.Module:
    """The twin of a model with its weights, in evaluation, NCHW: `network(depth_lr, guide) -> depth_hr`.

    Of a DADA always the plain loop of all iterations, as `export.plain` has it.

    Raises:
      InputError: the weights are not the model's, or it has no twin (a DADA that begins with `griddata`).
    """
    from ahmf_jax.export import guide_channels, model_fields
    from ahmf_jax.models import name_of

    cls = {"ahmf": AHMF, "dada": DADA, "dsdmsr": DSDMSR, "dscsan": DSCSAN}[name_of(model)]
    taken = inspect.signature(cls).parameters
    fields = {name: value for name, value in model_fields(model).items() if name in taken}
    if "guide_channels" in taken:
        fields["guide_channels"] = guide_channels(weights)
    net = cls(**fields)
    if weights:  # a DADA that learns nothing has none
        arrays = torch_weights.to_torch(model, weights)
        net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return net.eval()


class InUnits(nn.Module):
    """A network for depth in its unit: division by the range, and then as the network was trained to see depth.

    Args:
      network: the trained model.
      depth_range: the depth that it takes for 1.
      scaling: "range", "sample" or "largest", see `ahmf_jax.scaling`, of depth without holes.

    Raises:
      InputError: another scaling, which the program could not apply.
    """

    def __init__(self, network: nn.Module, depth_range: float, scaling: str):
        super().__init__()
        from ahmf_jax.scaling import MIN_SPAN, TINY

        if scaling not in ("range", "sample", "largest"):
            raise InputError(f"scaling {scaling!r} cannot be in a program: it must be range, sample or largest")
        self.network, self.depth_range, self.scaling = network, depth_range, scaling
        self.min_span = TINY if scaling == "largest" else MIN_SPAN

    def forward(self, depth_lr: Tensor, guide: Tensor | None = None) -> Tensor:
        """Depth (B, 1, h, w), holes filled, guide (B, C, scale h, scale w) in [0, 1] -> (B, 1, scale h, scale w).

        A network that reads no guide needs none.
        """
        depth = depth_lr / self.depth_range
        if self.scaling == "range":
            return self.network(depth, guide) * self.depth_range
        span = depth.amax((1, 2, 3), keepdim=True)
        low = torch.zeros_like(span)
        if self.scaling == "sample":
            low = depth.amin((1, 2, 3), keepdim=True)
        span = (span - low).clamp(min=self.min_span)
        return (self.network((depth - low) / span, guide) * span + low) * self.depth_range


def serialize(module: InUnits, scale: int, guide_channels: int) -> bytes:
    """The module as a `.pt2` file, in which batch, height and width are free.

    `torch.export.load(file).module()(depth_lr, guide)` runs it, with torch alone; without channels there is no guide.
    """
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    # Any sizes above 1, which stands for itself, and all different: also those that a U-Net pads the guide to.
    rows, columns = 3 + 64 // scale, 5 + 128 // scale
    free = {"depth_lr": {0: batch, 2: height, 3: width}}
    example = {"depth_lr": torch.zeros(2, 1, rows, columns)}
    if guide_channels:
        free["guide"] = {0: batch, 2: scale * height, 3: scale * width}
        example["guide"] = torch.zeros(2, guide_channels, rows * scale, columns * scale)
    # A padded size is a whole number of times the U-Net's, and an attention's map has a whole number of cells: whether
    # that number is 1 must not be decided here, and that they are no smaller than the size itself is more than the
    # exporter can prove.
    divides = isinstance(module.network, DADA | DSCSAN)
    with fx_config.patch(backed_size_oblivious=divides):  # type: ignore[attr-defined]  # installed as the module is made
        program = torch.export.export(
            module.requires_grad_(False).eval(),
            tuple(example.values()),
            dynamic_shapes=free,
            prefer_deferred_runtime_asserts_over_guards=divides,
        )
    write_sums_out(program.graph_module)
    data = io.BytesIO()
    torch.export.save(program, data)
    return data.getvalue()


def write_sums_out(program: torch.fx.GraphModule) -> None:
    """Replaces sums of sizes by additions of two: `torch.export.save` does not know the former (PyTorch 2.13)."""
    for graph in (part.graph for part in program.modules() if isinstance(part, torch.fx.GraphModule)):
        for node in graph.find_nodes(op="call_function", target=torch.sym_sum):
            total, *rest = node.args[0]
            with graph.inserting_before(node):
                for term in rest:
                    values = (x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in (total, term))
                    total = graph.call_function(operator.add, (total, term))
                    total.meta["val"] = operator.add(*values)
            node.replace_all_uses_with(total)
            graph.erase_node(node)
