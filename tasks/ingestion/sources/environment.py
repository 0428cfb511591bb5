"""The documentation of the installed Python packages: docstrings, README texts, and .md, .rst and .txt files.

This is real text that every machine has, with its natural duplicates, licenses and noise, and conversations about the
documented objects whose answers are the first paragraphs of docstrings. The packages take turns, so that a few large
ones do not use up the caps.
"""

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field

from tasks.conversations import Conversation
from tasks.documents import Document
from tasks.ingestion import records
from tasks.ingestion.decoding import Location, UnusableRecord, clean_text
from tasks.ingestion.distributions import Distribution, installed_distributions
from tasks.ingestion.docstrings import DocumentedObject, UnparsablePython, docstring_share, documented_objects
from tasks.ingestion.read_counts import GENERATED, ReadCounts
from tasks.tables import Quarantined

KINDS = ("documents", "conversations")  # of records that this source yields

MIN_DOCSTRING_SHARE = 0.15  # of the bytes of a file; below it, the docstrings are not worth the time of parsing
TURN_BYTES = 16_384
MIN_ANSWER_CHARACTERS, MAX_ANSWER_CHARACTERS = 20, 300
MAX_ARGUMENTS = 6

QUESTIONS = {
    "function": ("What does `{name}` do?", "What is `{name}` for?", "`{name}` 是做什么的？"),
    "class": ("What is `{name}`?", "What is the class `{name}` for?", "`{name}` 是什么？"),
    "module": ("What is the module `{name}` about?", "What is in `{name}`?", "模块 `{name}` 是做什么的？"),
    "package": ("What is the Python package {name}?", "Python 包 {name} 是做什么的？"),
    "arguments": ("Which arguments does `{name}` take?", "`{name}` 有哪些参数？"),
}


class Params(BaseModel, frozen=True, extra="forbid"):
    """How much to read. Reading ends when `max_documents` or `max_bytes` is reached."""

    max_documents: int = Field(20_000, gt=0, description="Maximum number of documents.")
    max_bytes: int = Field(8_000_000, gt=0, description="Maximum total size of the documents in bytes.")
    max_bytes_per_package: int = Field(80_000, gt=0, description="Maximum size of the documents of a package in bytes.")
    max_document_bytes: int = Field(40_000, gt=0, description="Larger text files are ignored; in bytes.")
    document_bytes: int = Field(
        3_000, gt=0, description="Docstrings of one module are joined to documents of up to this size in bytes."
    )
    num_conversations: int = Field(4_000, ge=0, description="Maximum number of conversations.")
    max_conversations_per_package: int = Field(60, ge=0, description="Maximum number of conversations about a package.")
    seed: int = Field(0, ge=0, description="Seed of the wording of the questions.")


