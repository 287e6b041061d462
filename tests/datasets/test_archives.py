"""Archives that would write elsewhere, fill the disk, or are damaged."""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile

import pytest
from fake_archives import archive_of

from common.errors import UsageError
from datasets import archives


def unpack(archive, folder):
    return archives.unpack(archive, lambda name: folder / name)


def tar_of(path, *members):
    """A tar file of (name, options of TarInfo, content)."""
    with tarfile.open(path, "w") as file:
        for name, options, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in options.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    return name, {"type": kind, "linkname": target}, b""


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_chain_of_links_beyond_the_path_limit(tmp_path):
    """It makes realpath give up, and then Python 3.11.7's "data" filter lets ".." pass."""
    long = "d" * 247
    members, path = [], ""
    for step in "abcdefghijklmnop":
        members.append((f"{path}{long}", {"type": tarfile.DIRTYPE}, b""))
        members.append(link(f"{path}{step}", long))
        path += f"{step}/"
    members.append(link(f"{path}{'l' * 254}", "../" * 16))
    members.append(link("escape", f"{path}{'l' * 254}/.."))
    members.append(("escape/outside.txt", {}, b"written"))
    members.append(("ok.txt", {}, b"ok"))
    archive = tar_of(tmp_path / "x.tar", *members)
    folder = tmp_path / "data" / "set"
    with pytest.raises(UsageError, match="x.tar: cannot be unpacked .its member .* is a link"):
        unpack(archive, folder)
    # What was wanted alone is had; links that nobody asked for are passed over.
    wanted = tmp_path / "wanted"
    assert archives.unpack(archive, lambda n: wanted / n if n == "ok.txt" else None) == 1
    assert everything_below(wanted) == ["ok.txt"]
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize(
    "member",
    [
        link("a", "/etc"),
        link("a", "../outside"),
        link("a", "b", tarfile.LNKTYPE),
        ("a", {"type": tarfile.FIFOTYPE}, b""),
        ("a", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""),
        ("a", {"type": tarfile.BLKTYPE}, b""),
    ],
)
def test_links_and_devices_are_refused(tmp_path, member):
    archive = tar_of(tmp_path / "x.tar", member, ("a/b.txt", {}, b"x"))
    with pytest.raises(UsageError, match="member 'a' is a link, a device or a pipe"):
        unpack(archive, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_links_in_a_zip_file_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("a")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc")
        file.writestr("a/b.txt", "x")
    with pytest.raises(UsageError, match="member 'a' is a link"):
        unpack(tmp_path / "x.zip", tmp_path / "set")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "\\x", "..\\x", "C:\\x", "C:x", "a\\..\\..\\x"]
)
@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_names_that_leave_are_refused_even_if_nobody_asked(tmp_path, name, suffix):
    path = tmp_path / f"y.{suffix}"
    with pytest.raises(UsageError, match="leaves the folder"):
        archives.unpack(archive_of(path, {name: b"x"}), lambda name: None)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_usual_ways_to_write_names(tmp_path, suffix):
    names = {"./a//b.txt": b"1", "c\\d.txt": b"2", "e..f/..g": b"3"}
    assert unpack(archive_of(tmp_path / f"y.{suffix}", names), tmp_path / "set") == 3
    assert everything_below(tmp_path / "set") == [
        "a",
        "a/b.txt",
        "c",
        "c/d.txt",
        "e..f",
        "e..f/..g",
    ]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_a_member_twice_is_refused(tmp_path, suffix):
    if suffix == "tar":
        archive = tar_of(tmp_path / "y.tar", ("a", {}, b"1"), ("./a", {}, b"2"))
    else:
        archive = tmp_path / "y.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a", "1")
            file.writestr("a", "2")
    with pytest.raises(UsageError, match="member 'a' is there twice"):
        unpack(archive, tmp_path / "set")


@pytest.mark.parametrize("kind", ["zip", "gz", "xz", "bz2"])
def test_bombs(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "FLOOR", 1 << 20)
    zeros = bytes(4 << 20)
    archive = tmp_path / "x"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a", zeros)
    else:
        plain = tar_of(tmp_path / "plain", ("a", {}, zeros)).read_bytes()
        archive.write_bytes({"gz": gzip, "xz": lzma, "bz2": bz2}[kind].compress(plain))
    with pytest.raises(UsageError, match="x: cannot be unpacked .it unpacks to more than"):
        unpack(archive, tmp_path / "set")
    with pytest.raises(UsageError, match="unpacks to more than") if kind != "zip" else _nothing():
        archives.unpack(archive, lambda name: None)  # skipping it unpacks it too


class _nothing:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_a_name_of_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_READ", 1 << 20)
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 3 << 20
    (tmp_path / "x.tar").write_bytes(info.tobuf() + bytes(4 << 20))
    with pytest.raises(UsageError, match="cannot be unpacked"):
        unpack(tmp_path / "x.tar", tmp_path / "set")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    archive = archive_of(tmp_path / "x.zip", {str(k): b"" for k in range(6)})
    with pytest.raises(UsageError, match="more than 5 files"):
        unpack(archive, tmp_path / "set")


@pytest.mark.parametrize("suffix", [".zip", ".tgz", ".tar"])
def test_truncated_archives(tmp_path, suffix):
    archive = archive_of(tmp_path / f"x{suffix}", {f"a/{k}.jpg": os.urandom(500) for k in range(9)})
    whole = archive.read_bytes()
    for share in (0, 0.3, 0.7):
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UsageError, match=f"x{suffix}: cannot be unpacked"):
            unpack(archive, tmp_path / f"set{share}")


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path):
    archive = archive_of(tmp_path / "x.tar", {f"{k}.jpg": b"x" * 100 for k in range(5)})
    content = bytearray(archive.read_bytes())
    content[2 * 1024 + 150] ^= 0x55  # in the checksum of the third member's header
    archive.write_bytes(content)
    with pytest.raises(UsageError, match="damaged, or cut off, at byte 2,048"):
        unpack(archive, tmp_path / "set")


def test_a_flipped_bit_in_a_zip_file(tmp_path):
    archive = archive_of(tmp_path / "x.zip", {"a": b"content" * 50})
    content = bytearray(archive.read_bytes())
    content[content.index(b"content") + 3] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UsageError, match="x.zip: cannot be unpacked .*Bad CRC"):
        unpack(archive, tmp_path / "set")


def test_what_the_disk_refuses_is_said_as_it_is(tmp_path):
    archive = archive_of(tmp_path / "x.zip", {"a": b"1"})
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory|File exists"):
        unpack(archive, tmp_path / "file")
