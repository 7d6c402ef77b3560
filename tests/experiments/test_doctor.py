"""`ahmf doctor`: that a wrong answer, a missing package and an idle GPU are told, and how the command ends."""

import importlib.metadata
import math

import numpy as np
import pytest
from packaging.requirements import Requirement

from experiments import doctor


@pytest.fixture(scope="module")
def answer():
    return doctor.compute_answer()


def test_the_stored_answer_is_that_of_the_twin_in_pytorch(answer, monkeypatch):
    torch = pytest.importorskip("torch")
    from ahmf_jax import engine, torch_modules, torch_weights

    def run(self, depth, known, guide):
        trained = self._trained
        twin = torch_modules.AHMF(4, trained.model.num_levels, trained.model.features)
        arrays = torch_weights.to_torch(trained.model, trained.params)
        twin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        with torch.inference_mode():
            images = (torch.from_numpy(x[None]) for x in (depth[None], np.moveaxis(guide, -1, 0).copy()))
            return twin(*images).numpy()[0, 0]

    monkeypatch.setattr(engine.Engine, "__call__", run)
    theirs = doctor.compute_answer()
    np.testing.assert_allclose(theirs, answer, atol=1e-5)
    np.testing.assert_allclose(theirs.ravel()[::97], doctor.ANSWER, atol=1e-5)


def test_a_wrong_answer_fails_the_self_test(answer, monkeypatch, ahmf):
    monkeypatch.setattr(doctor, "compute_answer", lambda: answer)
    ended = ahmf("doctor")
    assert ended.code == 0, ended
    assert "self test   passed: largest difference" in ended.out
    for told in ("versions", "variables", "compiled", "data sets", "device"):
        assert f"  {told}" in ended.out
    for wrong in (2e-4, math.nan):
        monkeypatch.setattr(doctor, "compute_answer", lambda wrong=wrong: answer + np.float32(wrong))
        ended = ahmf("doctor")
        assert ended.code == 1
        assert "! self test   FAILED: largest difference" in ended.out


def test_devices_that_do_not_start_are_told(monkeypatch, ahmf):
    import jax

    def fails():
        raise RuntimeError("Unable to initialize backend 'cuda':\nno driver")

    monkeypatch.setattr(jax, "devices", fails)
    ended = ahmf("doctor")
    assert ended.code == 1
    assert "JAX finds none: Unable to initialize backend 'cuda': no driver" in ended.out


def test_an_idle_gpu_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert doctor.unused("cpu", tmp_path) == []
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA X1\nIRQ: 16\n")
    (finding,) = doctor.unused("cpu", tmp_path)
    assert finding.wrong
    assert "NVIDIA X1 is there" in finding.says
    assert finding.remedy == "pip install 'ahmf-jax[cuda12]'"
    assert doctor.unused("gpu", tmp_path) == []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (finding,) = doctor.unused("cpu", tmp_path)
    assert finding.remedy == "unset JAX_PLATFORMS"


def test_what_is_missing_or_of_another_version_is_told(monkeypatch):
    asked = [("numpy>=1", ""), ("numpy<1", ""), ("no-such-thing>2", ""), ("no-such-thing", "more"), ("numpy", "good")]
    monkeypatch.setattr(doctor, "_asked", lambda: [(Requirement(text), extra) for text, extra in asked])
    _, packages, more, good = doctor.requirements()
    assert packages.wrong
    assert packages.value == [f"numpy {importlib.metadata.version('numpy')}, not <1", "no no-such-thing"]
    assert not more.wrong
    assert more.remedy == "if you need it: pip install 'ahmf-jax[more]'"
    assert good.says == "good is there"


def test_an_extra_of_a_requirement_is_looked_into(monkeypatch):
    below = {"jax": ["numpy<1; extra == 'cuda12'", "numpy<1; extra == 'tpu'", "numpy<1"]}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: below.get(name, []))
    assert doctor._missing(Requirement("jax")) == []
    (missing,) = doctor._missing(Requirement("jax[cuda12]"))
    assert missing.startswith("numpy ")


def test_caches_are_measured_and_a_full_disk_is_told(tmp_path, monkeypatch):
    import jax

    folder = tmp_path / "compiled"
    folder.mkdir()
    (folder / "program").write_bytes(bytes(3 * 2**20))
    monkeypatch.setenv("AHMF_DATA_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor, "LOW_DISK", 2**80)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder))
    try:
        compiled, data = doctor.caches()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert "1 files, 3 MiB" in compiled.says
    assert "0 files, 0 MiB" in data.says
    assert compiled.wrong and data.wrong


def test_options_of_a_depth_map_need_one(refused, tmp_path):
    refused("doctor", "--guide", tmp_path / "g.png", said="--guide: .* add --depth FILE")
    refused("doctor", "--depth", tmp_path / "d.png", said="d.png: there is no such file")
    refused("doctor", "--depth", tmp_path / "d.png", "--scale", "1", said="--scale 1: give a whole number from 2")
