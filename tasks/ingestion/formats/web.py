"""Decode web pages by their declared or detected encoding, and extract their main text with trafilatura."""

import email
import logging
import re
from typing import Any

from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.files import charsets, encodings

_DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{2,20})", re.IGNORECASE)
_DECLARED_XML = re.compile(rb"\A\s*<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w-]{2,20})", re.IGNORECASE)
# Annotations of pronunciation would be mixed into the words that they belong to.
_RUBY = re.compile(r"<(rt|rp)\b[^<>]{0,200}>[^<]{0,1000}</\1>|</?(?:ruby|rb)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z!/?]")
_MHTML = re.compile(rb"(?:[\w-]+: [^\n]*\n|[ \t][^\n]*\n){0,20}?MIME-Version: ", re.IGNORECASE)
HEAD_BYTES = 1 << 16
MAX_INVALID_SHARE = 0.001  # of the characters; invalid ones are removed if they are not more


def decode_page(page: bytes, declared: str = "") -> str:
    """Return the text of a page. Raises UnusableRecord if no encoding fits.

    declared: the charset of the HTTP header or of the user's params; "" if unknown.
    A byte order mark decides. Without one, the first encoding that fits is used: UTF-8 (which other text hardly ever
    satisfies), `declared`, the charset that the page itself declares, and the detected one. A declared charset fits if
    the text looks like a language that is written in it.
    """
    marked, length = encodings.detect_byte_order_mark(page)
    if marked:
        return page[length:].decode(marked, "ignore")
    if encodings.is_iso2022_jp(page):
        return page.decode("iso2022_jp_ext", "ignore")
    if encodings.is_mostly_utf8(page):
        return page.decode("utf-8", "replace").replace("\ufffd", "")
    in_page = _DECLARED_XML.search(page) or _DECLARED.search(page[:HEAD_BYTES])
    declarations = [declared, in_page[1].decode() if in_page else ""]
    candidates = [charsets.codec_name(name) for name in declarations]
    candidates = [name for name in candidates if name and not name.startswith(("utf-16", "utf-32"))]  # as browsers do
    utf16 = encodings.detect_utf16(page[: encodings.SAMPLE_BYTES])
    guesses = [utf16 or encodings.detect_encoding(page)]
    for must_be_plausible in (True, False):
        for encoding in [*candidates, *guesses]:
            text = page.decode(encoding, charsets.ERRORS)
            is_decoded = text.count("\ufffd") <= MAX_INVALID_SHARE * len(text)
            if is_decoded and (not must_be_plausible or encodings.is_plausible(text, encoding)):
                return text.replace("\ufffd", "")
    raise UnusableRecord("invalid_encoding", "No encoding fits the page: neither the declared nor the detected one.")


def extract_text(page: str, url: str = "") -> tuple[str, dict[str, str]]:
    """Return the main text of an HTML page, and metadata with its title if it has one.

    Menus, comments and the like are removed. Raises UnusableRecord if no text remains.
    """
    import trafilatura

    if not _TAG.search(page):  # browsers show such a page as text
        if not page.strip():
            raise UnusableRecord("no_text", "The page has no text.")
        return clean_text(page), {}
    page = _RUBY.sub("", page)
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        extracted: Any = trafilatura.bare_extraction(page, url=url or None, include_comments=False, with_metadata=True)
    except Exception as error:  # trafilatura may raise anything on unusual pages; that must cost this page only
        raise UnusableRecord("extraction_failed", f"{type(error).__name__}: {str(error)[:200]}") from None
    if extracted is None or not (extracted.text or "").strip():
        raise UnusableRecord("no_text", "The page has no main text besides menus and the like.")
    metadata = {"title": extracted.title} if extracted.title else {}
    return clean_text(extracted.text), metadata


def unpack_saved_page(page: bytes) -> tuple[bytes, str]:
    """Return the page and its charset in an MHTML file, as which browsers save pages; another page as it is."""
    if not _MHTML.match(page):
        return page, ""
    for part in email.message_from_bytes(page).walk():
        if part.get_content_type() in ("text/html", "application/xhtml+xml"):
            content = part.get_payload(decode=True)
            return (content if isinstance(content, bytes) else b""), part.get_content_charset() or ""
    return page, ""
