"""AHMF's weights between PyTorch's names and layout and Flax's, by one table. NumPy in and out; no torch.

The names are those of the authors' file (`zhwzhong/AHMF`), continued for any number of levels, for the paper's
variant, for networks between the two (`ahmf_jax.variants`) and for Table VI's ablations. `torch_modules.AHMF` is the
PyTorch program that has them.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ahmf_jax.torch_weights import tables
from ahmf_jax.torch_weights.tables import Row, Told, conv, stacked
from ahmf_jax.variants import GRU_LAYERS, VARIANTS, Part, Variant, present

if TYPE_CHECKING:  # the model brings JAX along, which the table itself does not need
    from ahmf_jax.models import AHMF


def prelu(torch: str, flax: str) -> Iterator[Row]:
    """The slope of one PReLU."""
    yield Row(f"{torch}.weight", (*flax.split("/"), "negative_slope"), "prelu", (1,))


def res_block(torch: str, flax: str, features: int, form: Variant) -> Iterator[Row]:
    """Res of Eq. 17; the release has one more PReLU."""
    yield from conv(f"{torch}.layers.0.layers", f"{flax}/conv_1/conv", features, features, 3)
    yield from prelu(f"{torch}.layers.0.act", f"{flax}/conv_1/prelu")
    yield from conv(f"{torch}.layers.1.layers", f"{flax}/conv_2", features, features, 3)
    if form == "release":
        yield from prelu(f"{torch}.act", f"{flax}/prelu")


def head(model: "AHMF", guide_channels: int) -> Iterator[Row]:
    """Level 1 of both modalities (Eq. 1-3)."""
    f, n, k = model.features, stages(model), stage_kernel(model)
    yield from conv("head.depth_in.0", "depth_level_1/conv", 1, f, 3)
    yield from prelu("head.depth_in.1", "depth_level_1/prelu")
    if model.forms("guidance_head") == "release":
        yield from conv("head.guidance_in.0", "guide_level_1/input/conv", guide_channels, f, 3)
        yield from prelu("head.guidance_in.1", "guide_level_1/input/prelu")
        for i in range(n):
            yield from conv(f"head.guidance_in.2.{3 * i + 1}", f"guide_level_1/down_{i}/conv", 4 * f, f, k)
            yield from prelu(f"head.guidance_in.2.{3 * i + 2}", f"guide_level_1/down_{i}_prelu")
    else:
        channels = [guide_channels] + [f] * (n - 1)  # entering each unshuffle
        for i in range(n - 1):
            yield from conv(f"head.guidance_in.0.{3 * i + 1}", f"guide_level_1/down_{i}/conv", 4 * channels[i], f, k)
            yield from prelu(f"head.guidance_in.0.{3 * i + 2}", f"guide_level_1/down_{i}_prelu")
        yield from conv("head.guidance_in.1", f"guide_level_1/down_{n - 1}/conv", 4 * channels[-1], f, 3)
        yield from prelu("head.guidance_in.2", f"guide_level_1/down_{n - 1}_prelu")


def levels(model: "AHMF", torch: str, flax: str) -> Iterator[Row]:
    """Levels 2..m of one modality (Eq. 4, 5)."""
    for i in range(model.num_levels - 1):
        yield from stacked(conv(f"{torch}.{i}.layers", f"{flax}/conv", model.features, model.features, 3), i)
        yield from stacked(prelu(f"{torch}.{i}.act", f"{flax}/prelu"), i)


def mmaf(model: "AHMF", torch: str, flax: str) -> Iterator[Row]:
    """One level's fusion (Eq. 10-16)."""
    f, forms = model.features, model.forms
    if model.fusion in ("feb_frb", "feb"):
        for block, modality in (("filter_conv", "guide"), ("filter_conv1", "depth")):
            yield from conv(f"{torch}.{block}.Attention.0", f"{flax}/{modality}_feb/attention", f, f, 3)
            yield from conv(f"{torch}.{block}.Feature.0", f"{flax}/{modality}_feb/feature", f, f, 3)
            yield from prelu(f"{torch}.{block}.Feature.1", f"{flax}/{modality}_feb/prelu")
    if model.fusion in ("feb_frb", "frb"):
        squeezed = f // 2 if forms("squeeze") == "release" else f
        yield from conv(f"{torch}.attention_layer.squeeze.layers", f"{flax}/frb/squeeze/conv", 2 * f, squeezed, 3)
        yield from prelu(f"{torch}.attention_layer.squeeze.act", f"{flax}/frb/squeeze/prelu")
        for block, modality in (("excitation1", "depth"), ("excitation2", "guide")):
            yield from conv(f"{torch}.attention_layer.{block}.layers", f"{flax}/frb/excite_{modality}", squeezed, f, 1)
            if forms("excitation") == "paper":
                yield from prelu(f"{torch}.attention_layer.{block}.act", f"{flax}/frb/excite_{modality}_prelu")
    else:
        yield from conv(f"{torch}.reduce_conv.layers", f"{flax}/reduce", 2 * f, f, 1)
    if forms("residual") == "release":
        yield from res_block(f"{torch}.res_conv", f"{flax}/residual", f, forms("activation"))


