"""Drop texts that name, or come from, what a user's own lists forbid: words and phrases, web addresses, domains.

One pass over the bytes for all entries; ASCII case and runs of space do not count, and an entry that begins or ends
with an ASCII letter or digit is found only where a word does. Where a text comes from is the `url` of its metadata.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import BoolArray, Float64Array
from tasks.curation.signals.signals import Signals, string_buffers
from tasks.curation.text import phrases
from tasks.curation.verdicts import Reasons, Verdict
from tasks.errors import BadParams

KINDS = ("words", "domains", "urls")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Entries, or files with one entry in each line ("#" begins a comment). A domain forbids what lies below it too,

    an address what it is the beginning of.
    """

    words: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    word_files: tuple[Path, ...] = ()
    domain_files: tuple[Path, ...] = ()
    url_files: tuple[Path, ...] = ()
    max_words: int = Field(0, ge=0)  # how often listed words may occur
    max_links: int = Field(0, ge=0)  # how often listed domains and addresses may


def look(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """How often entries of each kind occur in each text."""
    data, offsets = string_buffers(texts)
    counts, machine = np.zeros((len(texts), len(KINDS))), _automaton(params)
    tables = machine.byte_classes, machine.moves, machine.ends, machine.found
    phrases.count_phrases(data, offsets, 0, len(texts), *tables, counts)
    return {"words": counts[:, 0], "links": counts[:, 1] + counts[:, 2]}


def look_at_origin(metadata: pa.Array, params: Params) -> BoolArray:
    """Which texts come from a listed domain or address. metadata: JSON objects."""
    listed = _listed(params)
    domains, urls = {domain.lower().strip(".") for domain in listed["domains"]}, {*map(_bare, listed["urls"])}
    if not (domains or urls):
        return np.zeros(len(metadata), np.bool_)
    return np.array([_comes_from(about, domains, urls) for about in metadata.to_pylist()], np.bool_)


def drop_reasons(
    signals: Signals, params: Params, looked: Mapping[str, Float64Array], origin: BoolArray | None = None
) -> Reasons:
    """Where a text comes from first, then words, then links."""
    words, links = looked["words"], looked["links"]
    return {
        "listed_origin": np.zeros(len(words), np.bool_) if origin is None else origin,
        "listed_words": Verdict(words > params.max_words, words, bound=params.max_words),
        "listed_links": Verdict(links > params.max_links, links, bound=params.max_links),
    }


def _comes_from(metadata: str, domains: set[str], urls: set[str]) -> bool:
    url = json.loads(metadata).get("url") if '"url"' in metadata else None
    if not isinstance(url, str):
        return False
    host, path = (_bare(url) + "/").split("/", 1)
    labels, steps = host.partition(":")[0].split("."), path.split("/")
    above = {"/".join([host, *steps[:i]]) for i in range(len(steps))}
    return not domains.isdisjoint(".".join(labels[i:]) for i in range(len(labels))) or not urls.isdisjoint(above)


def _bare(url: str) -> str:
    """An address without its scheme, user, "www." and what comes behind "?" or "#"; the host in small letters."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.netloc.lower().rpartition("@")[2].removeprefix("www.") + parts.path.rstrip("/")


@lru_cache(4)
def _automaton(params: Params) -> phrases.Automaton:
    return phrases.automaton(_listed(params), KINDS)


@lru_cache(4)
def _listed(params: Params) -> dict[str, list[str]]:
    files = {"words": params.word_files, "domains": params.domain_files, "urls": params.url_files}
    return {
        kind: [*getattr(params, kind), *(entry for file in files[kind] for entry in _lines(file))] for kind in KINDS
    }


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParams(f"the blocklist {file} cannot be read ({error}). One entry in each line, in UTF-8.") from error
    return [entry for line in lines if (entry := line.partition("#")[0].strip())]
