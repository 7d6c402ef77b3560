"""DADA by the commands that AHMF has: trained, gone on with, evaluated, super-resolved with, started from."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ahmf_jax import InputError, checkpoint, imagenet, state, unet, upsample
from ahmf_jax.models import MODELS
from ahmf_jax.variables import STATISTICS
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments import evaluate
from experiments import train as train_module
from experiments.cli import main
from experiments.config import DADAConfig, DataConfig, OptimiserConfig, TrainConfig
from experiments.methods import Interpolation
from experiments.protocols import Protocol
from experiments.studies import study

MODEL = DADAConfig(scale=4, encoder="resnet18", channels=2, enlarge=1, iterations=5, gradient_iterations=2)
CONFIG = TrainConfig(
    model=MODEL,
    data=DataConfig(dataset="scenes", patch_size=32, batch_size=2),
    optimiser=OptimiserConfig(learning_rate=1e-3),
    scaling="largest",
    steps=3,
    log_every=1,
    checkpoint_every=2,
    validate_every=3,
    keep_last=3,
    samples=0,
    mesh="data=1",
)


@pytest.fixture(scope="module", autouse=True)
def small_and_compiled_once(tmp_path_factory):
    """Half of ResNet-18, and its programs kept on disk: compiling is what these tests spend their time on."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.LAYERS, "resnet18", (1, 1, 1, 1))
        before = jax.config.jax_compilation_cache_dir
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        yield
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    return train_module.train(CONFIG, tmp_path_factory.mktemp("dada") / "run", data_dir=data_dir)


def lines(run, name="loss"):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if name in line]


def test_a_run_holds_the_statistics_and_they_moved(run):
    weights, step = checkpoint.read_params(run, 3)
    assert step == 3 and weights["log_contrast"].shape == ()
    mean = weights[STATISTICS]["unet"]["encoder"]["bn1"]["mean"]
    before = checkpoint.read_params(run, 2)[0][STATISTICS]["unet"]["encoder"]["bn1"]["mean"]
    assert np.abs(mean).max() > 0 and np.abs(mean - before).max() > 0
    trained = json.loads((run / "config.json").read_text())["trained"]
    assert trained["model"]["name"] == "dada" and trained["model"]["encoder"] == "resnet18"
    assert all(line["grad_norm"] > 0 for line in lines(run))
    assert len({line["loss"] for line in lines(run)}) == 3


