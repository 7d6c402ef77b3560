"""PyTorch weight files."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ahmf_jax.errors import InputError
from ahmf_jax.writing import write_whole


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch weight file without running anything that it holds.

    Args:
      path: a file of `{"state": {name: tensor}}` or `{"model": {name: tensor}}`, as the authors of AHMF and of DADA
        write it, whatever is beside it, or of `{name: tensor}`.

    Returns:
      `{name: array}`, the names as stored ("module." and all). bfloat16, which NumPy lacks, becomes float32.

    Raises:
      InputError: no such file, not a readable weight file, objects other than tensors in it, bytes that are not what
        they were (of a file from before PyTorch 1.6, which is no zip, nothing tells that of a tensor's).
    """
    try:
        _check_sums(Path(path))
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: give a PyTorch weight file") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a PyTorch weight file, or one that holds objects other than tensors, which are never "
            "loaded: save the state dict alone, torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # damaged bytes surface as nearly any exception of torch, zip or pickle
        raise InputError(
            f"{path}: damaged or not a PyTorch weight file ({type(error).__name__}): get it anew"
        ) from error
    state = stored.get("state", stored.get("model", stored)) if isinstance(stored, Mapping) else stored
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{path}: holds no state dict: save one, torch.save(model.state_dict(), path)")
    wrong = [ascii(name) for name, value in state.items() if not (isinstance(name, str) and is_plain(value))]
    if wrong:
        raise InputError(f"{path}: not dense real tensors: {', '.join(wrong)}: save the state dict alone")
    return {name: as_numpy(value) for name, value in state.items()}


def _check_sums(path: Path) -> None:
    """BadZipFile where a file of PyTorch's, a zip, does not hold what its checksums say, which PyTorch does not read.

    It holds all as it is: what claims to be more than the file, by compression or by parts that overlap, is not read.
    All sums are 0 where it was told to write none (`torch.serialization.set_crc32_options`).
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile
        if any(part.CRC for part in parts) and file.testzip():
            raise zipfile.BadZipFile


def is_plain(value: object) -> bool:
    """True for a dense real tensor that holds its data (not sparse, quantized or meta)."""
    if not isinstance(value, Tensor):
        return False
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_complex()
    return dense and value.device.type == "cpu"


def as_numpy(value: Tensor) -> np.ndarray:
    """The tensor's values as an array; bfloat16 widened to float32, which is exact."""
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def write_pth(path: str | Path, arrays: Mapping[str, np.ndarray], key: str = "state", prefix: str = "module.") -> None:
    """Writes weights as the authors' files have them: `{key: {"<prefix><name>": tensor}}`, or what is inside alone.

    The file appears under its name when it is complete, or not at all.

    Args:
      path: the file to write; an existing one is replaced.
      arrays: `{name: array}`, as `torch_weights.to_torch` gives, with or without the prefix. Floating arrays are
        written as float32.
      key: of the state dict: "state" of an AHMF, "model" of a DADA, "" of the others, whose file holds nothing else.
      prefix: of every name: "module." of an AHMF, "" of the others.

    Raises:
      InputError: the file cannot be written there.
    """
    state = {f"{prefix}{name.removeprefix(prefix)}": as_tensor(value) for name, value in arrays.items()}
    data = io.BytesIO()
    torch.save({key: state} if key else state, data)
    write_whole(path, data.getbuffer())


def as_tensor(value: np.ndarray) -> Tensor:
    """A tensor of its own memory, float32 unless the array holds whole numbers."""
    return torch.tensor(np.array(value, value.dtype if value.dtype.kind in "iu" else np.float32))
