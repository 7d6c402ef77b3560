"""The ONNX graph against the model, in onnxruntime: every variant, ablation and scale, any sizes."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from ahmf_jax import InputError, __version__, onnx_graph  # noqa: E402  # needs onnx
from ahmf_jax.variants import PARTS, VARIANTS  # noqa: E402
from tests.exports import RANGE, dada, dscsan, dsdmsr, images, narrow_unet, super_resolved, trained  # noqa: E402


@pytest.fixture(autouse=True)
def quick_compiles() -> Iterator[None]:
    """Half the time to compile, which is what these tests spend theirs on."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def session(model: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def difference(found: Any, runtime: Any, depth: Any, guide: Any) -> float:
    """The largest, in units of the range."""
    feed = {"depth_lr": np.moveaxis(depth, -1, 1)}
    if guide.shape[-1]:
        feed["guide"] = np.moveaxis(guide, -1, 1)
    depth_hr = np.moveaxis(runtime.run(None, feed)[0], 1, -1)
    wanted = super_resolved(found, depth, guide)
    assert depth_hr.shape == wanted.shape
    return np.abs(depth_hr - wanted).max() / RANGE


# Every fusion, recurrence and scale with either variant; m = 1, and levels enough that their order counts.
CASES = [
    ("release", 2, "concat", "none", 1),
    ("release", 4, "feb_frb", "both", 3),
    ("release", 8, "feb", "forward", 2),
    ("release", 16, "frb", "backward", 1),
    ("paper", 4, "concat", "backward", 3),
    ("paper", 2, "feb_frb", "both", 2),
    ("paper", 8, "frb", "none", 1),
    ("paper", 32, "feb", "forward", 1),
]


@pytest.mark.parametrize(("variant", "scale", "fusion", "recurrence", "levels"), CASES)
def test_the_graph_computes_what_the_model_does(
    variant: Any, scale: int, fusion: Any, recurrence: Any, levels: int
) -> None:
    found = trained(variant=variant, scale=scale, fusion=fusion, recurrence=recurrence, num_levels=levels)
    assert difference(found, session(onnx_graph.build(found)), *images(found, 2, 3, 2)) <= 1e-5


@pytest.mark.parametrize(("part", "variant"), list(zip(PARTS, itertools.cycle(VARIANTS))))  # the parity tests have both
def test_the_graph_of_a_network_with_a_part_swapped(variant: Any, part: Any) -> None:
    found = trained(variant=variant, scale=2, swapped=(part,))
    assert difference(found, session(onnx_graph.build(found)), *images(found, 2, 3, 2)) <= 1e-5


def test_any_sizes_channels_and_the_samples_own_span() -> None:
    found = trained("sample", guide_channels=1, num_levels=1, recurrence="none")
    runtime = session(onnx_graph.build(found))
    for size in ((2, 3, 5), (1, 1, 1), (3, 6, 2)):
        assert difference(found, runtime, *images(found, *size, 1)) <= 1e-5


@pytest.mark.parametrize(
    ("scaling", "fields"),
    [
        ("largest", {"features": "rgb", "scale": 8}),
        ("range", {"features": "rgb", "scale": 2, "shift": "batch", "initial": "constant", "deviation": 0.2}),
        ("sample", {}),
        ("largest", {"encoder": "resnet50", "enlarge": 1, "shift": "batch", "scale": 16}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values())),
)
def test_dada_of_any_size(scaling: Any, fields: Any) -> None:
    """Sizes that are no multiples of what the network needs, and depth low enough to be raised in one image of two."""
    with narrow_unet():
        found = dada(scaling, **fields)
        runtime = session(onnx_graph.build(found))
        for size in ((2, 3, 5), (1, 1, 1)):
            depth, guide = images(found, *size)
            depth[0, 0, 0] = 0.1 if found.model.deviation == 1 else 0.02  # type: ignore[attr-defined]
            assert difference(found, runtime, depth, guide) <= 1e-5


@pytest.mark.parametrize(
    ("scaling", "scale", "unit", "fusion", "combine"),
    [
        ("sample", 8, "srcnn", "figure", "sum"),
        ("range", 2, "srcnn", "code", "sum"),
        ("range", 4, "vdsr", "code", "mean"),
    ],
)
def test_depth_without_a_guide(scaling: Any, scale: int, unit: Any, fusion: Any, combine: Any) -> None:
    found = dsdmsr(scaling, scale=scale, unit=unit, fusion=fusion, combine=combine)
    runtime = session(onnx_graph.build(found))
    assert [(x.name, x.shape) for x in (*runtime.get_inputs(), *runtime.get_outputs())] == [
        ("depth_lr", ["batch", 1, "height", "width"]),
        ("depth", ["batch", 1, f"{scale}*height", f"{scale}*width"]),
    ]
    for size in ((2, 3, 5), (1, 1, 1)):
        assert difference(found, runtime, *images(found, *size, 0)) <= 1e-5