def test_a_run_that_goes_on_equals_one_that_never_stopped(run, data_dir, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    train_module.resume(tmp_path / "run", data_dir=data_dir)
    wanted, found = (checkpoint.read_params(path, 3)[0] for path in (run, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, wanted, found)
    assert lines(tmp_path / "run")[-1]["loss"] == lines(run)[-1]["loss"]


def test_a_run_is_evaluated_and_keeps_to_what_was_measured(run, data_dir, tmp_path, capsys):
    main(f"evaluate {run} --dataset scenes --data-dir {data_dir} --protocol run --out {tmp_path / 'found'}".split())
    assert "MAE" in capsys.readouterr().out
    upsampler = upsample.load(run)
    assert upsampler.trained.model == MODEL.build()
    rng = np.random.default_rng(0)
    depth, guide = rng.uniform(1, 5, (6, 9)), rng.integers(0, 256, (24, 36, 3), np.uint8)
    high = upsampler(depth, guide)
    np.testing.assert_allclose(high.reshape(6, 4, 9, 4).mean((1, 3)), depth, rtol=1e-5)


def test_the_learning_free_one_is_a_method_by_name(data_dir, tmp_path, capsys):
    main(
        f"evaluate dada_rgb --scale 4 --dataset scenes --data-dir {data_dir} --protocol float "
        f"--out {tmp_path / 'found'}".split()
    )
    found = capsys.readouterr().out
    assert "dada_rgb" in found and "note: this model keeps the mean of each block to the sample over it" in found
    with pytest.raises(InputError, match="scale 3 is not one of 2, 4, 8, 16, 32"):
        upsample.load("dada_rgb_x3")
    with pytest.raises(InputError, match="dada_rgb_x does not exist"):
        upsample.load("dada_rgb_x")


def test_a_folder_of_its_name_is_not_in_its_way(tmp_path, monkeypatch):
    (tmp_path / "dada_rgb_x4").mkdir()
    monkeypatch.chdir(tmp_path)
    assert upsample.load("dada_rgb_x4").trained.params == {}


@pytest.mark.parametrize(
    ("method", "name", "kernel", "said"),
    [
        ("dada", "float", "matlab_bicubic", True),
        ("dada", "area", "area", False),
        ("dada", "run", "matlab_bicubic", False),
        ("ahmf", "float", "matlab_bicubic", False),
        ("dsdmsr", "float", "matlab_bicubic", False),
    ],
)
def test_samples_that_are_no_means_are_noted_of_a_model_that_keeps_to_them(method, name, kernel, said):
    network = evaluate.Network.__new__(evaluate.Network)
    network.keeps_means = MODELS[method].keeps_means
    notes = evaluate._off_the_means(network, name, Protocol(Degradation(kernel)))
    assert [note.partition(kernel)[2] for note in notes] == [
        ": --protocol area, with block means, is what it is made for"
    ] * said
    assert not evaluate._off_the_means(Interpolation(kernel, 4), name, Protocol(Degradation(kernel)))


def test_what_learns_nothing_says_so():
    with pytest.raises(InputError, match=r"TrainConfig.output_scale is 0.5, but DADA x.*, has no last convolution"):
        TrainConfig(model=MODEL, output_scale=0.5, data=CONFIG.data)
    with pytest.raises(InputError, match=r"DADAConfig.rate is 0.26: it must be above 0 and at most 0.25"):
        DADAConfig(rate=0.26)
    with pytest.raises(InputError, match=r"TrainConfig.scaling is 'sample', which takes the smallest depth to 0"):
        TrainConfig(model=MODEL, scaling="sample", data=CONFIG.data)
    with pytest.raises(InputError, match=r"leave DADAConfig.encoder_weights out"):
        TrainConfig(model=DADAConfig(encoder_weights="a.pth"), start_from="b.safetensors")


def test_a_file_of_the_encoder_that_is_not_there_is_told_before_anything_is_drawn(data_dir, monkeypatch):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, encoder_weights="nope.pth"))
    monkeypatch.setattr(state, "create_state", None)
    with pytest.raises(
        InputError, match=r"^--model.encoder-weights: nope.pth: No such file or directory: give a PyTorch"
    ):
        train_module.Task(config, data_dir).state()


def test_where_the_encoder_of_a_new_run_starts_is_said(data_dir, capsys, monkeypatch):
    assert train_module.Task(CONFIG, data_dir)._start() is None, "random weights need not come to the host"
    assert "the encoder starts at random: give ImageNet's weights" in capsys.readouterr().out
    asked = []
    found = {"conv1": {"kernel": 1}, STATISTICS: {"bn1": 2}}
    monkeypatch.setattr(imagenet, "encoder_weights", lambda *which: asked.append(which) or found)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, encoder_weights="there.pth"))
    start = train_module.Task(config, data_dir)._start()
    assert asked == [("there.pth", "resnet18")] and capsys.readouterr().out == "the encoder starts from there.pth\n"
    drawn = {"log": 3, "unet": {"encoder": 4, "head": 5}, STATISTICS: {"unet": {"encoder": 6, "decoder": 7}}}
    assert start(drawn) == {
        "log": 3,
        "unet": {"encoder": {"conv1": {"kernel": 1}}, "head": 5},
        STATISTICS: {"unet": {"encoder": {"bn1": 2}, "decoder": 7}},
    }


def test_an_image_is_not_divided_over_devices(data_dir):
    config = dataclasses.replace(CONFIG, mesh="data=1,spatial=2")
    with pytest.raises(InputError, match=r"--mesh data=1,spatial=2: DADA x4, resnet18 is not divided by height: give"):
        train_module.Task(config, data_dir)
    many = dataclasses.replace(CONFIG, mesh="auto", data=dataclasses.replace(CONFIG.data, batch_size=1))
    assert train_module.Task(many, data_dir).mesh.size == 1


def test_a_configuration_keeps_its_model_through_json():
    assert configs.from_json(json.loads(json.dumps(configs.to_json(CONFIG)))) == CONFIG
    spec = study.Spec("search", CONFIG)
    assert configs.from_json(study._as_json(spec), study.Spec) == spec
    with pytest.raises(InputError, match=r"TrainConfig.model is 'dadaism': choose one of ahmf, dada"):
        configs.from_json({"model": {"name": "dadaism"}})
    with pytest.raises(InputError, match="this is about AHMF, and the configuration is of DADA x4, resnet18"):
        configs.ahmf(CONFIG)
