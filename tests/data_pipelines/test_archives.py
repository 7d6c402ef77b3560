"""Archives: what is in them comes out; what is hostile or damaged is one line, and leaves nothing anywhere."""

import errno
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from ahmf_jax.errors import InputError
from data_pipelines import archives

RNG = random.Random(0)
FILES = {"2006/Aloe/view1.png": b"one" * 1000, "2006/Aloe/disp1.png": RNG.randbytes(100_000), "empty.txt": b""}
TARS = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = (".zip", *TARS)


def make(path, files, **options):
    """An archive of the files: name -> bytes, or a TarInfo -> bytes for what is no plain file."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path, "w", options.get("method", zipfile.ZIP_DEFLATED)) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode = next(mode for suffix, mode in TARS.items() if path.name.lower().endswith(suffix))
    with tarfile.open(path, mode, format=options.get("format", tarfile.PAX_FORMAT)) as archive:
        for name, data in files.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(place, path, *words, **options):
    """Unpacking raises one line that begins with the archive's name and holds the words, and leaves nothing."""
    before = sorted(place.rglob("*"))
    for call in (archives.extract, archives.unpacked):
        target = place / "target" if call is archives.extract else place
        with pytest.raises(InputError) as caught:
            call(path, target, **options)
        line = str(caught.value)
        assert line.startswith(f"{path}: ") and "\n" not in line
        for word in words:
            assert word in line
        assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_byte_comes_out(tmp_path, suffix):
    path = make(tmp_path / f"a{suffix}", FILES)
    archives.extract(path, tmp_path / "target")
    assert tree(tmp_path / "target") == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "target"])
    assert archives.is_archive(path) and archives.is_archive(make(tmp_path / f"B{suffix.upper()}", FILES))
    with pytest.raises(InputError, match=r"target: cannot be written \(Directory not empty\): write elsewhere"):
        archives.extract(path, tmp_path / "target")
    assert tree(tmp_path / "target") == FILES


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format(tmp_path, format):
    long = "/".join(["f" * 60] * 4 if format != tarfile.USTAR_FORMAT else ["f" * 40] * 4) + "/d.png"
    files = {long: b"x" * 513, "b": b"y" * 512, "c": b"z" * 2**20}
    archives.extract(make(tmp_path / "a.tar.gz", files, format=format), tmp_path / "target")
    assert tree(tmp_path / "target") == files


def test_folders_and_names_of_all_sorts(tmp_path):
    info = tarfile.TarInfo("./a/b")
    info.type = tarfile.DIRTYPE
    path = make(
        tmp_path / "a.tar", {info: b"", "./a/c.png": b"1", "a//d \u00e4.png": b"2", "__MACOSX/._c": b"", "e": b""}
    )
    archives.extract(path, tmp_path / "target")
    assert tree(tmp_path / "target") == {"a/c.png": b"1", "a/d \u00e4.png": b"2", "e": b""}
    assert (tmp_path / "target/a/b").is_dir()
    archives.extract(make(tmp_path / "a.zip", {"a/b/": b"", "a/.DS_Store": b"x"}), tmp_path / "zipped")
    assert [p.name for p in (tmp_path / "zipped").rglob("*")] == ["a", "b"]


def test_members_get_plain_rights(tmp_path):
    info = tarfile.TarInfo("a/b")
    info.mode = 0o7777
    archives.extract(make(tmp_path / "a.tar", {info: b"1"}), tmp_path / "target")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").touch()
    for made, plain in (("target", "plain"), ("target/a", "plain"), ("target/a/b", "plain/file")):
        assert (tmp_path / made).stat().st_mode == (tmp_path / plain).stat().st_mode


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    ("name", "word"),
    [
        (".", "is no name"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a/..", "leads out"),
        ("/x", "leads out"),
        ("//x", "leads out"),
        ("C:/x", "leads out"),
        ("c:x", "leads out"),
        ("..\\x", "leads out"),
        ("a\\x", "leads out"),
        ("a\nb", "leads out"),
        ("x" * 256, "too long a name"),
        ("/".join("a" * 40), "too long a name or too deep"),
    ],
)
def test_a_name_that_leads_out_refuses_the_archive(tmp_path, suffix, name, word):
    place = tmp_path / "place"
    place.mkdir()
    path = make(tmp_path / f"a{suffix}", {"first": b"1", name: b"2"})
    refused(place, path, word)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "place"]


