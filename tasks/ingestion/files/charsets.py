"""Decode text as browsers do (WHATWG Encoding Standard): names of charsets, and bytes beyond the official tables.

Browsers read the names of old charsets as their supersets, and pages rely on it: GB2312 as GB18030 with the Euro sign
at 0x80, Shift_JIS as Windows-31J, EUC-KR as windows-949, Big5 with the Hong Kong characters, Latin-1 as Windows-1252.
"""

import codecs

_SUPERSETS = {
    **dict.fromkeys(("gb2312", "gbk", "gb18030", "x-gbk", "hz", "gb_2312-80", "chinese", "iso-ir-58"), "gb18030"),
    **dict.fromkeys(("big5", "big5-hkscs", "big5hkscs", "x-x-big5", "cn-big5", "csbig5", "cp950"), "big5hkscs"),
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "ms_kanji", "windows-31j", "csshiftjis", "ms932", "cp932"),
        "cp932",
    ),
    **dict.fromkeys(
        ("euc_kr", "euc-kr", "ks_c_5601-1987", "ksc5601", "korean", "windows-949", "ks_c_5601-1989", "cp949"), "cp949"
    ),
    **dict.fromkeys(("euc_jp", "euc-jp", "x-euc-jp", "cseucpkdfmtjapanese"), "euc_jp"),
    **dict.fromkeys(("iso2022_jp", "iso-2022-jp", "csiso2022jp"), "iso2022_jp_ext"),
    **dict.fromkeys(
        ("iso8859-1", "iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii", "ansi_x3.4-1968", "windows-1252"),
        "cp1252",
    ),
    **dict.fromkeys(("iso8859-9", "iso-8859-9", "latin5"), "cp1254"),
    **dict.fromkeys(("tis-620", "tis_620", "iso8859-11", "iso-8859-11", "windows-874", "dos-874"), "cp874"),
    **dict.fromkeys(("koi8-ru", "koi8-u", "koi8_u"), "koi8_u"),
    **dict.fromkeys(("koi8-r", "koi8_r", "koi", "koi8"), "koi8_r"),
    **dict.fromkeys(("mac", "macintosh", "x-mac-roman"), "mac_roman"),
    "x-mac-cyrillic": "mac_cyrillic",
}
# Error handlers: the first one yields U+FFFD, the second one raises, the third one yields a surrogate as a mark.
ERRORS, STRICT, MARK = "whatwg", "whatwg_strict", "whatwg_mark"


def codec_name(charset: str) -> str:
    """Return the Python codec for the name of a charset, "" if there is none."""
    name = charset.strip().lower()
    if name in _SUPERSETS:
        return _SUPERSETS[name]
    try:
        codec = codecs.lookup(name) if name else None
    except LookupError:
        return ""
    if codec is None or not codec._is_text_encoding:  # zip, hex and the like
        return ""
    return _SUPERSETS.get(codec.name, codec.name)


def _repair(error: UnicodeError) -> tuple[str, int] | None:
    """Return the character that browsers read at the position of an error, and where to continue; None without one."""
    if not isinstance(error, UnicodeDecodeError):
        return None
    content, start = error.object, error.start
    codec = error.encoding.replace("-", "_").lower()
    if codec in ("gb18030", "gbk", "gb2312") and content[start] == 0x80:
        return "\u20ac", start + 1
    if codec == "euc_jp" and content[start : start + 1] in (b"\xad", b"\xf9", b"\xfa", b"\xfb", b"\xfc"):
        # rows of NEC and IBM, such as circled numbers, which JIS X 0213 has at the same positions
        character = content[start : start + 2].decode("euc_jis_2004", "ignore")
        return (character, start + 2) if character else None
    if codec == "cp1252":
        return chr(content[start]), start + 1
    return None


def _replace(error: UnicodeError) -> tuple[str, int]:
    if repaired := _repair(error):
        return repaired
    if isinstance(error, UnicodeDecodeError):
        return "\ufffd", error.end
    raise error


def _raise(error: UnicodeError) -> tuple[str, int]:
    if repaired := _repair(error):
        return repaired
    raise error


def _mark(error: UnicodeError) -> tuple[str, int]:
    if repaired := _repair(error):
        return repaired
    if isinstance(error, UnicodeDecodeError):
        return "\udc80", error.end
    raise error


codecs.register_error(MARK, _mark)
codecs.register_error(ERRORS, _replace)
codecs.register_error(STRICT, _raise)
