"""The memory benchmark: rows in processes of their own, what they tell, and the ratios drawn from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ahmf_jax.errors import InputError
from experiments import benchmark_memory as memory

TINY: dict[str, Any] = {"batch": 1, "patch": 8, "scale": 2, "features": 2}


def result(num_levels: int, remat: str, cpu_s: float, temporaries: int) -> dict[str, Any]:
    return {
        "num_levels": num_levels,
        "unroll": "rolled",
        "remat": remat,
        "dtype": "float32",
        "compile_cpu_s": cpu_s,
        "temporaries": temporaries,
    }


def test_a_row_is_compiled_and_run_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.json"
    memory.benchmark_memory(
        levels=(1,), **TINY, remats=("blocks",), unrolls=("rolled",), dtypes=("bfloat16",), measure=True, out=out
    )
    (row,) = json.loads(out.read_text())
    assert {name: row[name] for name in ("num_levels", "unroll", "remat", "dtype", "patch")} == {
        "num_levels": 1,
        "unroll": "rolled",
        "remat": "blocks",
        "dtype": "bfloat16",
        "patch": 8,
    }
    # The parameters and Adam's two moments, float32 whatever the arithmetic is, and the batch.
    assert row["arguments"] > 3 * 4 * 1000
    assert row["all"] >= row["arguments"] + row["temporaries"] > row["arguments"]
    assert row["compile_cpu_s"] > 0
    assert row["measured"] is None or row["measured"] > row["temporaries"]  # None where the system does not tell
    printed = capsys.readouterr().out
    assert "training step, AHMF x2, 2 features, Adam, batch 1, 8 x 8" in printed
    assert "  1 rolled   blocks bfloat16" in printed


def test_the_ratios() -> None:
    results = [
        result(4, "none", 10.0, 800),
        result(32, "none", 15.0, 6400),
        result(4, "blocks", 12.0, 200),
        result(32, "blocks", 12.0, 640),
    ]
    assert memory.summary(results) == [
        "float32, rolled, remat none: compiling m = 32 takes 1.50 times m = 4",
        "float32, rolled, remat blocks: compiling m = 32 takes 1.00 times m = 4",
        "float32, rolled: temporaries without remat over blocks: 4.00 at m = 4, 10.00 at m = 32",
    ]


def test_ratios_that_cannot_be_told_are_not() -> None:
    assert memory.summary([result(2, "blocks", 1.0, 100)]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 9}, "--patch 9: give a patch that is a multiple of the scale, 2"),
        ({"batch": 0}, "--batch 0"),
        ({"levels": (0,)}, "num_levels is 0"),
    ],
)
def test_wrong_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        memory.benchmark_memory(**{**TINY, "levels": (1,)} | options)