def recurrence(model: "AHMF") -> Iterator[Row]:
    """The ConvGRUs (Eq. 17-21): two layers per direction in the release, one in the paper."""
    f = model.features
    for direction, cell in (("forward", "forward_gru_cell"), ("backward", "reverse_gru_cell")):
        if model.recurrence in (direction, "both"):
            for layer in range(GRU_LAYERS[model.forms("gru_layers")]):
                for gate in ("update_gate", "reset_gate", "out_gate"):
                    yield from conv(
                        f"{cell}.cell_list.{layer}.{gate}", f"bhfc/{direction}_gru/layer_{layer}/{gate}", 2 * f, f, 3
                    )


def reconstruction(model: "AHMF") -> Iterator[Row]:
    """From the refined levels to the residual (Eq. 8)."""
    f, n, k = model.features, stages(model), stage_kernel(model)
    release = model.forms("reconstruction") == "release"
    yield from conv("up_conv.0.layers", "reconstruction/reduce", model.num_levels * f, f, 1)
    if release:
        yield from prelu("up_conv.0.act", "reconstruction/reduce_prelu")
    for i in range(n if release else n - 1):
        yield from conv(f"up_conv.{3 * i + 1}", f"reconstruction/up_{i}/conv", f, 4 * f, k)
        yield from prelu(f"up_conv.{3 * i + 3}", f"reconstruction/up_{i}_prelu")
    if release:
        yield from conv(f"up_conv.{3 * n + 1}.layers", "reconstruction/output", f, 1, 3)
    else:
        yield from conv(f"up_conv.{3 * n - 2}", "reconstruction/output/conv", f, 4, k)


def stages(model: "AHMF") -> int:
    """n of scale = 2^n."""
    return model.scale.bit_length() - 1


def stage_kernel(model: "AHMF") -> int:
    """The size of the down- and up-sampling kernels."""
    from ahmf_jax.models.ahmf import STAGE_KERNEL

    return STAGE_KERNEL[stages(model)]


def table(model: "AHMF", guide_channels: int = 3) -> list[Row]:
    """Every tensor of a model, once, in the order of the authors' file.

    Args:
      model: its fields `scale`, `num_levels`, `features`, `variant`, `swapped`, `fusion` and `recurrence` are read.
      guide_channels: channels of the guide.

    Returns:
      The rows; no PyTorch name and no place in the Flax parameters occurs twice.
    """
    # fuse_conv and compress_out count in the order in which the levels enter BHFC, the release's deepest first.
    order = [level - 1 for level in model.level_order]
    fusions = (stacked(mmaf(model, f"fuse_conv.{i}", "mmaf"), index) for i, index in enumerate(order))
    refinements = (
        stacked(res_block(f"compress_out.{i}.layers", "bhfc/refine", model.features, model.forms("activation")), index)
        for i, index in enumerate(order)
    )
    return [
        *head(model, guide_channels),
        *levels(model, "rgb_conv", "guide_levels"),
        *itertools.chain(*fusions),
        *levels(model, "depth_conv", "depth_levels"),
        *itertools.chain(*refinements),
        *recurrence(model),
        *reconstruction(model),
    ]


def from_torch(
    arrays: Mapping[str, np.ndarray], variant: Variant | None = None, swapped: Collection[Part] | None = None
) -> tuple["AHMF", dict[str, Any]]:
    """The model that PyTorch weights belong to, and its parameters.

    Args:
      arrays: `{name: array}`, the names without "module."; any floating dtype.
      variant: the one whose form the parts have that are not swapped; by default the one of which fewer are, among
        the parts that names and shapes tell.
      swapped: all parts that are the other's; by default those that names and shapes tell. `statistics`, `halving` and
        `order` have the same tensors in both variants and count as not swapped: a network for which that is wrong,
        one of them being swapped or most of the other parts, is read right only with both `variant` and `swapped`.

    Returns:
      `(model, params)`: the other fields read off names and shapes, and a nested dict of float32 NumPy arrays.

    Raises:
      InputError: the tensors are not exactly those of an AHMF; one message names all that are missing, not
        known or of another shape or type.
    """
    model = infer({name: np.shape(value) for name, value in arrays.items()}, variant, swapped)
    first = first_guide_row(model)
    rows = table(model, guide_channels(arrays.get(first.torch), 1, first.shape[1]))
    return model, tables.to_flax(rows, arrays, told(model))


