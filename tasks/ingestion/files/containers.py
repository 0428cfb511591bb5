"""Read the members of .zip, .tar and compressed .tar archives one after another, without unpacking them to disk.

Nothing is written at a path that an archive names. Decompressed sizes are bounded by max_ratio for each member and for
the archive. Members that cannot be read are reported one by one.
"""

import contextlib
import io
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import IO, BinaryIO, cast

from tasks.ingestion.files.decompression import CHUNK, MIN_BOMB, Damage, read_chunks
from tasks.tables import Quarantined

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
ENDINGS = (".zip", *TAR_ENDINGS)
MAX_MEMBERS = 1_000_000
IN_MEMORY_BYTES = 16 << 20  # larger members are kept in a temporary file while they are read
Open = Callable[[], BinaryIO]
Member = tuple[str, Open] | Quarantined
"""(name with the name of its archive, function that opens it once) or why it cannot be read"""


def is_archive(name: str) -> bool:
    """Return whether the ending of a name is that of an archive."""
    return name.lower().endswith(ENDINGS)


def read_members(name: str, open_archive: Open, max_ratio: float) -> Iterator[Member]:
    """Yield the members of an archive in order; each must be read before the next one is requested.

    Folders and the hidden files of operating systems are left out.
    """
    with open_archive() as opened:
        if name.lower().endswith(".zip"):
            yield from _read_zip(name, opened, max_ratio)
        else:
            yield from _read_tar(name, opened, max_ratio)


def _read_zip(name: str, opened: BinaryIO, max_ratio: float) -> Iterator[Member]:
    num_archive_bytes = opened.seek(0, 2)
    opened.seek(0)
    try:
        archive = zipfile.ZipFile(opened)
        infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield Quarantined(name, "damaged_zip", f"The ZIP archive cannot be read: {error}. Copy it again.")
        return
    total = 0
    for info in infos:
        member = f"{name}/{_member_name(info)}"
        if info.is_dir() or _is_hidden(info.filename):
            continue
        total += info.file_size
        if error_row := _check_zip_member(info, member, total, num_archive_bytes, max_ratio):
            yield error_row
            continue
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as content:
            try:
                with archive.open(info) as source:
                    damage = _copy(source, content, info.file_size)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
                damage = str(error)
            if damage:
                yield Quarantined(member, "damaged_zip", f"The member of the archive cannot be read: {damage}.")
            else:
                yield member, partial(_rewind, content)


def _check_zip_member(
    info: zipfile.ZipInfo, member: str, total: int, num_archive_bytes: int, max_ratio: float
) -> Quarantined | None:
    """Return why a member is not read, None if it is."""
    if reason := _check_path(info.filename):
        return Quarantined(member, "unsafe_path", reason)
    if stat.S_ISLNK(info.external_attr >> 16):
        return Quarantined(member, "link_in_archive", "The member of the archive is a link, which is not followed.")
    if info.flag_bits & 1:
        return Quarantined(member, "encrypted", "The member of the archive is encrypted. Unpack it with its password.")
    ratio_of_member = info.file_size > MIN_BOMB and info.file_size > max_ratio * max(1, info.compress_size)
    if ratio_of_member or (total > MIN_BOMB and total > max_ratio * num_archive_bytes):
        detail = f"The content is more than {max_ratio:g} times its compressed size. If it is valid, raise max_ratio."
        return Quarantined(member, "decompression_bomb", detail)
    return None


def _read_tar(name: str, opened: BinaryIO, max_ratio: float) -> Iterator[Member]:
    stream = _ChunkStream(read_chunks(opened, name, max_ratio, is_archive=True))
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for number, info in enumerate(archive):
                if number >= MAX_MEMBERS:
                    yield Quarantined(name, "too_many_members", f"The archive has more than {MAX_MEMBERS} members.")
                    return
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all of them otherwise
                if not info.isdir() and not _is_hidden(info.name):
                    yield from _read_tar_member(f"{name}/{info.name}", archive, info)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if stream.damage is None:
            yield Quarantined(name, "damaged_tar", f"The tar archive cannot be read: {error}. Copy it again.")
    if stream.damage is not None:
        yield Quarantined(name, stream.damage.reason, stream.damage.detail, None, stream.damage.offset)


def _read_tar_member(member: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[Member]:
    if reason := _check_path(info.name):
        yield Quarantined(member, "unsafe_path", reason)
    elif not info.isfile():
        yield Quarantined(member, "link_in_archive", "The member of the archive is a link or device, not a file.")
    else:
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as content:
            if damage := _copy(cast(IO[bytes], archive.extractfile(info)), content, info.size):
                yield Quarantined(member, "damaged_tar", f"The member of the archive cannot be read: {damage}.")
            else:
                yield member, partial(_rewind, content)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy at most `size` bytes. Return "" or what is wrong."""
    num_bytes = 0
    while chunk := source.read(CHUNK):
        num_bytes += len(chunk)
        if num_bytes > size:
            return f"it has more than the {size} bytes that the archive states"
        target.write(chunk)
    return "" if num_bytes == size else f"it ends after {num_bytes} of {size} bytes"


def _rewind(content: IO[bytes]) -> BinaryIO:
    content.seek(0)
    return cast(BinaryIO, _Borrowed(content))


class _Borrowed(io.RawIOBase):
    """A file that stays open when its reader closes it, so that it can be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, position: int, origin: int = 0) -> int:
        return self._file.seek(position, origin)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _ChunkStream(io.RawIOBase):
    """Decompressed chunks as a file for tarfile. It ends at the first damage."""

    def __init__(self, chunks: Iterator[bytes | Damage]) -> None:
        super().__init__()
        self._chunks, self._buffer = chunks, b""
        self.damage: Damage | None = None

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing:
            if not self._buffer:
                chunk = next(self._chunks, b"") if self.damage is None else b""
                if isinstance(chunk, Damage):
                    self.damage, chunk = chunk, b""
                if not chunk:
                    break
                self._buffer = chunk
            part, self._buffer = self._buffer[:missing], self._buffer[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _check_path(path: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts or path.startswith(("/", "\\")) or ":" in path[:3]:
        return f"The path {path[:200]!r} leads out of the archive. Archives with such paths are not trusted."
    return ""


def _is_hidden(path: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.split("/"))


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member; without the flag for UTF-8 it is often UTF-8 or GBK nevertheless."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    with contextlib.suppress(UnicodeError):
        content = info.filename.encode("cp437")
        for encoding in ("utf-8", "gb18030"):
            with contextlib.suppress(UnicodeError):
                return content.decode(encoding)
    return info.filename