def test_a_zero_byte_does_not_end_a_name(tmp_path):
    path = make(tmp_path / "a.zip", {"aaaaXbbb": b"1"})
    path.write_bytes(path.read_bytes().replace(b"aaaaXbbb", b"aaaa\0bbb"))
    refused(tmp_path, path)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_a_tars_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "../../etc"
    refused(tmp_path, make(tmp_path / "a.tar", {info: b"", "link/x": b"1"}), "is a link, a device or a sparse file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_zips_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    refused(tmp_path, make(tmp_path / "a.zip", {info: b"/etc", "link/x": b"1"}), "is a link or a device")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_one_to_some_file_system_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for names, word in (
        (("a/View1.png", "a/view1.png"), "in capitals only"),
        (("A/x", "a/y"), "in capitals only"),
        (("\u00e4", "a\u0308"), "in capitals only"),
        (("a", "a/b"), "as a file and as a folder"),
        (("a/b", "a"), "as a file and as a folder"),
    ):
        refused(tmp_path, make(path, dict.fromkeys(names, b"1")), word)
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", b"1")
            archive.writestr("a", b"2")
    else:
        make(path, {tarfile.TarInfo("a"): b"1", tarfile.TarInfo("a"): b"2"})
    refused(tmp_path, path, "holds 'a' twice")


def test_an_encrypted_zip_and_methods_that_unpack_without_bound_are_refused(tmp_path):
    path = make(tmp_path / "a.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + at] |= 1
    path.write_bytes(data)
    refused(tmp_path, path, "is encrypted: unpack it by hand")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(tmp_path, make(path, {"a": b"1"}, method=method), f"packed by method {method}")


# Bombs


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_are_counted_as_they_are_written(tmp_path, suffix, monkeypatch):
    path = make(tmp_path / f"a{suffix}", {"a": bytes(600), "b": bytes(600)})
    refused(tmp_path, path, "more than 1199 bytes", max_bytes=1199)
    archives.extract(path, tmp_path / "target", max_bytes=1200)
    # An archive that unpacks to a thousand times its size is none of images.
    monkeypatch.setattr(archives, "_FREE_BYTES", 0)
    monkeypatch.setattr(archives, "_BLOCK", 2**14)
    path = make(tmp_path / f"b{suffix}", {str(i): bytes(2**20) for i in range(8)})
    if suffix != ".tar":
        refused(tmp_path, path, "bytes, which is the limit for an archive of its size")


def test_a_zips_own_word_for_its_size_is_not_believed(tmp_path):
    path = make(tmp_path / "a.zip", {"a": bytes(100_000)})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # "unpacks to 10 bytes"
    path.write_bytes(data)
    refused(tmp_path, path, max_bytes=1000)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_members_are_counted(tmp_path, suffix):
    path = make(tmp_path / f"a{suffix}", {str(i): b"" for i in range(6)})
    refused(tmp_path, path, "more than 5 files", max_files=5)
    archives.extract(path, tmp_path / "target", max_files=6)


def test_headers_that_claim_much_memory_are_refused(tmp_path):
    # A header of a header, of 8 GiB.
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path, path, "a header claims 8589934592 bytes")
    # A dictionary of 1.5 GiB.
    path = tmp_path / "a.tar.xz"
    small = lzma.compress(bytes(10240), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**26}])
    path.write_bytes(small)
    archives.extract(path, tmp_path / "small")
    # The block header's byte for the dictionary's size, with the header's checksum put right.
    header = bytearray(small[12 : 12 + (small[12] + 1) * 4])
    header[4] = 37
    header[-4:] = struct.pack("<I", zlib.crc32(header[:-4]))
    path.write_bytes(small[:12] + header + small[12 + len(header) :])
    refused(tmp_path, path, "Memory usage limit")
    # A directory of 64 MiB.
    path = make(tmp_path / "a.zip", {"a": b""})
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    path.write_bytes(data[:end] + bytes(2**26) + data[end : end + 12] + struct.pack("<I", 2**26) + data[end + 16 :])
    refused(tmp_path, path, "its directory claims 67108864 bytes")


def test_a_tar_whose_headers_lead_in_a_circle_is_refused(tmp_path):
    info = tarfile.TarInfo("a")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + struct.pack(">i", -512)  # a size of -512
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar"
    path.write_bytes(header + bytes(1024))
    start = time.monotonic()
    refused(tmp_path, path)
    assert time.monotonic() - start < 2


