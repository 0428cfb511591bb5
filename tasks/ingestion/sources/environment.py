"""The documentation of the Python packages installed here: docstrings, README texts, .md, .rst and .txt files.

Real text that is on every machine, with its natural duplicates, licenses and junk; and questions about the documented
objects that their docstrings answer. Packages take turns, so that a few giants do not fill the caps.
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
from tasks.ingestion.decoding import Place, Unusable, clean
from tasks.ingestion.distributions import Distribution, installed
from tasks.ingestion.docstrings import Documented, Unreadable, density, documented
from tasks.tables import Quarantined

MIN_DENSITY = 0.15  # of a file within docstrings; below, parsing costs more than it brings
TURN_BYTES = 16_384
MIN_ANSWER, MAX_ANSWER = 20, 300
MAX_ARGUMENTS = 6

QUESTIONS = {
    "function": ("What does `{name}` do?", "What is `{name}` for?", "`{name}` 是做什么的？"),
    "class": ("What is `{name}`?", "What is the class `{name}` for?", "`{name}` 是什么？"),
    "module": ("What is the module `{name}` about?", "What is in `{name}`?", "模块 `{name}` 是做什么的？"),
    "package": ("What is the Python package {name}?", "Python 包 {name} 是做什么的？"),
    "arguments": ("Which arguments does `{name}` take?", "`{name}` 有哪些参数？"),
}


class Params(BaseModel, frozen=True, extra="forbid"):
    """Caps: reading ends where `max_documents` or `max_bytes` is reached."""

    max_documents: int = Field(20_000, gt=0)
    max_bytes: int = Field(8_000_000, gt=0)
    max_bytes_per_package: int = Field(80_000, gt=0)
    max_document_bytes: int = Field(40_000, gt=0)  # larger files are left alone
    document_bytes: int = Field(3_000, gt=0)  # docstrings of one module are joined up to this size
    num_conversations: int = Field(4_000, ge=0)
    max_conversations_per_package: int = Field(60, ge=0)
    seed: int = Field(0, ge=0)


@dataclass
class _Package:
    """What a package has given so far, and what is still to come."""

    records: Iterator[records.Record]
    num_bytes: int = 0
    num_conversations: int = 0


def read(params: Params) -> Iterator[records.Record]:
    """Documents and conversations, package by package in turns, until a cap is reached."""
    waiting = [_Package(_package_records(package, params)) for package in installed()]
    num_documents = num_bytes = num_conversations = 0
    while waiting:
        for package in list(waiting):
            for record in _turn(package, waiting, params):
                if isinstance(record, Conversation):
                    if num_conversations == params.num_conversations:
                        continue
                    num_conversations += 1
                elif isinstance(record, Document):
                    size = len(record.text.encode())
                    if num_documents == params.max_documents or num_bytes + size > params.max_bytes:
                        return
                    num_documents, num_bytes = num_documents + 1, num_bytes + size
                yield record


def _turn(package: _Package, waiting: list[_Package], params: Params) -> Iterator[records.Record]:
    """The next TURN_BYTES of a package, which leaves `waiting` when it has nothing more or has given its share."""
    end = package.num_bytes + TURN_BYTES
    for record in package.records:
        if isinstance(record, Document):
            package.num_bytes += len(record.text.encode())
            if package.num_bytes > params.max_bytes_per_package:
                break
        elif isinstance(record, Conversation):
            package.num_conversations += 1
            if package.num_conversations > params.max_conversations_per_package:
                continue
        yield record
        if package.num_bytes >= end:
            return
    waiting.remove(package)


def _package_records(package: Distribution, params: Params) -> Iterator[records.Record]:
    metadata = {"package": package.name, "version": package.version}
    group = f"package:{package.name}"
    if package.readme:
        yield _clean(Document(f"{package.name}/README", package.readme, group, {**metadata, "kind": "readme"}))
    yield from _ask("package", package.name, package.summary, f"{package.name}/README", group, params)
    for file in package.files():
        try:
            content = (package.root / file).read_bytes()
        except OSError:
            continue  # listed by the package, deleted by somebody since
        where = {**metadata, "path": file}
        id = f"{package.name}/{file}"
        if not file.endswith(".py"):
            if content.strip() and len(content) <= params.max_document_bytes:
                yield _text(id, file, content, group, where)
        elif density(content) >= MIN_DENSITY:
            yield from _docstrings(id, file, content, group, where, params)


def _text(id: str, file: str, content: bytes, group: str, metadata: dict[str, str]) -> records.Record:
    try:
        return _clean(Document(id, content.decode("utf-8-sig"), group, {**metadata, "kind": "text"}))
    except UnicodeDecodeError as error:
        return Quarantined(id, "invalid_utf8", f"not UTF-8: {error.reason}", offset=error.start)


def _docstrings(
    id: str, file: str, content: bytes, group: str, metadata: dict[str, str], params: Params
) -> Iterator[records.Record]:
    try:
        with _no_garbage_collection():
            objects = list(documented(content, _module_name(file)))
    except Unreadable as error:
        yield Quarantined(id, "invalid_python", str(error))
        return
    for part in _join(objects, params.document_bytes):
        text = "\n\n".join(o.entry for o in part)
        about = {**metadata, "kind": "docstring", "name": part[0].name}
        yield _clean(Document(f"{id}:{part[0].line}", text, group, about))
    if "._" not in _module_name(file):  # a public module, such as people ask about
        for one in objects:
            yield from _ask(one.kind, one.name, one.first_paragraph, f"{id}:{one.line}", group, params)
            if 0 < len(one.arguments) <= MAX_ARGUMENTS:
                answer = ", ".join(f"`{a}`" for a in one.arguments) + "."
                yield from _ask("arguments", one.name, answer, f"{id}:{one.line}", group, params)


def _clean(document: Document) -> records.Record:
    try:
        return replace(document, text=clean(document.text))
    except Unusable as trouble:
        return Place(document.id).quarantine(trouble)


def _join(objects: list[Documented], num_bytes: int) -> Iterator[list[Documented]]:
    """Neighbors of one module, as many as fit into `num_bytes`, at least one."""
    part: list[Documented] = []
    size = 0
    for one in objects:
        if part and size + len(one.docstring) > num_bytes:
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.entry)
    if part:
        yield part


def _ask(kind: str, name: str, answer: str, id: str, group: str, params: Params) -> Iterator[Conversation]:
    """A question that `answer` answers; none where it is no plain sentence."""
    plain = answer.isprintable() and answer.endswith(".") and "::" not in answer and ">>>" not in answer
    if not plain or (kind != "arguments" and not MIN_ANSWER <= len(answer) <= MAX_ANSWER):
        return
    wording = random.Random(f"{params.seed} {kind} {name}").choice(QUESTIONS[kind])
    question = wording.replace("{name}", name)
    metadata = {"task": "environment", "kind": kind, "name": name}
    yield Conversation(f"{id}/{kind}", records.exchange(question, answer), group, metadata)


def _module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A syntax tree is large and dies at once: the collector would walk it several times for nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
