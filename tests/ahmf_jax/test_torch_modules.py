"""The PyTorch twin's own behaviour, and weight files: exact, atomic, and never run."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ahmf_jax import dscsan_forms, resample, torch_modules, torch_weights  # noqa: E402  # needs torch
from ahmf_jax.errors import InputError  # noqa: E402
from ahmf_jax.models import AHMF, DADA, DSCSAN, DSDMSR  # noqa: E402
from ahmf_jax.scaling import offset_and_span  # noqa: E402
from ahmf_jax.variants import PARTS  # noqa: E402

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "ahmf_release_x4.pth"


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a.weight": rng.random((2, 3, 1, 1), np.float32), "a.bias": rng.random(2, np.float32)}


def twin(**fields: Any) -> Any:
    torch.manual_seed(0)
    return torch_modules.AHMF(**{"scale": 2, "num_levels": 1, "features": 4} | fields)


@pytest.mark.parametrize("variant", ["release", "paper"])
@pytest.mark.parametrize("scale", [2, 4, 8, 16, 32])
@pytest.mark.parametrize(("fusion", "recurrence"), [("feb_frb", "both"), ("feb", "forward"), ("concat", "none")])
def test_the_tables_names_are_the_twins(variant: str, scale: int, fusion: str, recurrence: str) -> None:
    net = twin(scale=scale, num_levels=3, variant=variant, fusion=fusion, recurrence=recurrence, guide_channels=1)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    model, params = torch_weights.from_torch(state)
    back = torch_weights.to_torch(model, params)
    assert list(back) == list(state)
    assert all(back[name].tobytes() == value.tobytes() for name, value in state.items())


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_the_tables_names_are_the_twins_with_each_part_swapped(variant: Any) -> None:
    for part in PARTS:
        state = {k: v.numpy() for k, v in twin(num_levels=2, variant=variant, swapped=[part]).state_dict().items()}
        model, params = torch_weights.from_torch(state, variant, (part,))
        back = torch_weights.to_torch(model, params)
        assert model.swapped == (part,) and list(back) == list(state)
        assert all(back[name].tobytes() == value.tobytes() for name, value in state.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 3}, "scale is 3: choose one of 2, 4, 8, 16, 32"),
        ({"variant": "published"}, "variant is 'published': choose one of release, paper"),
        ({"fusion": "sum"}, "fusion is 'sum'"),
        ({"recurrence": "up"}, "recurrence is 'up'"),
        ({"swapped": ("order", "order")}, "swapped has 'order' more than once"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"features": 5}, "features is 5"),
        ({"guide_channels": 0}, "guide_channels is 0"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse a name first
    with pytest.raises(InputError, match=message):
        twin(**fields)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_dadas_names_are_the_tables(encoder: str) -> None:
    with torch.device("meta"):
        net = torch_modules.DADA(8, encoder=encoder)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    rows = torch_weights.dada.table(DADA(scale=8, encoder=encoder))  # type: ignore[arg-type]
    assert list(shapes) == [row.torch for row in rows]
    assert shapes == {row.torch: row.shape for row in rows}


def test_dadas_fields() -> None:
    wrong: dict[str, Any] = {"features": "none", "encoder": "vgg", "enlarge": 3, "initial": "griddata", "shift": "all"}
    for field, value in wrong.items():
        with pytest.raises(InputError, match=f"{field} is .*choose one of"):
            torch_modules.DADA(2, **{field: value})
    assert not torch_modules.DADA(2, features="rgb").state_dict()


@pytest.mark.parametrize(("scale", "unit"), [(16, "srcnn"), (8, "vdsr")])
def test_dsdmsrs_names_are_the_tables(scale: int, unit: Any) -> None:
    with torch.device("meta"):
        net = torch_modules.DSDMSR(scale, unit)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    rows = torch_weights.dsdmsr.table(DSDMSR(scale, unit))  # type: ignore[attr-defined]
    assert list(shapes) == [row.torch for row in rows]
    assert shapes == {row.torch: row.shape for row in rows}


def test_dsdmsrs_fields() -> None:
    for field, value in {"scale": 32, "unit": "edsr", "fusion": "none", "combine": "max"}.items():
        with pytest.raises(InputError, match=f"{field} is .*choose one of"):
            torch_modules.DSDMSR(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", dscsan_forms.FORMS)
def test_dscsans_names_are_the_tables(form: dscsan_forms.Form) -> None:
    fields = {"scale": 8, "groups": 2, "blocks": 3, "features": 32, **dscsan_forms.FORMS[form]}
    with torch.device("meta"):
        net = torch_modules.DSCSAN(**fields)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    rows = torch_weights.dscsan.table(DSCSAN(**fields))  # type: ignore[attr-defined]
    assert list(shapes) == [row.torch for row in rows]
    assert shapes == {row.torch: row.shape for row in rows}


def test_dscsans_fields() -> None:
    for field, value in {"scale": 3, "block": "rdb"}.items():
        with pytest.raises(InputError, match=f"{field} is .*choose one of"):
            torch_modules.DSCSAN(**{field: value})  # type: ignore[arg-type]
    for field, value in {"groups": 0, "blocks": 0, "features": 5}.items():
        with pytest.raises(InputError, match=f"{field} is {value}: "):
            torch_modules.DSCSAN(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
def test_dscsan_interpolates_as_matlab_does(size: tuple[int, int]) -> None:
    """Without its last convolutions it does nothing else."""
    net = torch_modules.DSCSAN(4, 1, 1, 4)
    for output in net.output:
        for x in output.parameters():
            torch.nn.init.zeros_(x)
    depth = np.random.default_rng(0).random((*size, 1), np.float32)
    wanted = depth
    for factor in (2, 4):
        wanted = resample.resize(wanted, (factor * size[0], factor * size[1]), "matlab_bicubic")
    found = net(torch.from_numpy(depth[None, None, :, :, 0])).detach().numpy()
    np.testing.assert_allclose(found[0, 0], wanted[..., 0], rtol=0, atol=1e-6)


def test_dsdmsr_starts_as_the_published_one() -> None:
    """SRCNNs as PyTorch has it, VDSRs by the number of outputs: the last convolution is then far from small."""
    torch.manual_seed(0)
    net: Any = torch_modules.DSDMSR(2, "vdsr")
    assert abs(net.msf_dcnn.trunk[3].conv.weight.std() - (2 / (9 * 64)) ** 0.5) < 1e-3
    assert abs(net.msf_dcnn.conv2.weight.std() - (2 / 9) ** 0.5) < 0.03
    net = torch_modules.DSDMSR(2)
    for x in (net.msf_dcnn.conv1.weight, net.msf_dcnn.conv1.bias):
        assert 0.9 / 9 < x.abs().max() <= 1 / 9


def test_dsdmsr_puts_the_views_in_their_places() -> None:
    net = torch_modules.DSDMSR(2)
    for x in net.parameters():
        torch.nn.init.zeros_(x)
    for value, view in enumerate(("1_1", "1_2", "2_1", "2_2")):
        torch.nn.init.constant_(getattr(net, f"dcnn_unit_{view}_x2").conv3.bias, value)
    _, (stage,) = net.trace(torch.rand(1, 1, 2, 3))
    assert torch.equal(stage[0, 0], torch.tensor([[0.0, 1.0], [2.0, 3.0]]).tile(2, 3))


def test_a_dada_trains_from_a_random_number_of_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that no gradient passes; all of them in evaluation."""
    done: list[tuple[int, int]] = []

    def diffuse(image: Any, *_: Any, before: int, after: int, rate: float) -> Any:
        done.append((before, after))
        return image

    monkeypatch.setattr(torch_modules.diffusion, "diffuse", diffuse)
    torch.manual_seed(0)
    net = torch_modules.DADA(2, features="rgb", iterations=50)
    for _ in range(20):
        net(torch.ones(1, 1, 2, 2), torch.ones(1, 3, 4, 4))
    assert len({before for before, _ in done}) > 5 and all(before < 50 for before, _ in done)
    done.clear()
    net.eval()(torch.ones(1, 1, 2, 2), torch.ones(1, 3, 4, 4))
    assert done == [(50, 0)]