@pytest.mark.parametrize(
    ("scaling", "fields"),
    [
        ("sample", {"scale": 4, "groups": 2}),
        ("range", {"scale": 8, "block": "rcab", "progressive": False, "interpolated": False}),
    ],
    ids=["C5", "C2"],
)
def test_dscsan_of_any_size(scaling: Any, fields: Any) -> None:
    """Cells of the attention that are full and that are not, and an image that is mirrored again and again."""
    found = dscsan(scaling, **fields)
    runtime = session(onnx_graph.build(found))
    for size in ((2, 3, 5), (1, 1, 1)):
        assert difference(found, runtime, *images(found, *size, 0)) <= 1e-5


def test_largest_is_for_any_unit() -> None:
    found = dada("largest", features="rgb")
    depth, guide = images(found, 1, 2, 3)
    assert 1e6 * difference(found, session(onnx_graph.build(found)), depth / np.float32(1e6), guide) <= 1e-5


def test_depth_of_zeros_is_not_divided_by_them() -> None:
    found = dada("largest", features="rgb")
    depth, guide = images(found, 1, 2, 3)
    assert difference(found, session(onnx_graph.build(found)), 0 * depth, guide) <= 1e-5


def test_the_iterations_are_one_loop_and_rounding_does_not_grow_with_them() -> None:
    found = dada("range", features="rgb", scale=8, iterations=9024)
    model = onnx_graph.build(found)
    assert [x.op_type for x in model.graph.node].count("Loop") == 1 and len(model.graph.node) < 50
    depth, guide = images(found, 1, 3, 4)
    guide = guide / 20  # edges, but none that is closed
    assert difference(found, session(model), depth, guide) <= 1e-5


def test_a_model_that_ends_early_does_all_its_iterations() -> None:
    """Given in the same order as by `export.plain`."""
    early = dada("range", features="rgb", iterations=50, tolerance=0.5, start="coarse")
    whole = dada("range", features="rgb", iterations=50)
    inputs = images(early, 1, 3, 4)
    assert difference(whole, session(onnx_graph.build(early)), *inputs) <= 1e-5
    assert np.abs(super_resolved(early, *inputs) - super_resolved(whole, *inputs)).max() > 1e-3 * RANGE


def test_what_scipy_computes_is_in_no_graph() -> None:
    with pytest.raises(InputError, match="the model is a DADA with initial=griddata, which SciPy computes"):
        onnx_graph.build(dada(features="rgb", initial="griddata"))


def test_what_the_file_says() -> None:
    found = trained()
    model = onnx_graph.build(found)
    assert [x.version for x in model.opset_import] == [onnx_graph.OPSET]
    said = {x.key: x.value for x in model.metadata_props}
    assert json.loads(said["model"])["scale"] == 4
    assert (said["unit"], said["range"], said["scaling"], said["version"]) == ("m", "10.0", "range", __version__)
    assert (json.loads(said["training"]), json.loads(said["metrics"])) == ({"dataset": "scenes"}, {"mae": 0.5})
    runtime = session(model)
    assert [(x.name, x.shape) for x in (*runtime.get_inputs(), *runtime.get_outputs())] == [
        ("depth_lr", ["batch", 1, "height", "width"]),
        ("guide", ["batch", 3, "4*height", "4*width"]),
        ("depth", ["batch", 1, "4*height", "4*width"]),
    ]


def test_each_weight_is_in_the_file_once() -> None:
    """The steps of the recurrence share theirs, and nothing is stored in two layouts."""
    found = trained(num_levels=3)
    model = onnx_graph.build(found)
    stored = sum(onnx.numpy_helper.to_array(x).size for x in model.graph.initializer)
    constants = 1 + 4 + 1  # range, the resize's scales, a half
    assert stored == sum(x.size for x in jax.tree.leaves(found.params)) + constants


def test_so_is_each_of_dsdmsrs() -> None:
    found = dsdmsr(scale=4)
    model = onnx_graph.build(found)
    stored = sum(onnx.numpy_helper.to_array(x).size for x in model.graph.initializer)
    constants = 1 + 4  # range, the resize's scales
    assert stored == sum(x.size for x in jax.tree.leaves(found.params)) + constants


def test_so_is_each_of_dscsans() -> None:
    found = dscsan(features=8)
    model = onnx_graph.build(found)
    stored = sum(onnx.numpy_helper.to_array(x).size for x in model.graph.initializer if x.data_type == 1)
    constants = 1 + 2 * 4 + 2 * 16 + 2 + 100  # range, resizes' scales, identities, a half and a trace's, bicubic
    assert stored == sum(x.size for x in jax.tree.leaves(found.params)) + constants


def test_so_is_each_of_dadas() -> None:
    with narrow_unet():
        found = dada()
        model = onnx_graph.build(found)
    weights = [x for x in model.graph.initializer if x.name.startswith(("logk", "feature_extractor."))]
    assert sum(onnx.numpy_helper.to_array(x).size for x in weights) == sum(
        x.size for x in jax.tree.leaves(found.params)
    )
    rest = [x for x in model.graph.initializer if x not in weights]
    (loop,) = (x for x in model.graph.node if x.op_type == "Loop")
    assert sum(onnx.numpy_helper.to_array(x).size for x in rest) < 100 and not loop.attribute[0].g.initializer
