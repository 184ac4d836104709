"""Packing what a directory holds, and unpacking what somebody sent."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import socket
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.apps.package import Package, PackageLimits, Packages, write_archive
from stepwell.model.errors import InvalidInput, TooLarge


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path / "packages")


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archived(folder: Path) -> io.BytesIO:
    target = io.BytesIO()
    write_archive(folder, target)
    target.seek(0)
    return target


def a_tar(*entries: tuple[tarfile.TarInfo, bytes], packed: bool = True) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz" if packed else "w:") as tar:
        for entry, content in entries:
            entry.size = entry.size or len(content)
            tar.addfile(entry, io.BytesIO(content))
    raw.seek(0)
    return raw


def an_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


def a_zip(*entries: tuple[str, bytes], mode: int = 0) -> io.BytesIO:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    raw.seek(0)
    return raw


def test_what_is_stored_is_what_was_there_and_cannot_be_changed(app: Path, packages: Packages) -> None:
    files: dict[str, bytes | str] = {"inf.yml": "name: a", "lib/helper.py": b"x = 1", "empty": b""}
    package = packages.add(fill(app, files))
    assert contents(package.directory) == {"inf.yml": b"name: a", "lib/helper.py": b"x = 1", "empty": b""}
    assert (package.files, package.size_bytes) == (3, 12)
    assert packages.find(package.checksum) == package.directory
    for path in (package.directory, *package.directory.rglob("*")):
        assert not path.stat().st_mode & 0o222


def test_the_same_content_is_one_package_however_often_it_comes(app: Path, tmp_path: Path, packages: Packages) -> None:
    fill(app, {"b.py": "2", "a/z.py": "1"})
    first = packages.add(app)
    again = fill(tmp_path / "other", {"a/z.py": "1", "b.py": "2"})
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: packages.add(again).checksum, range(16))) == {first.checksum}
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [first.checksum]


def test_the_checksum_tells_names_contents_and_executables_apart(app: Path, packages: Packages) -> None:
    def checksum(files: dict[str, bytes | str], executable: str = "") -> str:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), files)
            if executable:
                (Path(folder) / executable).chmod(0o755)
            return packages.add(Path(folder)).checksum

    variants = [
        checksum({"a": "1", "b": "2"}), checksum({"a": "2", "b": "1"}), checksum({"a": "12", "b": ""}),
        checksum({"a1": "", "b": "2"}), checksum({"a/b": "12"}), checksum({"a": "1", "b": "2"}, executable="a"),
    ]  # fmt: skip
    assert len(set(variants)) == len(variants)


def test_links_are_followed_also_out_of_the_directory(app: Path, tmp_path: Path, packages: Packages) -> None:
    fill(tmp_path, {"helper.py": "shared", "models/small.bin": "weights"})
    (app / "helper.py").symlink_to("../helper.py")
    (app / "models").symlink_to(tmp_path / "models")
    (app / "same.py").symlink_to("helper.py")
    package = packages.add(app)
    assert contents(package.directory) == {"helper.py": b"shared", "same.py": b"shared", "models/small.bin": b"weights"}
    assert not any(path.is_symlink() for path in package.directory.rglob("*"))


def test_a_link_to_nothing_is_refused_by_name(app: Path, packages: Packages) -> None:
    fill(app, {"lib/a.py": ""})
    (app / "lib" / "helper.py").symlink_to("../../provider_helper.py")
    with pytest.raises(InvalidInput, match=r"lib/helper\.py is a link to \.\./\.\./provider_helper\.py, which is not"):
        packages.add(app)
    assert list((app.parent / "packages").iterdir()) == []


@pytest.mark.parametrize("leads_to", ["..", ".", "loop"])
def test_links_in_a_circle_are_refused_by_name(app: Path, packages: Packages, leads_to: str) -> None:
    fill(app, {"lib/a.py": ""})
    (app / "lib" / "loop").symlink_to(leads_to)
    with pytest.raises(InvalidInput, match=r"^lib/loop"):
        packages.add(app)


def test_what_is_no_file_is_refused(app: Path, packages: Packages) -> None:
    os.mkfifo(app / "pipe")
    with pytest.raises(InvalidInput, match=r"pipe is no file and no folder"):
        packages.add(app)
    (app / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(app / "door"))
        with pytest.raises(InvalidInput, match=r"door is no file and no folder"):
            packages.add(app)


def test_histories_environments_caches_and_secrets_are_left_out(app: Path, packages: Packages) -> None:
    left_out: dict[str, bytes | str] = dict.fromkeys(
        [".git/config", ".venv/bin/python", "lib/__pycache__/a.pyc", "a.pyc", "node_modules/x/index.js", ".env",
         ".env.local", "my-environment/pyvenv.cfg", "my-environment/lib/x.py", ".DS_Store"], "x"
    )  # fmt: skip
    fill(app, left_out | {"inf.yml": "name: a", ".hidden": "stays", "environment.py": "", ".envrc": ""})
    (app / ".tox").symlink_to("nowhere")
    package = packages.add(app)
    assert set(contents(package.directory)) == {"inf.yml", ".hidden", "environment.py", ".envrc"}
    assert packages.add_archive(a_zip(*((name, b"x") for name in left_out), ("kept", b""))).files == 1


def test_too_many_or_too_large_files_are_refused_with_the_limit(app: Path, tmp_path: Path) -> None:
    packages = Packages(tmp_path / "packages", limits=PackageLimits(bytes=10, files=3))
    fill(app, {"a": "12345", "b": "12345", "c": ""})
    assert packages.add(app).size_bytes == 10
    fill(app, {"c": "1"})
    with pytest.raises(TooLarge, match=r"larger than 10 bytes"):
        packages.add(app)
    fill(app, {"c": "", "d": ""})
    with pytest.raises(TooLarge, match=r"more than 3 files"):
        packages.add(app)
    with pytest.raises(TooLarge, match=r"more than 3 files"):
        write_archive(app, io.BytesIO(), limits=PackageLimits(files=3))


def test_folders_that_link_to_folders_do_not_grow_without_end(tmp_path: Path) -> None:
    """Each level is there twice as often as the one above, and no folder holds a file."""
    for level in range(30):
        folder = tmp_path / f"level{level}"
        folder.mkdir()
        for side in ("left", "right"):
            (folder / side).symlink_to(f"../level{level + 1}")
    (tmp_path / "level30").mkdir()
    with pytest.raises(TooLarge, match=r"more than 1,000 files"):
        Packages(tmp_path / "packages", limits=PackageLimits(files=1000)).add(tmp_path / "level0")


@pytest.mark.parametrize("name", ["a\\b", "a\nb", b"caf\xe9"])
def test_a_name_that_not_every_machine_takes_is_refused(app: Path, packages: Packages, name: str | bytes) -> None:
    Path(os.fsdecode(os.fsencode(app) + b"/" + os.fsencode(name))).touch()
    with pytest.raises(InvalidInput, match=r"is no name that every machine takes"):
        packages.add(app)


def test_what_is_not_there_is_no_app(tmp_path: Path, packages: Packages) -> None:
    with pytest.raises(InvalidInput, match=r"missing is no directory"):
        packages.add(tmp_path / "missing")


def test_an_archive_is_the_same_bytes_and_the_same_package(app: Path, packages: Packages, tmp_path: Path) -> None:
    fill(app, {"inf.yml": "name: a", "bin/tool": "#!/bin/sh", ".git/config": "x"})
    (app / "bin" / "tool").chmod(0o700)
    package = packages.add(app)
    os.utime(app / "inf.yml", (0, 0))
    archive = archived(app)
    assert archived(package.directory).getvalue() == archive.getvalue()
    other = Packages(tmp_path / "elsewhere").add_archive(archive)
    assert other == Package(package.checksum, tmp_path / "elsewhere" / package.checksum, 2, 16)
    assert other.directory.joinpath("bin/tool").stat().st_mode & 0o777 == 0o555
    plain = io.BytesIO(gzip.decompress(archive.getvalue()))
    assert packages.add_archive(plain).checksum == package.checksum


def test_a_package_of_another_server_is_the_one_that_was_expected(
    app: Path, packages: Packages, tmp_path: Path
) -> None:
    package = packages.add(fill(app, {"a": "1"}))
    other = Packages(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match=r"holds other files than package 000000000000…"):
        other.add_archive(archived(app), expected="0" * 64)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert other.add_archive(archived(app), expected=package.checksum).checksum == package.checksum


def test_a_zip_is_an_archive_too(app: Path, packages: Packages) -> None:
    fill(app, {"inf.yml": "name: a", "lib/x.py": "1"})
    made = a_zip(("inf.yml", b"name: a"), ("lib/", b""), ("lib/x.py", b"1"))
    assert packages.add_archive(made).checksum == packages.add(app).checksum
    executable = packages.add_archive(a_zip(("tool", b""), mode=stat.S_IFREG | 0o755))
    assert (executable.directory / "tool").stat().st_mode & 0o100


def damaged() -> io.BytesIO:
    """A zip whose file is not what its checksum says."""
    raw = bytearray(a_zip(("a", os.urandom(1000))).getvalue())
    raw[500] ^= 1
    return io.BytesIO(raw)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: a_tar((an_entry("/etc/passwd"), b"x")), "no path below its top"),
        (lambda: a_tar((an_entry("a/../../b"), b"x")), "no path below its top"),
        (lambda: a_tar((an_entry(".."), b"x")), "no path below its top"),
        (lambda: a_tar((an_entry("a\\b"), b"x")), "no path below its top"),
        (lambda: a_tar((an_entry("link", tarfile.SYMTYPE, "/etc/passwd"), b"")), "'link', which is no file"),
        (lambda: a_tar((an_entry("a"), b"x"), (an_entry("b", tarfile.LNKTYPE, "a"), b"")), "'b', which is no file"),
        (lambda: a_tar((an_entry("dev", tarfile.CHRTYPE), b"")), "'dev', which is no file"),
        (lambda: a_tar((an_entry("pipe", tarfile.FIFOTYPE), b"")), "'pipe', which is no file"),
        (lambda: a_tar((an_entry("a"), b"1"), (an_entry("a"), b"2")), "'a' is in the archive twice"),
        (lambda: a_tar((an_entry("a"), b"1"), (an_entry("./a"), b"2")), "'./a' is in the archive twice"),
        (lambda: a_tar((an_entry("a"), b"1"), (an_entry("a/b"), b"2")), "'a' in the archive is a file and a folder"),
        (lambda: a_tar((an_entry("a"), b"1"), (an_entry("a/b/c"), b"2")), "is a file and a folder"),
        (lambda: a_tar((an_entry("a/b"), b"1"), (an_entry("a"), b"2")), "'a' is in the archive twice"),
        (lambda: a_tar((an_entry("x" * 300), b"1")), "too long a path"),
        (lambda: a_tar((an_entry("x/" * 1500 + "y"), b"1")), "too long a path"),
        (lambda: a_zip(("/etc/passwd", b"x")), "no path below its top"),
        (lambda: a_zip(("../x", b"x")), "no path below its top"),
        (lambda: a_zip(("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "'link', which is no file"),
        (lambda: io.BytesIO(b"hello, world"), "cannot be read"),
        (lambda: io.BytesIO(b""), "cannot be read"),
        (lambda: io.BytesIO(b"PK\x03\x04 and no more"), "cannot be read"),
        (lambda: io.BytesIO(b"\x1f\x8bgarbage"), "cannot be read"),
        (lambda: io.BytesIO(a_tar((an_entry("a"), os.urandom(9000))).getvalue()[:-4000]), "cannot be read"),
        (damaged, "cannot be read"),
    ],
)
def test_an_archive_writes_nowhere_else_and_nothing_half(
    tmp_path: Path, made: Callable[[], io.BytesIO], told: str
) -> None:
    folder = tmp_path / "packages"
    with pytest.raises(InvalidInput) as raised:
        Packages(folder).add_archive(made())
    assert told in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["packages"]


def of_zeros(count: int) -> io.BytesIO:
    """A small tar.gz of a large file."""
    raw = io.BytesIO()
    with gzip.open(raw, "wb", compresslevel=1) as packed:
        entry = tarfile.TarInfo("zeros")
        entry.size = count
        packed.write(entry.tobuf())
        for _ in range(count >> 20):
            packed.write(bytes(1 << 20))
    raw.seek(0)
    return raw


def of_one_header(count: int) -> io.BytesIO:
    """A small tar.gz whose first header, which is read at once, is large."""
    raw = of_zeros(count)
    unpacked = gzip.decompress(raw.getvalue())
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, count
    return io.BytesIO(gzip.compress(entry.tobuf() + unpacked[512:], 1))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: of_zeros(64 << 20), r"larger than 1,000,000 bytes"),
        (lambda: of_one_header(64 << 20), r"header of more than a megabyte"),
        (lambda: a_zip(("zeros", bytes(64 << 20))), r"larger than 1,000,000 bytes"),
        (lambda: a_zip(*((str(number), b"") for number in range(200))), r"more than 100 files"),
        (lambda: a_tar(*((an_entry(f"{number}", tarfile.DIRTYPE), b"") for number in range(200))), r"more than 100"),
    ],
)
def test_an_archive_that_unpacks_to_too_much_is_given_up_early(
    tmp_path: Path, made: Callable[[], io.BytesIO], told: str
) -> None:
    archive = made()
    assert len(archive.getvalue()) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=told):
            Packages(tmp_path, limits=PackageLimits(bytes=1_000_000, files=100)).add_archive(archive)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert list(tmp_path.iterdir()) == []


def test_headers_one_within_another_are_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, 512
    record = b"13 path=abcd\n".ljust(512, b"\0")
    with pytest.raises(InvalidInput):
        Packages(tmp_path).add_archive(io.BytesIO((entry.tobuf() + record) * 3000))


def test_what_a_killed_process_left_goes_with_the_next_package(app: Path, packages: Packages) -> None:
    folder = app.parent / "packages"
    for name in ("one", "two"):
        fill(folder / f".unfinished-{name}" / "package", {"large": "x"})
    (folder / ".unfinished-one" / "package").chmod(0o555)
    busy = os.open(folder / ".unfinished-two", os.O_RDONLY)
    fcntl.flock(busy, fcntl.LOCK_EX)
    package = packages.add(fill(app, {"a": "1"}))
    assert {path.name for path in folder.iterdir()} == {package.checksum, ".unfinished-two"}
    os.close(busy)
    packages.add(app)
    assert [path.name for path in folder.iterdir()] == [package.checksum]


def test_a_removed_package_is_gone(app: Path, packages: Packages) -> None:
    package = packages.add(fill(app, {"lib/a": "1"}))
    packages.remove(package.checksum)
    assert packages.find(package.checksum) is None
    packages.remove(package.checksum)
    assert list((app.parent / "packages").iterdir()) == []


@pytest.mark.parametrize("checksum", ["", "..", "../app", "A" * 64, "0" * 63, "0" * 64])
def test_only_a_checksum_finds_a_package(app: Path, packages: Packages, checksum: str) -> None:
    packages.add(fill(app, {"a": "1"}))
    assert packages.find(checksum) is None


NAMES = st.text(st.characters(exclude_characters="/\\\x7f", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.tuples(st.binary(max_size=200), st.booleans()), max_size=6)


@settings(deadline=None)
@given(TREES)
def test_packed_and_unpacked_is_the_same(tree: dict[str, tuple[bytes, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        app.mkdir()
        for name, (content, executable) in tree.items():
            path = app / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError:  # a file where another path has a folder
                continue
            path.chmod(0o755 if executable else 0o644)
        package = Packages(Path(folder) / "here").add(app)
        other = Packages(Path(folder) / "there").add_archive(archived(app))
        assert other.checksum == package.checksum
        assert contents(other.directory) == contents(package.directory)
        assert contents(package.directory).items() <= contents(app).items()
        assert Packages(Path(folder) / "again").add(other.directory).checksum == package.checksum


@settings(deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_still_holds_only_files(data: st.DataObject) -> None:
    made = [
        a_tar((an_entry("a/b"), b"12"), (an_entry("c"), b"3" * 600), packed=False),
        a_zip(("a/b", b"12"), ("c", b"")),
    ]
    raw = bytearray(data.draw(st.sampled_from(made)).getvalue())
    for place, value in data.draw(
        st.dictionaries(st.integers(0, len(raw) - 1), st.integers(0, 255), max_size=8)
    ).items():
        raw[place] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = Packages(Path(folder) / "packages").add_archive(io.BytesIO(raw))
        except InvalidInput:
            left = list((Path(folder) / "packages").iterdir())
        else:
            assert all(path.is_file() or path.is_dir() for path in package.directory.rglob("*"))
            left = [path for path in (Path(folder) / "packages").iterdir() if path != package.directory]
        assert left == []


def test_packages_that_are_added_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    packages = Packages(tmp_path / "packages")

    def add(number: int) -> bool:
        source = tmp_path / f"source{number}"
        source.mkdir()
        (source / "inference.py").write_text(f"number = {number}")
        return packages.find(packages.add(source).checksum) is not None

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(add, range(100)))
    assert not list((tmp_path / "packages").glob(".*"))