def test_the_twin_of_a_trained_model() -> None:
    """Of whichever model, with its weights, in evaluation."""
    ahmf = AHMF(scale=2, num_levels=1, features=4, swapped=("order",))
    state = twin(swapped=("order",), guide_channels=4).state_dict()
    _, weights = torch_weights.from_torch({k: v.numpy() for k, v in state.items()}, "release", ("order",))
    net = torch_modules.network(ahmf, weights)
    assert not net.training and not net.deep_first
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())

    dada = DADA(scale=2, features="rgb", iterations=30, rate=0.2, contrast=0.3, initial="constant", deviation=2.5)
    rng = np.random.default_rng(0)
    depth, guide = rng.uniform(1, 2, (1, 3, 4, 1)).astype(np.float32), rng.random((1, 6, 8, 3), np.float32)
    wanted, _ = dada.apply({}, jnp.asarray(depth), jnp.asarray(guide))
    found = torch_modules.network(dada, {})(*(torch.from_numpy(np.moveaxis(x, -1, 1).copy()) for x in (depth, guide)))
    np.testing.assert_allclose(np.moveaxis(found.numpy(), 1, -1), wanted, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="initial is 'griddata'"):
        torch_modules.network(dada.clone(initial="griddata"), {})

    state = torch_modules.DSDMSR(4).state_dict()
    dsdmsr, weights = torch_weights.from_torch({name: value.numpy() for name, value in state.items()})
    net = torch_modules.network(dsdmsr.clone(fusion="figure", combine="mean"), weights)
    assert (net.scale, net.fusion, net.combine, net.training) == (4, "figure", "mean", False)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())

    state = torch_modules.DSCSAN(4, 1, 2, 4, progressive=False).state_dict()
    dscsan, weights = torch_weights.from_torch({name: value.numpy() for name, value in state.items()})
    net = torch_modules.network(dscsan.clone(interpolated=False), weights)
    assert (net.scale, net.doublings, net.interpolated, net.training) == (4, 2, False, False)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_guide_of_another_size() -> None:
    with pytest.raises(InputError, match="guide is 6x6 and depth_lr 3x4: the guide must be 2 times larger"):
        torch_modules.DADA(2, features="rgb")(torch.zeros(1, 1, 3, 4), torch.zeros(1, 3, 6, 6))
    with pytest.raises(InputError, match="guide is 6x6 and depth_lr 3x4: the guide must be 2 times larger"):
        twin()(torch.zeros(1, 1, 3, 4), torch.zeros(1, 3, 6, 6))


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_gradients_are_finite_on_constant_images(variant: str) -> None:
    net = twin(variant=variant)
    net(torch.zeros(1, 1, 3, 4), torch.zeros(1, 3, 6, 8)).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_write_then_read(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "weights.pth"
    torch_modules.write_pth(path, arrays)
    back = torch_modules.read_pth(path)
    assert list(back) == ["module.a.weight", "module.a.bias"]
    assert all(back[f"module.{name}"].tobytes() == value.tobytes() for name, value in arrays.items())
    torch_modules.write_pth(path, back)  # names that carry the prefix keep one
    assert list(torch_modules.read_pth(path)) == list(back)
    assert os.listdir(tmp_path) == ["weights.pth"]


def test_dadas_layout(tmp_path: Path) -> None:
    """Whole numbers stay so; what lies beside the weights is left."""
    arrays = {"logk": np.array(-3.5, np.float32), "bn.num_batches_tracked": np.array(7)}
    torch_modules.write_pth(tmp_path / "w.pth", arrays, key="model", prefix="")
    stored = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(stored) == ["model"] and stored["model"]["bn.num_batches_tracked"].dtype == torch.int64
    torch.save({**stored, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "w.pth")
    back = torch_modules.read_pth(tmp_path / "w.pth")
    assert list(back) == list(arrays) and back["logk"] == -3.5 and back["bn.num_batches_tracked"] == 7


@pytest.mark.skipif(not REFERENCE.exists(), reason="shared/reference is not beside this checkout")
def test_the_authors_file_comes_back_as_it_was(tmp_path: Path) -> None:
    arrays = torch_modules.read_pth(REFERENCE)
    model, params = torch_weights.from_torch(arrays)
    torch_modules.write_pth(tmp_path / "ours.pth", torch_weights.to_torch(model, params))
    theirs = torch.load(REFERENCE, weights_only=True)
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert list(ours) == list(theirs) == ["state"]
    assert list(ours["state"]) == list(theirs["state"])
    for name, value in theirs["state"].items():
        assert ours["state"][name].dtype == value.dtype
        assert torch.equal(ours["state"][name], value)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state": state}])
@pytest.mark.parametrize("legacy", [False, True])
def test_reads_bare_and_wrapped_state_dicts(tmp_path: Path, wrap: Any, legacy: bool) -> None:
    state = twin().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    back = torch_modules.read_pth(tmp_path / "w.pth")
    assert list(back) == list(state)
    assert all(np.array_equal(back[name], value.numpy()) for name, value in state.items())


def test_parameters_and_bfloat16_become_arrays(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.5, -2.0]))
    torch.save({"a": weight, "b": weight.detach().bfloat16(), "c": weight.detach().half()}, tmp_path / "w.pth")
    back = torch_modules.read_pth(tmp_path / "w.pth")
    assert [value.dtype for value in back.values()] == [np.float32, np.float32, np.float16]
    assert all(value.tolist() == [1.5, -2.0] for value in back.values())