@dataclass
class _PackageReader:
    """The remaining records of a package, and how much was read of it."""

    records: Iterator[records.Record]
    num_bytes: int = 0
    num_conversations: int = 0


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield documents and conversations, the packages in turn, until a cap is reached."""
    counts = counts or ReadCounts()
    packages = (counts.counted(_package_records(package, params)) for package in installed_distributions())
    readers = [_PackageReader(records_of_package) for records_of_package in packages]
    num_documents = num_bytes = num_conversations = 0
    while readers:
        for reader in list(readers):
            for record in _read_turn(reader, readers, params, counts):
                if isinstance(record, Conversation):
                    if num_conversations == params.num_conversations:
                        counts.skip(GENERATED, "beyond_num_conversations")
                        continue
                    num_conversations += 1
                elif isinstance(record, Document):
                    size = len(record.text.encode())
                    if num_documents == params.max_documents or num_bytes + size > params.max_bytes:
                        counts.skip(GENERATED, "beyond_max_documents_or_bytes")
                        return
                    num_documents, num_bytes = num_documents + 1, num_bytes + size
                yield record


def _read_turn(
    reader: _PackageReader, readers: list[_PackageReader], params: Params, counts: ReadCounts
) -> Iterator[records.Record]:
    """Yield the next TURN_BYTES of a package. It is removed from `readers` at its end or when it reaches its cap."""
    end = reader.num_bytes + TURN_BYTES
    for record in reader.records:
        if isinstance(record, Document):
            reader.num_bytes += len(record.text.encode())
            if reader.num_bytes > params.max_bytes_per_package:
                counts.skip(GENERATED, "beyond_max_bytes_per_package")
                break
        elif isinstance(record, Conversation):
            reader.num_conversations += 1
            if reader.num_conversations > params.max_conversations_per_package:
                counts.skip(GENERATED, "beyond_max_conversations_per_package")
                continue
        yield record
        if reader.num_bytes >= end:
            return
    readers.remove(reader)


def _package_records(package: Distribution, params: Params) -> Iterator[records.Record]:
    metadata = {"package": package.name, "version": package.version}
    group = f"package:{package.name}"
    if package.readme:
        yield _clean(Document(f"{package.name}/README", package.readme, group, {**metadata, "kind": "readme"}))
    yield from _make_conversation("package", package.name, package.summary, f"{package.name}/README", group, params)
    for file in package.files():
        try:
            content = (package.root / file).read_bytes()
        except OSError:
            continue  # the file was deleted after the installation of the package
        file_metadata = {**metadata, "path": file}
        file_id = f"{package.name}/{file}"
        if not file.endswith(".py"):
            if content.strip() and len(content) <= params.max_document_bytes:
                yield _text_record(file_id, content, group, file_metadata)
        elif docstring_share(content) >= MIN_DOCSTRING_SHARE:
            yield from _docstring_records(file_id, file, content, group, file_metadata, params)


def _text_record(file_id: str, content: bytes, group: str, metadata: dict[str, str]) -> records.Record:
    try:
        return _clean(Document(file_id, content.decode("utf-8-sig"), group, {**metadata, "kind": "text"}))
    except UnicodeDecodeError as error:
        return Quarantined(file_id, "invalid_utf8", f"The file is not valid UTF-8: {error.reason}.", offset=error.start)


def _docstring_records(
    file_id: str, file: str, content: bytes, group: str, metadata: dict[str, str], params: Params
) -> Iterator[records.Record]:
    try:
        with _no_garbage_collection():
            objects = list(documented_objects(content, _module_name(file)))
    except UnparsablePython as error:
        yield Quarantined(file_id, "invalid_python", str(error))
        return
    for neighbors in _join_objects(objects, params.document_bytes):
        text = "\n\n".join(item.entry for item in neighbors)
        document_metadata = {**metadata, "kind": "docstring", "name": neighbors[0].name}
        yield _clean(Document(f"{file_id}:{neighbors[0].line}", text, group, document_metadata))
    if "._" not in _module_name(file):  # users ask about public modules only
        for item in objects:
            id = f"{file_id}:{item.line}"
            yield from _make_conversation(item.kind, item.name, item.first_paragraph, id, group, params)
            if 0 < len(item.arguments) <= MAX_ARGUMENTS:
                answer = ", ".join(f"`{argument}`" for argument in item.arguments) + "."
                yield from _make_conversation("arguments", item.name, answer, id, group, params)


def _clean(document: Document) -> records.Record:
    try:
        return replace(document, text=clean_text(document.text))
    except UnusableRecord as error:
        return Location(document.id).quarantine(error)


def _join_objects(objects: list[DocumentedObject], num_bytes: int) -> Iterator[list[DocumentedObject]]:
    """Yield lists of neighboring objects of one module, as many as fit into `num_bytes`, at least one."""
    neighbors: list[DocumentedObject] = []
    size = 0
    for item in objects:
        if neighbors and size + len(item.docstring) > num_bytes:
            yield neighbors
            neighbors, size = [], 0
        neighbors.append(item)
        size += len(item.entry)
    if neighbors:
        yield neighbors


def _make_conversation(
    kind: str, name: str, answer: str, id: str, group: str, params: Params
) -> Iterator[Conversation]:
    """Yield a question about `name` with its answer; nothing if the answer is not one or more plain sentences."""
    is_plain = answer.isprintable() and answer.endswith(".") and "::" not in answer and ">>>" not in answer
    is_short = MIN_ANSWER_CHARACTERS <= len(answer) <= MAX_ANSWER_CHARACTERS
    if not is_plain or (kind != "arguments" and not is_short):
        return
    # Seeded with the name: the wording does not depend on which other packages are installed.
    wording = random.Random(f"{params.seed} {kind} {name}").choice(QUESTIONS[kind])
    question = wording.replace("{name}", name)
    metadata = {"task": "environment", "kind": kind, "name": name}
    yield Conversation(f"{id}/{kind}", records.exchange(question, answer), group, metadata)


def _module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, which would scan the many objects of a syntax tree again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
