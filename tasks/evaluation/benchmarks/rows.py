"""The rows of benchmark files and of data sets of the Hub. A row that cannot be read is reported.

Benchmark files are small, so that a file is read as a whole.
"""

import bz2
import csv
import fnmatch
import glob
import gzip
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import BadInput
from tasks.evaluation.benchmarks.params import Rows
from tasks.files import sha256

DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda content: _zstd(content),
}
DELIMITERS = ",;\t|"  # of .csv files
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, ValueError)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file. place: file and line (or record), for messages; file: its name without ending.

    problem: why the row cannot be read; empty for a good row.
    """

    value: Any
    place: str
    file: str
    problem: str = ""


def read(place: Rows) -> Iterator[Row]:
    """Yield the rows of all files of `place`, or of its data set of the Hub. Raises BadInput."""
    if place.hub:
        yield from _read_hub(place)
        return
    for path in files(place):
        num_rows = 0
        for name, content in _members(str(path), _read_bytes(path), place.members):
            for row in _parse(name, content, place.columns):
                num_rows += 1
                yield row
        if not num_rows:
            raise BadInput(
                f"{path} contains no row{'' if place.members == '*' else f' in members that match {place.members!r}'}. "
                "Replace the file, or leave it out of `paths`."
            )


def digests(place: Rows) -> dict[str, str]:
    """The sha256 of each of these files; none for a data set of the Hub. Raises BadInput as `files` does."""
    return {} if place.hub else {str(file): sha256(file) for file in files(place)}


def files(place: Rows) -> list[Path]:
    """The files that `paths` names, sorted within each path. Raises BadInput if a path names none."""
    result: list[Path] = []
    for pattern in place.paths:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = sorted(file for file in path.rglob("*") if file.is_file() and _table_ending(file.name))
        else:
            matches = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise BadInput(
                f"{pattern} does not exist (looked in {Path.cwd()}). Expected a file, a folder with "
                f"{', '.join(TABLES)} files, or a glob that matches files."
            )
        result += [match for match in matches if match.is_file()]
    return result


def _read_hub(place: Rows) -> Iterator[Row]:
    import datasets

    try:
        loaded = datasets.load_dataset(place.hub, place.config, split=place.split, revision=place.revision)
    except Exception as error:  # datasets raises errors of many libraries
        raise BadInput(
            f"the data set {place.hub!r} (config {place.config}, split {place.split}) cannot be loaded from the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(loaded):
        yield Row(row, f"{place.hub}:{number}", str(place.config or place.hub))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error


def _members(name: str, content: bytes, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, decompressed content) of a file, or of each member of an archive that matches `pattern`."""
    ending = PurePosixPath(name).suffix.lower()
    try:
        if ending in DECOMPRESSORS or ending == ".tgz":
            content, name = (DECOMPRESSORS.get(ending, gzip.decompress)(content)), name[: -len(ending)]
            name += ".tar" if ending == ".tgz" else ""
            ending = PurePosixPath(name).suffix.lower()
        if ending not in (".tar", ".zip"):
            yield name, content
            return
        members = list(_unpack(content, ending))
    except DAMAGE as error:
        raise BadInput(f"{name} cannot be unpacked: {error}. Copy the file again.") from error
    for member, part in sorted(members):
        if fnmatch.fnmatch(member, pattern) or fnmatch.fnmatch(PurePosixPath(member).name, pattern):
            yield from _members(f"{name}/{member}", part, "*")


def _unpack(content: bytes, ending: str) -> Iterator[tuple[str, bytes]]:
    if ending == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if not info.is_dir() and _table_ending(info.filename):
                    yield info.filename, archive.read(info)
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() and _table_ending(member.name) else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()


def _table_ending(name: str) -> str:
    """The ending that says how a file is read, without that of a compression; empty for other and for hidden files."""
    path = PurePosixPath(name.lower())
    if path.name.startswith("."):
        return ""
    if path.suffix in DECOMPRESSORS:
        path = path.with_suffix("")
    return path.suffix if path.suffix in TABLES else ""


def _zstd(content: bytes) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True) as reader:
        return bytes(reader.read())


def _parse(name: str, content: bytes, columns: tuple[str, ...]) -> Iterator[Row]:
    ending = PurePosixPath(name).suffix.lower()
    stem = PurePosixPath(name).stem
    if ending == ".parquet":
        yield from _parse_parquet(name, content, stem)
    elif ending in (".csv", ".tsv"):
        yield from _parse_csv(name, _decode(name, content), stem, columns, "\t" if ending == ".tsv" else "")
    elif ending == ".txt":
        yield Row({"text": _decode(name, content)}, name, stem)
    elif ending in (".jsonl", ".ndjson", ".json"):
        yield from _parse_json(name, _decode(name, content), stem)
    else:
        raise BadInput(f"{name} has an unknown ending; expected {', '.join(TABLES)}, perhaps compressed.")


def _decode(name: str, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{name}:{line}: the bytes are not UTF-8. Convert the file, for example with `iconv -f GB18030 -t UTF-8`."
        ) from error


def _parse_json(name: str, text: str, stem: str) -> Iterator[Row]:
    """JSON Lines, or one JSON document: an array of rows, or an object with one array."""
    try:
        body = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("[") and "\n[" not in text:
            raise BadInput(f"{name} is not valid JSON: {error}.") from error
        body = None
    if isinstance(body, dict):
        arrays = [value for value in body.values() if isinstance(value, list)]
        body = arrays[0] if len(arrays) == 1 and isinstance(arrays[0][:1], list) and len(body) == 1 else [body]
    if isinstance(body, list):
        for number, value in enumerate(body, start=1):
            yield Row(value, f"{name}, record {number}", stem)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield Row(json.loads(line), f"{name}:{number}", stem)
            except ValueError:
                yield Row(None, f"{name}:{number}", stem, "the line is not valid JSON")


def _parse_csv(name: str, text: str, stem: str, columns: tuple[str, ...], delimiter: str) -> Iterator[Row]:
    """The rows below the header, or all of them if `columns` names the cells; an empty delimiter is recognized."""
    delimiter = delimiter or _delimiter(text, len(columns))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = list(columns)
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise BadInput(f"{name}:{lines.line_num}: {error}. Expected CSV with quotes as in RFC 4180.") from error
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            _refuse_repeated_columns(name, header)
            continue
        place = f"{name}:{lines.line_num}"
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), place, stem)
        else:
            problem = f"the line has another number of cells than the header ({len(header)})"
            yield Row(None, place, stem, problem)


def _delimiter(text: str, num_columns: int) -> str:
    """What separates the cells of the first line: of comma, semicolon, tab and bar the one that gives most of them.

    Where the number of columns is known, the one that gives as many.
    """

    def num_cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=lambda one: (num_columns > 0 and num_cells(one) == num_columns, num_cells(one)))


def _refuse_repeated_columns(name: str, header: list[str]) -> None:
    repeated = [column for column, count in Counter(filter(None, header)).items() if count > 1]
    if repeated:
        raise BadInput(f"{name}:1: several columns have the name {', '.join(repeated)}. Give each one its own name.")


def _parse_parquet(name: str, content: bytes, stem: str) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(pa.BufferReader(content)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{name} is not valid Parquet: {error}.") from error
    for number, value in enumerate(rows, start=1):
        yield Row(value, f"{name}, row {number}", stem)