# Damage


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_refused(tmp_path, suffix):
    path = make(tmp_path / f"a{suffix}", {"a": RNG.randbytes(300), "b": b"1" * 600})
    whole = path.read_bytes()
    # A tar is padded with zeros after its end, which are nobody's loss.
    end = 512 * 5 if suffix == ".tar" else len(whole)
    for length in {*range(1, end, 97), end - 1}:
        path.write_bytes(whole[:length])
        refused(tmp_path, path, "is no readable")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path, suffix):
    files = {"a": RNG.randbytes(100), "b": b"12" * 30}
    path = make(tmp_path / f"a{suffix}", files)
    whole = path.read_bytes()
    refusals = 0
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            archives.extract(path, tmp_path / "target")
        except InputError as error:
            assert "\n" not in str(error)
            refusals += 1
        else:
            # A zip's directory holds names, which no checksum guards.
            assert sorted(tree(tmp_path / "target").values()) == sorted(files.values())
            shutil.rmtree(tmp_path / "target")
    assert refusals > len(whole) // 20


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.7z").write_bytes(b"7z")
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    for name, word in (("a.7z", "unpack it by hand"), ("a.rar", "unpack it by hand"), ("b.zip", "no such file")):
        refused(tmp_path, tmp_path / name, word)
    for suffix in SUFFIXES:
        path = tmp_path / f"c{suffix}"
        path.write_bytes(b"")
        refused(tmp_path, path, "is no readable")
        path.write_bytes(b"no archive at all" * 100)
        refused(tmp_path, path, "is no readable")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zip", FILES)
    plain = Path.open

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode="r": Full(self, mode) if mode == "xb" else plain(self, mode))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"view1.png: cannot be written \(No space left on device\): free some space"):
        archives.extract(path, tmp_path / "target")
    with pytest.raises(InputError, match="free some space"):
        archives.unpacked(tmp_path, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, error):
    path = make(tmp_path / "a.zip", FILES)

    def stop(*_):
        raise error

    monkeypatch.setattr(archives._Tree, "_add_file", stop)
    with pytest.raises(type(error)):
        archives.extract(path, tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


# Whole folders of downloads


@pytest.fixture
def aside(tmp_path):
    folder = tmp_path / "aside"
    folder.mkdir()
    return folder


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_without_archives_and_a_plain_file_are_their_own(tmp_path, aside):
    source = write(tmp_path / "download", FILES)
    assert archives.unpacked(source, aside) == (source, [])
    assert archives.unpacked(source / "empty.txt", aside) == (source / "empty.txt", [])
    assert list(aside.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_archive(tmp_path, aside, suffix):
    path = make(tmp_path / f"a{suffix}", FILES)
    for place in (aside, tmp_path / "new" / "aside"):
        folder, _ = archives.unpacked(path, place)
        assert folder.parent == place and tree(folder) == FILES


def test_archives_are_unpacked_where_they_lie_beside_the_files(tmp_path, aside):
    source = write(
        tmp_path / "download", {"2003/cones/im2.png": b"c", "notes.txt": b"n", "b.rar": b"r", "._c.zip": b"a"}
    )
    make(source / "aloe.zip", {"2006/Aloe/view1.png": b"1"})
    make(source / "2006.zip", {"2006/Baby/view1.png": b"2", "2006/Aloe/disp1.png": b"3"})
    make(source / "2003" / "teddy.tar.gz", {"teddy/im2.png": b"4"})
    before = tree(source)
    folder, _ = archives.unpacked(source, aside)
    assert tree(folder) == {
        "2003/cones/im2.png": b"c",
        "2003/teddy/im2.png": b"4",
        "2006/Aloe/disp1.png": b"3",
        "2006/Aloe/view1.png": b"1",
        "2006/Baby/view1.png": b"2",
        "._c.zip": b"a",
        "b.rar": b"r",
        "notes.txt": b"n",
    }
    assert tree(source) == before
    assert (folder / "notes.txt").is_symlink() and not any(p.is_symlink() for p in folder.rglob("*") if p.is_dir())


def test_an_archive_that_was_unpacked_and_kept_changes_nothing(tmp_path, aside):
    source = write(tmp_path / "download", {"Aloe/view1.png": b"as the user has it"})
    make(source / "Aloe.zip", {"Aloe/view1.png": b"as packed", "Aloe/view5.png": b"5"})
    folder, _ = archives.unpacked(source, aside)
    assert tree(folder) == {"Aloe/view1.png": b"as the user has it", "Aloe/view5.png": b"5"}
    assert (source / "Aloe/view1.png").read_bytes() == b"as the user has it"


def test_two_archives_must_agree_but_for_their_notes(tmp_path, aside):
    source = tmp_path / "download"
    source.mkdir()
    make(source / "a.zip", {"x.png": b"12", "README.txt": b"a's"})
    make(source / "b.tar", {"x.png": b"12", "README.txt": b"b's"})
    assert tree(archives.unpacked(source, aside)[0]) == {"x.png": b"12", "README.txt": b"a's"}
    for other in (b"1", b"123", b"13"):
        make(source / "b.tar", {"x.png": other})
        with pytest.raises(InputError) as caught:
            archives.unpacked(source, tmp_path)
        assert str(caught.value).startswith(f"{source / 'b.tar'}: holds another 'x.png' than {source / 'a.zip'}: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aside", "download"]


def test_nothing_is_written_through_the_links(tmp_path, aside):
    """The user's own links to folders: an archive beside them must not reach what they lead to."""
    kept = write(tmp_path / "kept", {"view1.png": b"kept"})
    source = tmp_path / "download"
    source.mkdir()
    (source / "Aloe").symlink_to(kept)
    make(source / "a.zip", {"Aloe/view1.png": b"new", "Aloe/view5.png": b"5"})
    assert tree(archives.unpacked(source, aside)[0]) == {"Aloe/view1.png": b"kept", "Aloe/view5.png": b"5"}
    assert tree(kept) == {"view1.png": b"kept"}
    make(source / "a.zip", {"Aloe/view1.png/x": b"new"})
    with pytest.raises(InputError, match="as a file and as a folder"):
        archives.unpacked(source, tmp_path)


def test_links_in_a_circle_are_walked_once(tmp_path, aside):
    source = write(tmp_path / "download", {"a/b/x.png": b"1"})
    (source / "a/b/up").symlink_to(source)
    (source / "a/broken").symlink_to("nowhere")
    make(source / "a.zip", {"y.png": b"2"})
    assert tree(archives.unpacked(source, aside)[0]) == {"a/b/x.png": b"1", "y.png": b"2"}


def test_the_limits_hold_for_all_archives_together(tmp_path, aside):
    source = tmp_path / "download"
    source.mkdir()
    for i in range(3):
        make(source / f"{i}.zip", {str(i): bytes(100)})
    with pytest.raises(InputError, match=r"2.zip: unpacks to more than 299 bytes"):
        archives.unpacked(source, aside, max_bytes=299)
    with pytest.raises(InputError, match=r"2.zip: makes more than 2 files"):
        archives.unpacked(source, aside, max_files=2)
    assert len(tree(archives.unpacked(source, aside, max_bytes=300, max_files=3)[0])) == 3


def test_a_broken_archive_in_a_folder_is_passed_over_whole(tmp_path, aside):
    source = tmp_path / "download"
    source.mkdir()
    good = {"x.png": b"12", "a/y.png": b"3"}
    make(source / "b.zip", good)
    torn = make(source / "a.tar", {"x.png": b"12", "new/deep/z.png": RNG.randbytes(9000)})
    torn.write_bytes(torn.read_bytes()[:-12_000])  # it brings x.png, which b.zip must bring again, and folders
    make(source / "c.zip", {"d/w.png": b"4", "../up.png": b"5"})
    folder, notes = archives.unpacked(source, aside)
    assert tree(folder) == good and not (folder / "new").exists() and not (folder / "d").exists()
    assert [note.split(" (")[0].split(" leads")[0] for note in notes] == [
        f"passed over: {torn}: is no readable .tar file",
        f"passed over: {source / 'c.zip'}: '../up.png'",
    ]
    # Where nothing else is there, it is the one that was meant.
    for name in ("b.zip", "c.zip"):
        (source / name).unlink()
    with pytest.raises(InputError, match=r"^.*a.tar: is no readable .tar file"):
        archives.unpacked(source, tmp_path / "again")
    assert list((tmp_path / "again").iterdir()) == []
