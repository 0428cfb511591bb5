"""Extract the text of PDF, Word and EPUB files with the libraries of the extra `office` (pypdf, python-docx)."""

import io
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import unquote
from xml.etree import ElementTree

from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.files import file_types
from tasks.ingestion.files.decompression import MIN_BOMB
from tasks.ingestion.formats import web

SUFFIXES = (".pdf", ".docx", ".epub")
_HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")


def detect_kind(start: bytes, name: str) -> str:
    """Return the suffix of the format of a file, "" if it is none of SUFFIXES."""
    if start.startswith(b"%PDF-"):
        return ".pdf"
    description = file_types.identify(start, name) if start.startswith(b"PK") else ""
    return next((suffix for word, suffix in (("Word", ".docx"), ("EPUB", ".epub")) if word in description[:20]), "")


def extract_text(content: bytes, kind: str, max_ratio: float) -> str:
    """Return the text of a document. Raises UnusableRecord if it is damaged, encrypted or has no text."""
    try:
        if kind != ".pdf":
            _check_size(content, max_ratio)
        text = _EXTRACTORS[kind](content)
    except ImportError:
        raise UnusableRecord("unsupported_format", file_types.identify(content[:512], f"x{kind}")) from None
    except UnusableRecord:
        raise
    except Exception as error:  # the libraries raise many types on damaged files; that must cost this file only
        detail = f"The {kind[1:].upper()} file is damaged ({type(error).__name__}: {str(error)[:200]}). Save it again."
        raise UnusableRecord(f"damaged_{kind[1:]}", detail) from None
    if not text.strip():
        detail = "The file has no text, for example because its pages are images. Recognize its text (OCR) first."
        raise UnusableRecord("no_text", detail)
    return text


def _check_size(content: bytes, max_ratio: float) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > MIN_BOMB and size > max_ratio * len(content):
        detail = f"The content is more than {max_ratio:g} times its compressed size. If it is valid, raise max_ratio."
        raise UnusableRecord("decompression_bomb", detail)


def _extract_pdf(content: bytes) -> str:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # damage is reported as the reason of the file
    reader = pypdf.PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnusableRecord("encrypted", "The PDF is encrypted. Save it without a password.")
    return _HYPHEN.sub("", "\n\n".join(page.extract_text().strip() for page in reader.pages))


def _extract_docx(content: bytes) -> str:
    import docx
    from docx.table import Table

    blocks: list[str] = []
    for block in docx.Document(io.BytesIO(content)).iter_inner_content():
        if isinstance(block, Table):
            blocks.append("\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows))
        else:
            blocks.append(block.text)
    return "\n".join(blocks)


def _extract_epub(content: bytes) -> str:
    """Return the chapters in the order of the spine, read as the EPUB standard defines it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        container = _parse_xml(archive.read("META-INF/container.xml"))
        root_path = next(element.attrib["full-path"] for element in container.iter() if "full-path" in element.attrib)
        package = _parse_xml(archive.read(root_path))
        hrefs = {e.attrib["id"]: e.attrib["href"] for e in package.iter() if e.tag.endswith("}item")}
        chapters = [hrefs[e.attrib["idref"]] for e in package.iter() if e.tag.endswith("}itemref")]
        folder = PurePosixPath(root_path).parent
        pages = [archive.read((folder / unquote(chapter)).as_posix()) for chapter in chapters]
    return "\n\n".join(filter(None, (_page_text(page) for page in pages)))


def _parse_xml(content: bytes) -> ElementTree.Element:
    if b"<!ENTITY" in content:  # entities let one kilobyte expand to a gigabyte
        raise ValueError("an XML file in it defines entities")
    return ElementTree.fromstring(content)


def _page_text(page: bytes) -> str:
    from lxml import html

    root = html.fromstring(web.decode_page(page).partition("?>")[2] or web.decode_page(page))
    for element in root.iter("script", "style", "head"):
        element.drop_tree()
    for element in root.iter("p", "div", "br", "li", "h1", "h2", "h3", "h4", "h5", "h6", "tr", "blockquote", "pre"):
        element.tail = "\n" + (element.tail or "")
    lines = (" ".join(line.split()) for line in str(root.text_content()).splitlines())
    return "\n".join(line for line in lines if line)


_EXTRACTORS: dict[str, Callable[[bytes], str]] = {".pdf": _extract_pdf, ".docx": _extract_docx, ".epub": _extract_epub}
