"""What can be measured, by name; other programs' files; and few compiled programs for many sizes."""

import jax
import numpy as np
import pytest

from ahmf_jax import resample
from ahmf_jax.errors import InputError
from ahmf_jax.upsample import network_batch, super_resolve
from experiments.methods import Network, Predictions, open_method, run_folder
from experiments.protocols import PROTOCOLS

B6 = PROTOCOLS["b6"]


def batch(height, width, scale=4):
    rng = np.random.default_rng(height * width)
    low = rng.random((1, height, width, 1), np.float32)
    guide = rng.random((1, scale * height, scale * width, 3), np.float32)
    return {"depth_lr": low, "guide": guide, "mask_lr": np.ones(low.shape, bool)}


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("bicubic", "pillow_bicubic"), ("nearest", "nearest_center"), ("bilinear", "torch_bilinear"), ("area", "area")],
)
def test_interpolations_by_name(name, kernel):
    method, given = open_method(name, 4, B6), batch(3, 5)
    np.testing.assert_array_equal(method.batch(given), resample.resize(given["depth_lr"], (12, 20), kernel))
    assert (method.name, method.scale) == (name, 4) and kernel in method.origin + method.name


def test_a_floor_that_is_no_bicubic_one_is_called_what_it_is():
    method = open_method("bicubic", 4, PROTOCOLS["dsdmsr"])
    assert (method.name, method.kernel, method.origin) == ("torch_bilinear", "torch_bilinear", "interpolation")


def test_filters_by_name():
    assert open_method("guided_filter", 4, B6).name == "guided_filter"
    clean, noisy = (open_method("guided_filter", 4, PROTOCOLS[name]) for name in ("ahmf_table1", "ahmf_table2"))
    assert clean.origin != noisy.origin  # other parameters, found with noise


def test_many_sizes_share_few_programs_and_no_number_changes(bundle):
    method = Network(bundle)
    trained = method._upsampler.trained
    sizes = [(9, 17), (9, 18), (10, 17), (10, 18), (9, 17)]
    for size in sizes:
        given = batch(*size)
        with jax.default_matmul_precision("highest"):
            alone = super_resolve(trained.model, trained.scaling, trained.params, network_batch(given))
        np.testing.assert_allclose(method.batch(given), alone, rtol=0, atol=2e-6)
    # The first two sizes as they are, and one for what is padded to 10 x 18.
    assert method._upsampler.engine.compilations == 3


def test_files_are_found_by_the_images_names(tmp_path):
    for name in ("2006_aloe.npy", "Art_depth.npy", "books.npy", "books_old.npy", "notes.txt"):
        np.save(tmp_path / name.replace(".txt", ""), np.zeros((2, 2), np.float32))
    found = Predictions(tmp_path, ["2006/Aloe", "art", "set/books"], 4)._files
    assert {image: path.name for image, path in found.items()} == {
        "2006/Aloe": "2006_aloe.npy",
        "art": "Art_depth.npy",
        "set/books": "books.npy",
    }
    with pytest.raises(
        InputError, match=r"2 of 3 images have no file: a/b, c: name each after its image, such as a_b.png"
    ):
        Predictions(tmp_path, ["a/b", "c", "art"], 4)
    many = [f"image {i}" for i in range(15)]
    with pytest.raises(InputError, match=r"15 of 15 .* image 9 and 5 more: name"):
        Predictions(tmp_path, many, 4)


def test_predictions_of_the_uncut_image_are_cut_alike(tmp_path):
    depth = np.arange(30, dtype=np.float32).reshape(5, 6)
    np.save(tmp_path / "a.npy", depth)
    method = Predictions(tmp_path, ["a"], 4, factor=0.1)
    np.testing.assert_allclose(method.read("a", (4, 4), (5, 6)), depth[:4, :4] * 0.1, rtol=1e-7)
    with pytest.raises(InputError, match=r"a.npy: is 5 x 6 \(height x width\), and a is 8 x 8 or 9 x 9: give"):
        method.read("a", (8, 8), (9, 9))


def test_what_is_no_method(bundle):
    with pytest.raises(InputError, match=r"nothing is no method \(bicubic, nearest, .*guided_filter.*\), and no run"):
        open_method("nothing", 4, B6)
    with pytest.raises(InputError, match=r"--scale 8: \S+ is a model of x4: leave it out"):
        open_method(str(bundle), 8, B6)


def test_a_file_is_of_one_image(tmp_path):
    np.save(tmp_path / "view1.npy", np.zeros((2, 2), np.float32))
    np.save(tmp_path / "a_b.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match=r"2 of 3 images have no file: Aloe/view1, Baby/view1"):
        Predictions(tmp_path, ["Aloe/view1", "Baby/view1", "a_b"], 4)
    with pytest.raises(InputError, match=r"1 of 2 images have no file: a: "):
        Predictions(tmp_path, ["a", "a_b"], 4)
    assert Predictions(tmp_path, ["a", "Aloe/view1"], 4)._files["a"].name == "a_b.npy"


def test_a_folder_is_no_method_where_a_method_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nearest").mkdir()
    (tmp_path / "lr_0.1").mkdir()
    assert run_folder("nearest") is None and run_folder("") is None and run_folder("lr_0.1") is not None
    assert open_method("nearest", 2, B6).name == "nearest"


def test_a_name_may_have_a_dot(bundle, tmp_path):
    copy = tmp_path / "lr_0.1.safetensors"
    copy.write_bytes(bundle.read_bytes())
    assert Network(copy).name == "lr_0.1"
