"""Where the values of an HDF5 file lie: a program of its own, which `data_pipelines.hdf5` runs in a process of its own.

    python hdf5_index.py FILE '{"images": "|u1"}'

The HDF5 library is C that walks a file's structures by the addresses that stand in them; on files made to harm, it
has overrun its memory again and again. So it gets a process without rights to much memory or time, is asked for
nothing but the places of the stored bytes, and decodes none of them. The answer is one JSON object on standard output:
{"refused": why}, {"damaged": why}, or {"arrays": ...} with, for each array, its shape, stored type, chunk shape (null
where it lies in one piece), filters and the table of its pieces, [first index along each axis..., filter mask, byte
offset, size].
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

# Virtual memory of the process, in bytes.
MAX_MEMORY = 2**30
MAX_PIECES = 2**18

_LAYOUTS = {h5py.h5d.COMPACT: "compact", h5py.h5d.VIRTUAL: "virtual"}
_FILTERS = {h5py.h5z.FILTER_DEFLATE: "deflate", h5py.h5z.FILTER_SHUFFLE: "shuffle"}


class Refused(Exception):
    """What is wrong with the file, and the remedy."""


def index(path: str, types: Mapping[str, str]) -> dict[str, Any]:
    """The place of each array's values; `types` gives each array's NumPy type, for example "<f4"."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)  # a read-only or network file system may know no locks
    file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)
    return {"arrays": {name: _array(file, name, type_) for name, type_ in types.items()}}


def _array(file: h5py.h5f.FileID, name: str, type_: str) -> dict[str, Any]:
    key = name.encode()
    if not file.links.exists(key):
        raise Refused(f"holds no array {name!r}: is this the right file?")
    # Asked before anything is opened: a soft or external link would be followed, also out of the file.
    if file.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise Refused(f"{name} is a link to another place: store the array itself under this name")
    # The default access would look for the parts of a virtual array in other files; the layout is checked first.
    array = h5py.h5o.open(file, key)
    if not isinstance(array, h5py.h5d.DatasetID):
        raise Refused(f"{name} is a folder or a type, not an array: is this the right file?")
    plan = array.get_create_plist()
    layout = plan.get_layout()
    if layout in _LAYOUTS:
        raise Refused(f"{name} is stored {_LAYOUTS[layout]}: store its values in the file itself, in chunks")
    if plan.get_external_count():
        raise Refused(f"{name} is stored in other files: store its values in the file itself, in chunks")
    stored = _stored_type(array, name, type_)
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    for filter_ in filters:
        if filter_ not in _FILTERS:
            raise Refused(f"{name} is packed with filter {filter_}: pack it with gzip alone (h5repack -f GZIP=4)")

    pieces: list[tuple[int, ...]] = []
    if layout == h5py.h5d.CHUNKED:
        chunk = plan.get_chunk()

        def note(info: h5py.h5d.StoreInfo) -> bool | None:
            if info.byte_offset is not None:
                pieces.append((*info.chunk_offset, info.filter_mask, info.byte_offset, info.size))
            return True if len(pieces) > MAX_PIECES else None  # anything but None ends the walk

        array.chunk_iter(note)
        if len(pieces) > MAX_PIECES:
            raise Refused(f"{name} lies in more than {MAX_PIECES} chunks: store it in larger ones")
    else:
        chunk = None
        offset = array.get_offset()
        if offset is not None:
            pieces.append((*[0] * array.rank, 0, offset, array.get_storage_size()))
    return {
        "shape": array.shape or (),  # None where it holds nothing
        "type": stored,
        "chunk": chunk,
        "filters": [_FILTERS[filter_] for filter_ in filters],
        "pieces": pieces,
    }


def _stored_type(array: h5py.h5d.DatasetID, name: str, type_: str) -> str:
    """The NumPy type of the bytes: `type_` in one byte order or the other."""
    kind = array.get_type()
    for stored in (np.dtype(type_).newbyteorder("<"), np.dtype(type_).newbyteorder(">")):
        if kind.equal(h5py.h5t.py_create(stored)):
            return stored.str
    raise Refused(f"{name} does not hold {np.dtype(type_).name}: is this the right file?")


def answer(path: str, types: Mapping[str, str]) -> dict[str, Any]:
    """`index`, or why there is none."""
    try:
        return index(path, types)
    except Refused as error:
        return {"refused": str(error)}
    # Whatever the library raises: the file is all that it was given.
    except Exception as error:
        return {"damaged": str(error)}


def main() -> None:
    """Prints the answer for the file and the arrays that the command line names."""
    path, types = sys.argv[1:]
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has or honours these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    json.dump(answer(path, json.loads(types)), sys.stdout)


if __name__ == "__main__":
    main()
