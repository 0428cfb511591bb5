"""Find and open files: paths, folders, globs; local or at any fsspec address. Retry after network failures."""

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import BaseModel, Field, field_validator

from tasks.addresses import Address, redact, reveal
from tasks.errors import BadInput
from tasks.ingestion.files import containers
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_CONTROL_FILES = ("_metadata", "_common_metadata", "_SUCCESS")  # that Spark and Hive write beside data
MAX_ATTEMPTS, FIRST_WAIT = 5, 1.0  # wait in seconds before the second attempt; it doubles each time
_NETWORK_MODULES = ("aiohttp", "botocore", "aiobotocore", "urllib3", "requests", "httpx", "httpcore", "huggingface_hub")
_NOT_NETWORK = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

Result = TypeVar("Result")
Place = tuple[str, str]
"""By which another process opens a file: (address, path there); ("", absolute path) for a local file."""


class FileParams(BaseModel, frozen=True, extra="forbid"):
    """Which files to read, and the limits that protect against damaged ones."""

    paths: tuple[Address, ...] = Field(
        min_length=1,
        description="Files, folders or globs, local or at an address such as s3://, hf:// or https://. ${NAME} in an "
        "address stands for a variable of the environment, or a Secret block of Prefect.",
    )
    encoding: str = Field(
        "auto", description="The name of a Python codec in which the files are encoded; auto detects it."
    )
    max_line_bytes: int = Field(
        64 << 20, gt=0, description="Maximum length of a line or document in bytes; longer ones are quarantined."
    )
    max_ratio: float = Field(
        500.0,
        gt=1,
        description="Maximum ratio of decompressed to compressed size above 64 MiB; a larger one is a bomb.",
    )

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str) else paths

    @field_validator("encoding")
    @classmethod
    def _is_codec(cls, encoding: str) -> str:
        if encoding != "auto":
            try:
                "".encode(encoding)
            except LookupError:
                raise ValueError(f"Python has no encoding {encoding!r}; use auto to detect the encoding") from None
        return encoding


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file: the name that the user knows, and a function that opens it as bytes.

    key: what identifies it if it is reached by several names. error: why it cannot be opened. is_named: whether
    `paths` names it, and not its folder. counts: where its rows are counted. place: None if no other process can open
    it, such as one whose address has a secret.
    """

    name: str
    open: Callable[[], BinaryIO]
    key: str = ""
    error: str = ""
    is_named: bool = False
    counts: ReadCounts = field(default_factory=ReadCounts, compare=False)
    place: Place | None = None

    def count_rows(self, num_rows: int = 1) -> None:
        """Count rows of this file that were read, before they are processed."""
        self.counts.add(self.name, num_rows)


def find_files(paths: Sequence[str], suffixes: tuple[str, ...], counts: ReadCounts | None = None) -> list[InputFile]:
    """Return the files of `paths`, each once, sorted by name within each path.

    A folder contributes its files with one of `suffixes`, compressed or not, and its archives; links to folders are
    followed once. The other files of folders, except hidden ones, are noted in `counts`. Raises BadInput if a path does
    not exist or has no such file.
    """
    counts = ReadCounts() if counts is None else counts
    files: dict[str, InputFile] = {}
    for path in paths:
        find = _find_remote if "://" in path else _find_local
        matches = list(find(path, suffixes, counts.other_files))
        if not matches:
            raise BadInput(
                f"{path} contains no file to read. Expected a name that ends in {', '.join(suffixes)}, alone or "
                f"followed by {', '.join(COMPRESSED)}. Add a file, or correct `paths` in params.yaml."
            )
        for file in matches:
            files.setdefault(file.key or file.name, file)
    return list(files.values())


def read_files(
    params: FileParams, suffixes: tuple[str, ...], counts: ReadCounts | None = None
) -> Iterator[InputFile | Quarantined]:
    """Yield the files of `params.paths`, and the members of archives in place of the archives.

    Each file must be read before the next one is requested. A file or member that cannot be read is yielded as
    Quarantined and counted as one row. Raises BadInput if a path does not exist or has no file.
    """
    counts = ReadCounts() if counts is None else counts
    for file in find_files(params.paths, suffixes, counts):
        yield from read_found(file, params, suffixes, counts)


def read_found(
    found: InputFile, params: FileParams, suffixes: tuple[str, ...], counts: ReadCounts
) -> Iterator[InputFile | Quarantined]:
    """Yield what `read_files` yields for one of the files that `find_files` returns."""
    for file in _open_found(found, params, suffixes, counts):
        counts.files.add(file.file if isinstance(file, Quarantined) else file.name)
        if isinstance(file, Quarantined):
            counts.add(file.file, file.num_records)
            yield file
        else:
            yield replace(file, counts=counts)


def _open_found(
    file: InputFile, params: FileParams, suffixes: tuple[str, ...], counts: ReadCounts
) -> Iterator[InputFile | Quarantined]:
    if file.error:
        yield Quarantined(file.name, "unreadable_file", file.error)
    elif containers.is_archive(file.name):
        yield from _read_archive(file, suffixes, params.max_ratio, counts)
    else:
        yield file


def at_place(name: str, place: Place, is_named: bool) -> InputFile:
    """Return a file that `find_files` has found in another process."""
    address, path = place
    if not address:
        return InputFile(name, partial(_open_local, Path(path)), is_named=is_named)
    import fsspec

    file_system, _ = fsspec.core.url_to_fs(address)
    return InputFile(name, partial(_open_remote, file_system, path, name), is_named=is_named)


def _read_archive(
    file: InputFile, suffixes: tuple[str, ...], max_ratio: float, counts: ReadCounts
) -> Iterator[InputFile | Quarantined]:
    num_members = 0
    for member in containers.read_members(file.name, file.open, max_ratio):
        num_members += 1
        if isinstance(member, Quarantined):
            yield member
        elif _has_suffix(member[0], suffixes):
            yield InputFile(_printable(member[0]), member[1])
        elif file.is_named:  # in a folder, another source may read the member
            detail = f"The member of the archive does not end in {', '.join(suffixes)}; its own source reads it."
            yield Quarantined(_printable(member[0]), "other_format", detail)
        else:
            counts.other_files.add(_printable(member[0]))
    if not num_members:
        yield Quarantined(file.name, "empty_file", "The archive has no members.")


def contains_files(folder: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a local folder has a file with one of `suffixes`, compressed or not."""
    return any(not containers.is_archive(file.name) for file in _find_local(folder, suffixes, set()))


