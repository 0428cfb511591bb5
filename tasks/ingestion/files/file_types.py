"""Identify files that are no text by their first bytes, and say how they can be read."""

import re
from collections.abc import Callable

OFFICE_INSTALL = "pip install -c constraints.txt -e '.[office]'"
START_BYTES = 512
_CONVERT = "convert it to text, HTML or .docx first, for example in LibreOffice"
_OFFICE = f"to read it: {OFFICE_INSTALL}, and name it in a source of the kind `text`"
_ARCHIVE = "its members are read where `paths` names it with the ending .zip, .tar, .tar.gz or .tgz"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF", _OFFICE),
    (b"\xd0\xcf\x11\xe0", "a document of Word, Excel or PowerPoint before 2007", _CONVERT),
    (b"{\\rtf", "an RTF document", _CONVERT),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "use `source: parquet`"),
    (b"ARROW1\0\0", "an Arrow file", "convert it to Parquet first"),
    (b"SQLite format 3\0", "an SQLite database", "export its table as CSV or Parquet first"),
    (b"\x89PNG\r\n", "a PNG image", "only text is read"),
    (b"\xff\xd8\xff", "a JPEG image", "only text is read"),
    (b"GIF87a", "a GIF image", "only text is read"),
    (b"GIF89a", "a GIF image", "only text is read"),
    (b"II*\0", "a TIFF image", "only text is read"),
    (b"MM\0*", "a TIFF image", "only text is read"),
    (b"OggS", "an Ogg recording", "only text is read"),
    (b"fLaC", "a FLAC recording", "only text is read"),
    (b"ID3", "an MP3 recording", "only text is read"),
    (b"\x7fELF", "a program", "only text is read"),
    (b"MZ\x90\0", "a program", "only text is read"),
    (b"\x89HDF\r\n", "an HDF5 file", "export its texts as Parquet or JSON Lines first"),
    (b"\x93NUMPY", "a NumPy array", "export its texts as Parquet or JSON Lines first"),
    (b"AT&TFORM", "a DjVu document", _CONVERT),
    (b"filedesc://", "an ARC file, the format before WARC", "convert it with `warcio recompress` first"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05](?:\x95|[}\](c])")


def identify(start: bytes, name: str) -> str:
    """Return what a file is and how it can be read, "" if it may be text. `start` is its first START_BYTES."""
    if start.startswith(b"PK\x03\x04"):
        kind, fix = _identify_zip(start, name)
        return f"This is {kind}; {fix}."
    for magic, kind, fix in _MAGIC:
        if start.startswith(magic):
            return f"This is {kind}; {fix}."
    for test, kind, fix in _TESTS:
        if test(start):
            return f"This is {kind}; {fix}."
    return ""


def _identify_zip(start: bytes, name: str) -> tuple[str, str]:
    """Distinguish Word, Excel, PowerPoint, OpenDocument and EPUB files by their members or names."""
    if b"mimetypeapplication/epub" in start or name.lower().endswith(".epub"):
        return "an EPUB book", _OFFICE
    for mark, ending, kind, fix in (
        (b"word/", ".docx", "a Word document", _OFFICE),
        (b"xl/", ".xlsx", "an Excel table", "save it as CSV first"),
        (b"ppt/", ".pptx", "a PowerPoint presentation", "save it as PDF or text first"),
        (b"mimetypeapplication/vnd.oasis", ".odt", "an OpenDocument file", "save it as .docx or text first"),
    ):
        if mark in start or name.lower().endswith(ending):
            return kind, fix
    return "a ZIP archive", _ARCHIVE


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def _is_media(start: bytes) -> bool:
    return start[4:8] == b"ftyp" or (start.startswith(b"RIFF") and start[8:12] in (b"WAVE", b"AVI ", b"WEBP"))


def _is_mobi(start: bytes) -> bool:
    return start[60:68] in (b"BOOKMOBI", b"TEXtREAd")


def _is_pickle(start: bytes) -> bool:
    return bool(_PICKLE.match(start))


_TESTS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (_is_tar, "a tar archive", _ARCHIVE),
    (_is_media, "an image, a recording or a video", "only text is read"),
    (_is_mobi, "a Kindle book", "convert it to EPUB or text first"),
    (_is_pickle, "a Python pickle, which can run any code when it is opened", "export its texts as JSON Lines first"),
)
