"""DADA's recipes, protocol and published tables: the paper's figures, not ours."""

import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.datasets import Dataset, DatasetInfo
from data_pipelines.degrade import Degradation
from experiments import config as configs
from experiments import evaluate
from experiments.protocols import PROTOCOLS
from experiments.published import rows_for, tables
from tests.experiments.evaluations_of import evaluation

SPEC = Path(__file__).parents[3] / "shared" / "specs" / "dada.md"
# Images of a training epoch, epochs, epochs of one learning rate, epochs between two validations.
PAPER = {"middlebury": (80, 4500, 100, 10), "nyu_v2": (849, 550, 10, 4), "diml": (1440, 300, 6, 2)}
# Of the authors' code, in mm; every one of the data sets has a range of 10 m.
DEVIATIONS = {"middlebury": 1122.7, "nyu_v2": 1386.05, "diml": 1154.29}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers(name):
    images, epochs, rate_epochs, validation_epochs = PAPER[name]
    config = configs.load(f"dada_{name}_x8")
    of_epoch = -(-images // config.data.batch_size)
    assert config.steps == epochs * of_epoch and config.validate_every == validation_epochs * of_epoch
    assert (config.data.batch_size, config.data.patch_size, config.seed, config.loss) == (8, 256, 12345, "l1")
    assert config.data.train == "dada/train" and config.data.validation == "dada/validation"
    assert config.data.degrade == Degradation("area") and config.data.augment.rotate == 15
    assert config.data.augment.flips == "mirror"
    # Only of Middlebury do the authors draw patches anew, and turn them beyond the image.
    augment, of_middlebury = config.data.augment, name == "middlebury"
    assert (augment.min_known_lr, augment.min_known) == ((0.9, 0.8) if of_middlebury else (0, 0))
    assert augment.corners == ("unknown" if of_middlebury else "inside")
    optimiser = config.optimiser
    assert (optimiser.name, optimiser.clip, optimiser.l2) == ("adam", 0.01, 1e-5)
    # The authors' loss is 10 times the error in deviations, ours is in units of the range.
    assert isinstance(config.model, configs.DADAConfig) and config.scaling == "range"
    assert 10_000 * config.model.deviation == pytest.approx(DEVIATIONS[name], rel=1e-9)
    assert optimiser.loss_weight * config.model.deviation == pytest.approx(10)
    assert optimiser.options == () and optimiser.warmup == 0  # Adam's own betas and epsilon
    rate, step = optimiser.rate(config.steps), rate_epochs * of_epoch
    near = [float(rate(at)) for at in (0, step - 1, step, 2 * step - 1, 2 * step, config.steps - 1)]
    falls = epochs // rate_epochs - 1
    np.testing.assert_allclose(near, [1e-4, 1e-4, 9e-5, 9e-5, 8.1e-5, 1e-4 * 0.9**falls], rtol=1e-5)
    model = config.model
    # Ours, not the authors' griddata and batch: the recipe's docstring says so.
    assert (model.initial, model.shift) == ("cubic", "sample")
    assert model.encoder == "resnet50" and model.scale == 8
    assert (model.iterations, model.gradient_iterations, model.rate, model.contrast) == (8000, 1024, 0.24, 0.03)
    for scale in (4, 16, 32):
        assert config.data.patch_size % scale == 0


class Off:
    """A method whose depth is off the truth by so much of the range, image by image."""

    name = origin = "off"
    scale = 8

    def __init__(self, *errors):
        self.errors = iter(errors)

    def batch(self, batch):
        return batch["depth_hr"] + np.float32(next(self.errors))


class Flat:
    """Images of 1 m in mm, one tile each, of which so many rows are known."""

    def __init__(self, *rows):
        self.rows, self.names = rows, [f"{n:02d}" for n in range(len(rows))]

    def __len__(self):
        return len(self.rows)

    def read(self, index):
        depth = np.zeros((256, 256), np.float32)
        depth[: self.rows[index]] = 1000
        return np.zeros((256, 256, 3), np.uint8), depth, self.names[index]


def measured(errors, rows):
    info = DatasetInfo("flat", "mm", 1000.0, 0.0, "none", "")
    return evaluate.measure_all(Off(*errors), Dataset(info, Flat(*rows)), "dada", PROTOCOLS["dada"])


def test_a_hundredth_of_a_metre_is_one_centimetre_and_its_square():
    found = measured([0.01], [256])
    assert found.unit == "cm"
    assert found.mean.metrics["mae"] == pytest.approx(1.0, rel=1e-4)
    assert found.mean.metrics["mse"] == pytest.approx(1.0, rel=1e-4)
    assert (found.mean.floor["mae"], found.mean.floor["mse"]) == pytest.approx((0, 0), abs=1e-4)


def test_the_mean_is_of_batches_of_32_tiles_each_over_its_pixels():
    # 32 tiles in the first batch and one in the second, which is as heavy; within a batch, pixels count alike.
    rows = [256, 64, 1] + [256] * 29 + [128]
    errors = [0.01, 0.02, 0.0] + [0.0] * 29 + [0.04]
    found = measured(errors, rows)
    pixels = sum(rows[:32])
    first = {"mae": (256 * 1 + 64 * 2) / pixels, "mse": (256 * 1 + 64 * 4) / pixels}
    for metric, last in (("mae", 4.0), ("mse", 16.0)):
        assert found.mean.metrics[metric] == pytest.approx((first[metric] + last) / 2, rel=1e-4)
        everything = (first[metric] * pixels + last * 128) / (pixels + 128)
        assert found.pixels is not None
        assert found.pixels.metrics[metric] == pytest.approx(everything, rel=1e-4)


class Wide:
    """One image of three tiles: the first is known above, the second in its left, too, and the third nowhere."""

    names = ("wide",)

    def __len__(self):
        return 1

    def read(self, index):
        depth = np.zeros((256, 768), np.float32)
        depth[:100, :250], depth[:100, 250:300] = 1000, 2000
        return np.zeros((256, 768, 3), np.uint8), depth, "wide"


def test_a_tile_with_holes_is_filled_for_the_network_and_marked():
    seen = []

    class Seen(Off):
        def batch(self, batch):
            seen.append(batch)
            return super().batch(batch)

    info = DatasetInfo("flat", "mm", 1000.0, 0.0, "none", "")
    found = evaluate.measure_all(Seen(0.01, 0.03, 5.0), Dataset(info, Wide()), "dada", PROTOCOLS["dada"])
    assert len(seen) == 3
    # Of the second tile 44 columns are known, which are in 6 blocks; 100 rows are in 13.
    for batch, columns in zip(seen, (32, 6, 0), strict=True):
        known = np.zeros((32, 32), bool)
        known[:13, :columns] = True
        np.testing.assert_array_equal(batch["mask_lr"][0, ..., 0], known)
        # The mean of what is known of a block, never of a 0, and the nearest of the image elsewhere.
        assert set(np.unique(batch["depth_lr"])) <= {1.0, 1.75, 2.0}
    np.testing.assert_array_equal(seen[0]["depth_lr"][0, :, 31, 0], np.float32(1.75))
    assert (seen[2]["depth_lr"] == 2).all()
    # What nothing is known of does not count.
    np.testing.assert_allclose(found.mean.metrics["mae"], (256 * 1 + 44 * 3) / 300, rtol=1e-4)


def cells(text):
    """The figures of a row of the specification's Tables 1 and 2: MSE and MAE of each scale."""
    return [Decimal(number) for cell in text for number in re.findall(r"[\d.]+", cell)]


@pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not there")
def test_every_cell_is_the_specifications():
    text = SPEC.read_text()
    published = {name: tables()[f"dada_table{name}"] for name in ("1", "2", "_a1", "_a4")}
    compared = 0
    for column in ("Middlebury", "NYUv2", "DIML"):
        part = text[text.index(f"**{column}**\n| method") :].split("\n\n")[0]
        for line in part.splitlines()[3:]:
            method, *figures = (cell.strip(" *") for cell in line.strip("|").split("|"))
            method = re.sub(r" \(RGB\)|\*\*| \(from supp. Table A1\)", "", method)
            table = published["1" if method in {row.method for row in published["1"].rows} else "2"]
            found = table.row(method).values
            want = cells(figures)
            if not want:
                assert not any(of == column for of, *_ in found), method
                continue
            for scale, pair in zip((4, 8, 16, 32), zip(want[::2], want[1::2], strict=True), strict=True):
                assert (found[column, scale, "mse"], found[column, scale, "mae"]) == pair, (column, method, scale)
                compared += 2
    assert compared == (3 * 13 - 1) * 8
    # Table A4, each data set's methods in one order.
    a4 = re.search(r"Table A4, x32.*?: (.*)", text)
    assert a4
    methods = ["MSG-Net", "DKN", "FDKN", "PMBANet", "FDSR", "LGR", "DADA"]
    for column, part in zip(("Middlebury", "NYUv2", "DIML"), a4[1].split(";"), strict=True):
        triples = re.findall(r"([\d.]+)/([\d.]+)/([\d.]+\d)", part)
        for method, triple in zip(methods, triples, strict=True):
            row = published["_a4"].row(method).values
            got = tuple(row[column, 32, metric] for metric in ("mape", "ve", "ee"))
            assert got == tuple(map(Decimal, triple)), (column, method)
    # DADA stands in Table 1 as in Table A1.
    for column in ("Middlebury", "DIML"):
        for scale in (4, 8, 16, 32):
            for metric in ("mse", "mae"):
                place = column, scale, metric
                assert published["1"].row("DADA").values[place] == published["_a1"].row("DADA").values[place]


IMAGES = {
    "Middlebury": [f"2005/FullSize/Reindeer/view{n}" for n in (1, 5)]
    + [f"2006/FullSize/Bowling{scene}/view{n}" for scene in (1, 2) for n in (1, 5)]
    + [f"2014/full/{scene}-perfect/im{n}" for scene in ("Adirondack", "Motorcycle") for n in (0, 1)],
    "NYUv2": ["00012", "01400"],
    "DIML": ["test/scene/one", "test/scene/two"],
}


@pytest.mark.parametrize("column", IMAGES)
@pytest.mark.parametrize("scale", [4, 8, 16, 32])
def test_the_tables_stand_beside_an_evaluation_by_the_protocol(column, scale):
    tiles = [(f"{name}@{top},0", 256, 256) for name in IMAGES[column] for top in (0, 256)]
    rows = rows_for(evaluation(tiles, "dada", scale, split="dada/test"))
    found = {row.method: row.values["mean"] for row in rows}
    number = {row.method: row.table.name for row in rows}
    assert set(number.values()) == {"dada_table1", "dada_table2"}
    for method, values in found.items():
        want = tables()[number[method]].row(method).values
        assert values == {m: want[column, scale, m] for m in ("mse", "mae")}
    assert len(found) == 13 - (column == "DIML")
    assert rows_for(evaluation(tiles, "dada", 2, split="dada/test")) == []
    assert rows_for(evaluation(tiles, "float", scale, split="dada/test")) == []
