"""Decode web pages by their declared or detected encoding, and extract their main text with trafilatura."""

import codecs
import logging
import re
from typing import Any

from tasks.ingestion import encodings
from tasks.ingestion.decoding import UnusableRecord, clean_text

_DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{2,20})", re.IGNORECASE)
# Browsers decode these encodings as their supersets (WHATWG Encoding Standard), and pages rely on it.
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252"}
HEAD_BYTES = 4096
MAX_INVALID_SHARE = 0.001  # of the characters; invalid ones are removed if they are not more


def decode_page(page: bytes, declared: str = "") -> str:
    """Return the text of a page. Raises UnusableRecord if no encoding fits.

    declared: the charset of the HTTP header or of the user's params; "" if unknown.
    A byte order mark decides. Without one, the first encoding that fits is used: UTF-8 (which other text hardly ever
    satisfies), `declared`, the charset of the page's <meta> element, and the detected one.
    """
    marked, length = encodings.detect_byte_order_mark(page)
    if marked:
        return page[length:].decode(marked, "ignore")
    in_page = _DECLARED.search(page[:HEAD_BYTES])
    for name in ("utf-8", declared, in_page[1].decode() if in_page else "", "guess"):
        encoding = encodings.detect_encoding(page) if name == "guess" else _codec_name(name)
        if not encoding:
            continue
        text = page.decode(encoding, "replace")
        if text.count("\ufffd") <= MAX_INVALID_SHARE * len(text):
            return text.replace("\ufffd", "")
    raise UnusableRecord("invalid_encoding", "No encoding fits the page: neither the declared nor the detected one.")


def extract_text(page: str, url: str = "") -> tuple[str, dict[str, str]]:
    """Return the main text of an HTML page, and metadata with its title if it has one.

    Menus, comments and the like are removed. Raises UnusableRecord if no text remains.
    """
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        extracted: Any = trafilatura.bare_extraction(page, url=url or None, include_comments=False, with_metadata=True)
    except Exception as error:  # trafilatura may raise anything on unusual pages; that must cost this page only
        raise UnusableRecord("extraction_failed", f"{type(error).__name__}: {str(error)[:200]}") from None
    if extracted is None or not (extracted.text or "").strip():
        raise UnusableRecord("no_text", "The page has no main text besides menus and the like.")
    metadata = {"title": extracted.title} if extracted.title else {}
    return clean_text(extracted.text), metadata


def _codec_name(name: str) -> str:
    """Return the name of the Python codec for a charset, "" if there is none."""
    try:
        codec = codecs.lookup(name).name if name else ""
    except LookupError:
        return ""
    return _SUPERSETS.get(codec, codec)