@pytest.mark.parametrize("inside", ["pickle", "torch", "state", "value"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, inside: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    payload = Payload(marker)
    if inside == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save({"torch": payload, "state": {"state": payload}, "value": {"state": {"a": payload}}}[inside], path)
    with pytest.raises(InputError, match=r"hostile\.pth"):
        torch_modules.read_pth(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(payload))  # the payload is live: run, it leaves its mark
    assert marker.exists()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": torch.zeros(1), "epoch": 3}, "'epoch'"),
        ({"state": {"a": [1.0]}}, "'a'"),
        ({"a": torch.eye(2).to_sparse()}, "not dense real tensors: 'a'"),
        ({1: torch.zeros(1)}, "1"),
        ([torch.zeros(1)], "no state dict"),
        ({"state": {}}, "no state dict"),
        (torch.zeros(1), "no state dict"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, stored: Any, message: str) -> None:
    torch.save(stored, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message) as raised:
        torch_modules.read_pth(tmp_path / "w.pth")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scaling", ["range", "sample"])
def test_a_program_of_any_sizes_in_the_models_unit(tmp_path: Path, scaling: str) -> None:
    network = twin(scale=4, recurrence="none", fusion="concat").eval()
    module = torch_modules.InUnits(network, 10.0, scaling)
    (tmp_path / "model.pt2").write_bytes(torch_modules.serialize(module, 4, 3))
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, height, width in ((2, 3, 7), (1, 1, 1)):
        depth = 2 + 6 * torch.rand(batch, 1, height, width)
        guide = torch.rand(batch, 3, 4 * height, 4 * width)
        low, span = torch.zeros(batch, 1, 1, 1), torch.full((batch, 1, 1, 1), 10.0)
        if scaling == "sample":
            low = depth.amin((1, 2, 3), keepdim=True)
            span = (depth.amax((1, 2, 3), keepdim=True) - low).clamp(min=10 / 256)
        with torch.no_grad():
            wanted = network((depth - low) / span, guide) * span + low
        torch.testing.assert_close(program(depth, guide), wanted, rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match=r"[Gg]uard"):
        program(depth, guide[..., :-1])


@pytest.mark.parametrize("scaling", ["range", "sample", "largest"])
def test_what_a_program_gives_its_network(scaling: Any) -> None:
    """As in JAX, of depth without holes; also of a flat map."""
    depth = np.random.default_rng(0).uniform(2, 8, (3, 4, 5, 1)).astype(np.float32)
    depth[2] = 3 if scaling != "largest" else 3e-6
    offset, span = offset_and_span(depth / 10, np.ones(depth.shape, bool), scaling)
    seen = []

    class Network(torch.nn.Module):
        def forward(self, depth: Any, guide: Any) -> Any:
            seen.append(depth)
            return depth

    module = torch_modules.InUnits(Network(), 10.0, scaling)
    back = module(torch.from_numpy(np.moveaxis(depth, -1, 1).copy()), torch.zeros(3, 3, 8, 10))
    np.testing.assert_allclose(np.moveaxis(seen[0].numpy(), 1, -1), (depth / 10 - offset) / span, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.moveaxis(back.numpy(), 1, -1), depth, rtol=0, atol=1e-5)


def test_a_scaling_that_needs_the_truth() -> None:
    with pytest.raises(InputError, match="scaling 'truth' cannot be in a program"):
        torch_modules.InUnits(torch.nn.Identity(), 1.0, "truth")


def test_a_dadas_program_of_any_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that the U-Net does not take as they are, and that are smaller than it takes at all."""
    monkeypatch.setitem(torch_modules.unet.LAYERS, "resnet18", (1, 1, 1, 1))  # blocks are of no account here
    torch.manual_seed(0)
    net = torch_modules.DADA(8, encoder="resnet18", channels=2, iterations=9, gradient_iterations=2).eval()
    module = torch_modules.InUnits(net, 10.0, "range")
    (tmp_path / "model.pt2").write_bytes(torch_modules.serialize(module, 8, 3))
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, height, width in ((2, 3, 7), (1, 1, 1)):
        depth, guide = 2 + 6 * torch.rand(batch, 1, height, width), torch.rand(batch, 3, 8 * height, 8 * width)
        torch.testing.assert_close(program(depth, guide), module(depth, guide), rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"[Ss]izes"):
        program(depth, guide[..., :-1])


@pytest.mark.parametrize(
    "network",
    [
        lambda: torch_modules.DSDMSR(2, "srcnn", "code", "sum"),
        lambda: torch_modules.DSDMSR(2, "vdsr", "figure", "mean"),
        lambda: torch_modules.DSCSAN(2, 1, 1, 4),
    ],
    ids=["srcnn", "vdsr", "dscsan"],
)
def test_a_program_that_takes_no_guide(tmp_path: Path, network: Any) -> None:
    torch.manual_seed(0)
    module = torch_modules.InUnits(network(), 10.0, "sample")
    (tmp_path / "model.pt2").write_bytes(torch_modules.serialize(module, 2, 0))
    loaded = torch.export.load(tmp_path / "model.pt2")
    assert list(loaded.graph_signature.user_inputs) == ["depth_lr"]
    program = loaded.module()
    for batch, height, width in ((2, 3, 7), (1, 1, 1)):
        depth = 2 + 6 * torch.rand(batch, 1, height, width)
        torch.testing.assert_close(program(depth), module(depth), rtol=0, atol=1e-5)


def test_damaged_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.pth"
    torch_modules.write_pth(path, arrays)
    whole = path.read_bytes()
    for content in (b"", b"weights", whole[: len(whole) // 2], whole[:-1], b"\x80\x02" + os.urandom(64)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"w\.pth") as raised:
            torch_modules.read_pth(path)
        assert "\n" not in str(raised.value)


def test_a_changed_byte_of_a_tensor_is_found(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "w.pth"
    torch_modules.write_pth(path, arrays)
    whole = bytearray(path.read_bytes())
    whole[whole.index(arrays["a.weight"].tobytes()) + 2] ^= 1
    path.write_bytes(whole)
    torch.load(path, weights_only=True)  # which does not see it
    with pytest.raises(InputError, match=r"w\.pth: damaged or not a PyTorch weight file .*: get it anew"):
        torch_modules.read_pth(path)


def test_a_file_without_checksums_is_read(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch_modules.write_pth(tmp_path / "w.pth", arrays)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "w.pth") as file:
        assert file.testzip()
    back = torch_modules.read_pth(tmp_path / "w.pth")
    assert all(back[f"module.{name}"].tobytes() == value.tobytes() for name, value in arrays.items())


def test_a_file_that_claims_more_than_it_holds_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(2**16))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"w\.pth: damaged or not a PyTorch weight file"):
        torch_modules.read_pth(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            torch_modules.read_pth(path)


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="No space left"):
        torch_modules.write_pth(path, arrays)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["w.pth"]


def test_places_that_cannot_be_written(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for place in ("absent/w.pth", "file/w.pth", "folder"):
        with pytest.raises(InputError, match=place):
            torch_modules.write_pth(tmp_path / place, arrays)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