def to_torch(model: "AHMF", params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same weights under PyTorch's names, float32, OIHW; `from_torch` is the exact inverse.

    Args:
      model: the model that the parameters belong to.
      params: its nested parameters, JAX or NumPy arrays of any floating dtype.

    Returns:
      `{name: array}`, the names without "module.", in the order of the authors' file.

    Raises:
      InputError: the parameters are not the model's; one message names all that differ.
    """
    first = first_guide_row(model)
    channels = guide_channels(tables.flatten(params).get("/".join(first.flax)), 2, first.shape[1])
    return tables.to_torch(table(model, channels), params, told(model))


def infer(
    shapes: Mapping[str, tuple[int, ...]], variant: Variant | None = None, swapped: Collection[Part] | None = None
) -> "AHMF":
    """The model whose names, and then shapes, fit best.

    Best, not exactly: from a file with a few tensors missing or added, the error can then name just these.
    """
    from ahmf_jax.models import AHMF
    from ahmf_jax.models.ahmf import SCALES, Fusion, Recurrence

    # Indices are counted: the largest one, taken at its word, could ask for a table of any length.
    prefixes = {"fuse_conv": 0, "compress_out": 0, "rgb_conv": 1, "depth_conv": 1}
    found = Counter(prefix for prefix, _ in {tuple((name + ".").split(".")[:2]) for name in shapes})
    num_levels = max(1, *(found[prefix] + offset for prefix, offset in prefixes.items()))
    # Most bias vectors are as long as a feature map is deep.
    widths = Counter(shape[0] for name, shape in shapes.items() if name.endswith(".bias") and len(shape) == 1)
    features = max((width for width in widths if width > 0 and width % 2 == 0), key=widths.__getitem__, default=64)

    def misfit(model: "AHMF") -> tuple[int, int, int]:
        """Names that only one of the two has, shapes that differ, and parts that are swapped."""
        wanted = {row.torch: row.shape for row in table(model)}
        differing = sum(shapes[name] != shape for name, shape in wanted.items() if name in shapes)
        return len(shapes.keys() ^ wanted.keys()), differing, len(model.swapped)

    def settled(model: "AHMF", *parts: Part, **fields: Sequence[Any]) -> "AHMF":
        """The best of those with other values of the fields, and with any of the parts swapped where it is not told."""
        some = [()] if swapped is not None else subsets(parts)
        choices = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
        candidates = ({"swapped": (*model.swapped, *more), **choice} for choice in choices for more in some)
        return min((model.clone(**fields) for fields in candidates if possible(model, **fields)), key=misfit)

    def possible(model: "AHMF", swapped: Collection[Part], **fields: Any) -> bool:
        """Whether all parts that are to be swapped are there."""
        blocks = (fields.get(name, getattr(model, name)) for name in ("fusion", "recurrence"))
        return {*swapped} <= {*present(*blocks)}

    def fitted(variant: Variant) -> "AHMF":
        """The best of a variant. What a step settles has tensors of its own, whatever the later steps find."""
        model = AHMF(SCALES[0], num_levels, features, variant, swapped=tuple(swapped or ()))
        model = settled(model, "guidance_head", "reconstruction", scale=SCALES)
        model = settled(model, "gru_layers", recurrence=get_args(Recurrence))
        model = settled(model, fusion=get_args(Fusion))
        model = settled(model, "residual")
        return settled(model, "squeeze", "excitation", "activation")

    return min(map(fitted, VARIANTS if variant is None else (variant,)), key=misfit)


def subsets(parts: Sequence[Part]) -> list[tuple[Part, ...]]:
    """Every choice among the parts, none first."""
    return [chosen for count in range(len(parts) + 1) for chosen in itertools.combinations(parts, count)]


def first_guide_row(model: "AHMF") -> Row:
    """The weight that the guide enters, for a guide of one channel: its channels are in no field of the model."""
    return next(row for row in head(model, 1) if row.flax[0] == "guide_level_1")


def guide_channels(weight: Any, axis: int, per_channel: int) -> int:
    """The guide's channels by the weight that it enters; any number without it: `tables.check` reports its absence."""
    shape = np.shape(weight)
    return max(1, shape[axis] // per_channel) if len(shape) == 4 else 3


def told(model: "AHMF") -> Told:
    """For a message."""
    swapped = f" (swapped: {', '.join(model.swapped)})" if model.swapped else ""
    return Told(
        f"a {model.variant} AHMF{swapped} x{model.scale} with {model.num_levels} levels, {model.features} features, "
        f"fusion {model.fusion}, recurrence {model.recurrence}",
        "an AHMF, a DADA, a DSDMSR or a DSCSAN",  # what is not named as one of the others comes here
    )