def retry(action: Callable[[], Result], name: str) -> Result:
    """Call `action` up to MAX_ATTEMPTS times while the network fails. Raises BadInput after the last attempt.

    Used for reading from outside only; computations are never retried.
    """
    for attempt in range(MAX_ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if not is_network_failure(error):
                raise
            last_error = error
            if attempt + 1 < MAX_ATTEMPTS:
                time.sleep(FIRST_WAIT * 2**attempt)
    raise BadInput(
        f"{name} cannot be reached after {MAX_ATTEMPTS} attempts ({type(last_error).__name__}: {last_error}). "
        "Check the network and run the command again."
    ) from last_error


def is_network_failure(error: BaseException) -> bool:
    """Return whether another attempt may succeed: not if the file is missing or access is denied."""
    if isinstance(error, _NOT_NETWORK):
        return False
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith(_NETWORK_MODULES)


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return _without_compression(name).endswith(suffixes) and not Path(name).name.startswith(".")


def _without_compression(name: str) -> str:
    """a.JSONL.gz -> a.jsonl"""
    name = name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name


def _find_local(path: str, suffixes: tuple[str, ...], other: set[str]) -> Iterator[InputFile]:
    """Yield the files at a path. Add the names of a folder's other files that are not hidden to `other`.

    A glob may match folders, such as `data/raw/delivery-*`; one with `**` matches their files anyway.
    """
    location = Path(path)
    if location.is_dir():
        yield from _find_in_folder(location, suffixes, other)
        return
    if location.exists():
        matches = [location]
    elif glob.has_magic(path):
        matches = sorted(Path(p) for p in glob.glob(path, recursive=True))  # noqa: PTH207
    else:
        raise BadInput(f"{path} does not exist. Put the file or folder there, or correct `paths` in params.yaml.")
    for match in matches:
        if match.is_file() and not _is_of_dvc(match):
            yield replace(_local_file(match), is_named=True)
        elif match.is_dir() and "**" not in path:
            yield from _find_in_folder(match, suffixes, other)


def _find_in_folder(folder: Path, suffixes: tuple[str, ...], other: set[str]) -> Iterator[InputFile]:
    for file in _walk(folder):
        name = file.name.lower()
        is_wanted = _has_suffix(name, suffixes) or containers.is_archive(name)
        is_hidden = name.startswith(".") or file.stem in _CONTROL_FILES or _is_of_dvc(file)
        if is_hidden or not (file.is_file() or file.is_symlink()):
            continue
        if is_wanted:
            yield _local_file(file)
        else:
            other.add(_printable(file.as_posix()))


def _is_of_dvc(file: Path) -> bool:
    """Whether DVC has written a file beside the data that it describes."""
    return file.suffix == ".dvc" and file.with_suffix("").exists()


def _walk(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted. Links to folders are followed once, so that loops end."""
    files: list[Path] = []
    visited: set[tuple[int, int]] = set()
    pending, links = [folder], list[Path]()
    while pending or links:  # folders before links, so that a folder is known by its own name
        current = pending.pop() if pending else links.pop(0)
        status = current.stat()
        if (status.st_dev, status.st_ino) in visited or not os.access(current, os.R_OK | os.X_OK):
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in sorted(current.iterdir()):
            if not entry.is_dir():
                files.append(entry)
            elif entry.is_symlink():
                links.append(entry)
            else:
                pending.append(entry)
    return sorted(files)


def _local_file(path: Path) -> InputFile:
    error = ""
    if not path.exists():
        error = "The link leads to no file. Correct or remove it."
    elif not os.access(path, os.R_OK):
        error = "Access to the file is denied. Change its permissions."
    name, place = _printable(path.as_posix()), None if error else ("", str(path.absolute()))
    return InputFile(name, partial(_open_local, path), os.path.realpath(path), error, place=place)


def _printable(name: str) -> str:
    """Return a name as one line of valid Unicode: other bytes and control characters are written as \\xff and \\n."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(ascii(c)[1:-1] if c < " " else c for c in name)


def _open_local(path: Path) -> BinaryIO:
    return open(path, "rb")


def _find_remote(path: str, suffixes: tuple[str, ...], other: set[str]) -> Iterator[InputFile]:
    import fsspec

    try:
        file_system, path_there = fsspec.core.url_to_fs(reveal(path))
    except (ImportError, ValueError) as error:
        raise BadInput(f"{path} cannot be opened: {error}. Correct `paths` in params.yaml.") from error

    def find_names() -> list[str]:
        if glob.has_magic(path_there):
            matches = sorted(map(str, file_system.glob(path_there)))
            files = [name for name in matches if not file_system.isdir(name)]
            folders = [] if "**" in path_there else [name for name in matches if name not in set(files)]
            return [*files, *(name for folder in folders for name in find_in_folder(folder))]
        if file_system.isdir(path_there):
            return find_in_folder(path_there)
        return [path_there] if file_system.exists(path_there) else []

    def find_in_folder(folder: str) -> list[str]:
        names = sorted(map(str, file_system.find(folder)))
        visible = [name for name in names if not Path(name).name.startswith(".")]
        unread = [name for name in visible if not _has_suffix(name, suffixes)]
        other.update(redact(file_system.unstrip_protocol(name)) for name in unread)
        return [name for name in names if _has_suffix(name, suffixes)]

    names = retry(find_names, path)
    if not names and not glob.has_magic(path_there):
        raise BadInput(f"{path} does not exist, or access is denied. Correct `paths` in params.yaml, or log in.")
    for name in names:
        address, place = redact(file_system.unstrip_protocol(name)), (path, name) if reveal(path) == path else None
        yield InputFile(address, partial(_open_remote, file_system, name, address), place=place)


def _open_remote(file_system: Any, name: str, address: str) -> BinaryIO:
    return cast(BinaryIO, _RetryingFile(file_system, name, address))


class _RetryingFile:
    """A remote file. After a network failure it is opened again and reading continues at the same position."""

    def __init__(self, file_system: Any, name: str, address: str) -> None:
        self._file_system, self._name, self._address = file_system, name, address
        self._file: Any = None
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        content = retry(lambda: self._read_once(size), self._address)
        self._position += len(content)
        return content

    def _read_once(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._file_system.open(self._name, "rb")
                self._file.seek(self._position)
            return bytes(self._file.read(size))
        except Exception:
            self.close()
            raise

    def seek(self, position: int, origin: int = 0) -> int:
        if origin == 2:
            position += int(self._file_system.size(self._name))
        self._position = position + (self._position if origin == 1 else 0)
        self.close()
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @property
    def closed(self) -> bool:
        return False  # it opens itself again at the next read; pyarrow refuses a closed file

    def __enter__(self) -> "_RetryingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
