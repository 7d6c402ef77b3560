"""A trained model as an ONNX graph of plain operators, made from the weights alone. Needs the package onnx."""

from typing import Any

import onnx
from onnx import TensorProto, helper

import ahmf_jax
from ahmf_jax import torch_weights
from ahmf_jax.export import Trained, bundle_header, check_portable
from ahmf_jax.models import name_of
from ahmf_jax.onnx_graph import ahmf, dada, dscsan, dsdmsr
from ahmf_jax.onnx_graph.graph import Graph
from ahmf_jax.scaling import MIN_SPAN, TINY

OPSET = 17
IR_VERSION = 8  # the first that holds it: older runtimes read it too


def build(trained: Trained) -> onnx.ModelProto:
    """The graph, checked by onnx; what is known of the weights is in its `metadata_props`.

    Inputs `depth_lr` (batch, 1, height, width), in the model's unit, holes filled, and `guide` (batch, C,
    scale * height, scale * width) in [0, 1], if the model reads one; output `depth` (batch, 1, scale * height,
    scale * width) in that unit. All float32; batch, height and width are free. A DADA does all its iterations, as
    `export.plain` has it.

    Raises:
      InputError: `export.check_portable`.
    """
    check_portable(trained)
    model = trained.model
    weights = torch_weights.to_torch(model, trained.params) if trained.params else {}
    networks = {"ahmf": ahmf.Network, "dada": dada.Network, "dsdmsr": dsdmsr.Network, "dscsan": dscsan.Network}
    net: Any = networks[name_of(model)](model, weights)
    full = net.tensor("range", trained.range)
    depth = net.add("Div", "depth_lr", full)
    offset, span = _offset_and_span(net, depth, trained)
    if offset:
        depth = net.add("Sub", depth, offset)
    if span:
        depth = net.add("Div", depth, span)
    guide = ["guide"] if trained.guide_channels else []
    output = net.super_resolve(depth, *guide)
    if span:
        output = net.add("Mul", output, span)
    if offset:
        output = net.add("Add", output, offset)
    net.add("Mul", output, full, to="depth")

    def image(name: str, channels: int, factor: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch", channels, f"{factor}height", f"{factor}width"]
        )

    scale = f"{model.scale}*"
    inputs = [image("depth_lr", 1, ""), *(image(name, trained.guide_channels, scale) for name in guide)]
    made = helper.make_model(
        net.made(name_of(model), inputs, [image("depth", 1, scale)]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ahmf-jax",
        producer_version=ahmf_jax.__version__,
    )
    helper.set_model_props(made, bundle_header(trained))
    onnx.checker.check_model(made, full_check=True)
    return made


def _offset_and_span(net: Graph, depth: str, trained: Trained) -> tuple[str, str]:
    """`scaling.offset_and_span` of depth that is known everywhere; "" for 0 and for 1."""
    if trained.scaling == "range":
        return "", ""
    high = net.add("ReduceMax", depth, axes=[1, 2, 3])
    if trained.scaling == "largest":
        return "", net.add("Max", high, net.tensor("tiny", TINY))
    low = net.add("ReduceMin", depth, axes=[1, 2, 3])
    return low, net.add("Max", net.add("Sub", high, low), net.tensor("min_span", MIN_SPAN))
