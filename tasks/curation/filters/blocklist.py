"""Drop texts that contain, or come from, an entry of your own lists: words and phrases, web addresses, domains.

All entries are searched in one pass over the bytes. ASCII case and the kind and number of spaces do not matter. An
entry that begins or ends with an ASCII letter or digit matches only at the border of a word. The origin of a text is
the `url` of its metadata.
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

ENTRY_KINDS = ("words", "domains", "urls")


class Params(BaseModel, frozen=True, extra="forbid"):
    """The entries. A file is UTF-8 text with one entry on each line; "#" begins a comment."""

    words: tuple[str, ...] = Field((), description="Forbidden words and phrases.")
    domains: tuple[str, ...] = Field((), description="Forbidden domains, each with all its subdomains.")
    urls: tuple[str, ...] = Field((), description="Forbidden web addresses, each with all addresses below it.")
    word_files: tuple[Path, ...] = Field((), description="Files with further words and phrases, one on each line.")
    domain_files: tuple[Path, ...] = Field((), description="Files with further domains, one on each line.")
    url_files: tuple[Path, ...] = Field((), description="Files with further web addresses, one on each line.")
    max_words: int = Field(0, ge=0, description="Greatest number of occurrences of listed words in a kept text.")
    max_links: int = Field(
        0, ge=0, description="Greatest number of occurrences of listed domains and addresses in a kept text."
    )


def measure_texts(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Return the number of listed words and of listed links in each text, each float64 [documents]."""
    data, offsets = string_buffers(texts)
    counts, automaton = np.zeros((len(texts), len(ENTRY_KINDS))), _automaton(params)
    phrases.count_phrases(data, offsets, 0, len(texts), *automaton.tables(), counts)
    return {"words": counts[:, 0], "links": counts[:, 1] + counts[:, 2]}


def measure_metadata(metadata: pa.Array, params: Params) -> BoolArray:
    """Return which texts come from a listed domain or address, bool [documents]. metadata: JSON objects."""
    entries = _entries(params)
    domains = {domain.lower().strip(".") for domain in entries["domains"]}
    urls = {*map(_bare_address, entries["urls"])}
    if not (domains or urls):
        return np.zeros(len(metadata), np.bool_)
    return np.array([_is_listed_origin(record, domains, urls) for record in metadata.to_pylist()], np.bool_)


def drop_reasons(
    signals: Signals,
    params: Params,
    text_measurements: Mapping[str, Float64Array],
    metadata_measurements: BoolArray | None = None,
) -> Reasons:
    """Return the rule on the origin, then the rules on words and on links."""
    words, links = text_measurements["words"], text_measurements["links"]
    from_listed_origin = np.zeros(len(words), np.bool_) if metadata_measurements is None else metadata_measurements
    return {
        "listed_origin": from_listed_origin,
        "listed_words": Verdict(words > params.max_words, words, bound=params.max_words),
        "listed_links": Verdict(links > params.max_links, links, bound=params.max_links),
    }


def _is_listed_origin(metadata: str, domains: set[str], urls: set[str]) -> bool:
    """Return whether the `url` in `metadata` belongs to a listed domain, or begins with a listed address."""
    url = json.loads(metadata).get("url") if '"url"' in metadata else None
    if not isinstance(url, str):
        return False
    host, path = (_bare_address(url) + "/").split("/", 1)
    labels, folders = host.partition(":")[0].split("."), path.split("/")
    # a.b.example belongs to the domains a.b.example, b.example and example; host/x is below host and host/x.
    # Whole labels and folders are compared, so that notevil.example does not belong to evil.example.
    host_domains = (".".join(labels[i:]) for i in range(len(labels)))
    parent_addresses = {"/".join([host, *folders[:i]]) for i in range(len(folders))}
    return not domains.isdisjoint(host_domains) or not urls.isdisjoint(parent_addresses)


def _bare_address(url: str) -> str:
    """Return an address without its scheme, user, "www.", query and fragment, and with the host in lower case."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.netloc.lower().rpartition("@")[2].removeprefix("www.") + parts.path.rstrip("/")


@lru_cache(4)
def _automaton(params: Params) -> phrases.Automaton:
    return phrases.build_automaton(_entries(params), ENTRY_KINDS)


@lru_cache(4)
def _entries(params: Params) -> dict[str, list[str]]:
    """Return the entries of each kind, from the params and from the files."""
    files = {"words": params.word_files, "domains": params.domain_files, "urls": params.url_files}
    return {
        kind: [*getattr(params, kind), *(entry for file in files[kind] for entry in _read_entries(file))]
        for kind in ENTRY_KINDS
    }


def _read_entries(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParams(
            f"the blocklist {file} cannot be read ({error}). It must be a UTF-8 text file with one entry on each line."
        ) from error
    return [entry for line in lines if (entry := line.partition("#")[0].strip())]
