"""The loader's benchmark: all programs make the same kind of batch of the same records; what the report says."""

import json

import numpy as np
import pytest

from ahmf_jax.errors import InputError
from experiments import benchmark_data
from experiments.benchmark_data import CACHED, DECODING, OURS, PROGRAMS, THREADS, Records, Sizes

SIZES = Sizes(height=24, width=32, patch=16, batch=2, records=4, few=2, many=4, batches=2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "records"
    benchmark_data.write_records(folder, 4, 24, 32, distinct=3)
    return Records(folder, 4, 24, 32)


def test_the_records_differ_and_the_last_repeat_the_first(records):
    read = [records.read(i) for i in range(4)]
    assert [name for *_, name in read] == records.names == ["0000", "0001", "0002", "0003"]
    for guide, depth, _ in read:
        assert guide.shape == (24, 32, 3) and depth.shape == (24, 32) and np.ptp(depth) > 0.5
        assert depth.min() > 0 and depth.max() < 10
    assert (read[0][0] != read[1][0]).any() and (read[0][1] != read[1][1]).any()
    np.testing.assert_array_equal(read[0][1], read[3][1])


def test_the_programs_do_the_same_work(records):
    """Alike in all but what ours adds; and what PyTorch's data set gives does not depend on the cache."""
    pytest.importorskip("torch")
    found = {}
    for program, make in (
        (THREADS, benchmark_data._our_batches(records, 0, SIZES)),
        (DECODING, benchmark_data._torch_batches(records, 0, SIZES, keep=False)),
        (CACHED, benchmark_data._torch_batches(records, 0, SIZES, keep=True)),
    ):
        with make() as batches:
            found[program] = [{name: np.asarray(x) for name, x in next(batches).items()} for _ in range(3)]
    ours, theirs = ({name: (x.shape, x.dtype) for name, x in found[p][0].items()} for p in (THREADS, DECODING))
    assert ours.pop("depth_span") == ((2, 2), np.float32) and ours == theirs
    for one, other in zip(found[DECODING], found[CACHED], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for batch in (batch for batches in found.values() for batch in batches):
        assert batch["guide"].min() >= 0 and 0.2 < batch["guide"].max() <= 1
        assert batch["depth_hr"].min() > 0.1 and batch["depth_hr"].max() < 1
        difference = batch["depth_lr"] - batch["depth_hr"][:, 2::4, 2::4]
        assert 0 < np.abs(np.median(difference)) < 0.1
    assert len({batch["guide"].tobytes() for batch in found[DECODING]}) == 3


def test_a_process_answers_and_ends(records):
    with benchmark_data._process(THREADS, 1, records.folder, 4, SIZES) as (ask, ready):
        assert 0 < ready["imports"] < 60 and 0 < ready["first"] < 60
        answer = ask(skip=1, batches=20)
        assert answer["rate"] > 10 and 0 <= answer["cpu_ms"] < 1000 and 50 < answer["memory"] < 1000
    wrong = benchmark_data._process(THREADS, 1, records.folder, 0, SIZES)  # no records
    with pytest.raises(RuntimeError, match="the process of ours, in threads ended with status 1"), wrong:
        pass


def report(ours=1000.0, many=210.0, first=1.5):
    return {
        "machine": {"cpu": "a processor", "load": 0.1, "versions": {"torch": "2"}},
        "sizes": json.loads(json.dumps(benchmark_data.asdict(SIZES))),
        "workers": 2,
        "first epoch": {OURS: [100.0, 120.0, 90.0]},
        "rate": {
            OURS: [ours, ours + 100, ours - 100],
            THREADS: [700.0] * 3,
            DECODING: [300.0] * 3,
            CACHED: [400.0] * 3,
        },
        "cpu_ms": {program: [1.25] * 3 for program in PROGRAMS},
        "first batch": {OURS: [{"imports": 1.0, "first": first}] * 3},
        "memory": {"2": 200.0, "4": many},
    }


def test_the_table():
    text = benchmark_data.table(report())
    assert "ours                          1000      900 - 1100                    1.25" in text
    for line in (
        "times PyTorch: 3.3; target 2  met",
        "times PyTorch with our cache: 2.50",
        "patches/s after the first epoch: 1000; target 600  met; in the first epoch, which decodes and writes: 100",
        "memory of all processes: 210 MiB with 4 records, 200 MiB with 2; target 1.1 times  met",
        "first batch, ours: 1.50 s, and 1.00 s of imports before; target 2 s  met",
    ):
        assert line in text, text
    assert "MISSED" not in text and "load" not in text
    assert benchmark_data.table(report(ours=550.0, many=230.0, first=2.5)).count("MISSED") == 4
    busy = report()
    busy["machine"]["load"] = 3.0
    assert "load 3.0 before the start" in benchmark_data.table(busy)


def test_what_cannot_be_measured():
    with pytest.raises(InputError, match="--rounds 0: give at least 1"):
        benchmark_data.benchmark_data(0, 1, None)
    with pytest.raises(InputError, match="--workers 0: give at least 1"):
        benchmark_data.benchmark_data(1, 0, None)
