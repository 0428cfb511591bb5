"""Detect the encoding of a file from a part of it. A guess whose text does not look like a language is rejected.

Detection of single-byte and Asian encodings is unreliable in general, because nearly every byte sequence is valid in
several of them. So UTF-8 is preferred whenever possible (its multi-byte sequences are self-validating), and any other
encoding has to produce the letters or characters that are frequent in a language that uses it.
"""

import codecs
import re

import charset_normalizer

_BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16: the mark of UTF-32-LE begins with that of UTF-16-LE
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAMPLE_BYTES = 1 << 16
MIN_WESTERN_SHARE = 0.9  # of the non-ASCII characters of a text in Windows-1252
MIN_FREQUENT_SHARE = (
    0.12  # of the non-ASCII characters of a text in an Asian encoding; real text has three times as much
)
MIN_PLAUSIBLE_SHARE = 0.5  # of the non-ASCII characters of a page whose declared charset is Windows-1252
MIN_COMMON_SHARE = 0.9  # of the non-ASCII characters of a text that are in the range of common ones
_ACCENTED_RUN = re.compile(r"[À-ÖØ-öø-ÿ]{3,}")  # rare in Western words; Cyrillic words become such runs
_ISO2022_JP = re.compile(rb"\x1b\$[@B](?:[!-~]{2})++\x1b\([BJ]")
# Letters of Western European words and typographic marks, at positions where they occur in running text: lower-case
# accented letters next to letters, opening quotes before words, closing quotes after words.
_WESTERN = re.compile(
    r"(?<=[A-Za-zß-öø-ÿ])[ß-öø-ýœ]|[ß-öø-ýœÀÁÄÅÇÉÈÊÍÑÓÖØÚÜŒ](?=[a-z])|(?<=\s)[àéèóáí](?=\s)"
    r"|(?<=[\w.,!?])[’”…»]|[‘“«¿¡£€§©®](?=\w)|(?<=[\s\w])[–—·](?=[\s\w])"
)
# The most frequent characters of each language. The Chinese ones cover about half of any text.
_HAN = "的一是不了在人有我他中上大和地到以要就出可也你生能而子那得下自之年作用道行所然家事，。、：；！？“”「」（）《》"
_SIMPLIFIED = (
    "这个们来为国说时会对于着过发后里种成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她"
    "本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并"
    "物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信今气"
)
_TRADITIONAL = (
    "這個們來為國說時會對於著過發後裡種成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她"
    "本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並"
    "物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信今氣"
)
_KANA = (
    "のにはをたがでてとしれさあいるもなこすきりょっうだくそつまどみけかじおらえやわよせめん、。ーンスルト"
    "リアイラクレドシッ"
)
_HANGUL = "이다는에의가을로하고지은한를기사도서리어자들인그나정대시수아해일라스만보적성제과게거부안녕세요니습있없것으"
_ASIAN = {
    "gb18030": frozenset(_HAN + _SIMPLIFIED),
    "big5hkscs": frozenset(_HAN + _TRADITIONAL),
    "cp932": frozenset(_KANA),
    "euc_jp": frozenset(_KANA),
    "cp949": frozenset(_HANGUL),
}
_CHINESE = _ASIAN["gb18030"] | _ASIAN["big5hkscs"]
_OTHER_ENCODINGS = ["cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256"]


def detect_byte_order_mark(start: bytes) -> tuple[str, int]:
    """Return the encoding that the byte order mark of a file indicates, and its length; ("", 0) without one."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    return "", 0


def detect_utf16(start: bytes) -> str:
    """Return utf-16-le or utf-16-be if `start` is UTF-16 without a byte order mark, otherwise ""."""
    # ASCII characters have a zero byte: the second of two in little-endian order, the first in big-endian order.
    even_zeros, odd_zeros = start[0::2].count(0), start[1::2].count(0)
    fewer, more, encoding = (
        (even_zeros, odd_zeros, "utf-16-le") if odd_zeros > even_zeros else (odd_zeros, even_zeros, "utf-16-be")
    )
    if more >= 4 and more > 0.15 * len(start) and fewer < 0.05 * more:
        return encoding
    if _is_utf8(start):
        return ""
    # Chinese text has no zero bytes. In the wrong byte order it decodes to rare characters.
    even_part = start[: len(start) // 2 * 2]
    return next((e for e in ("utf-16-le", "utf-16-be") if _share(even_part.decode(e, "replace"), _CHINESE) > 0.25), "")


def detect_encoding(part: bytes) -> str:
    """Return the encoding of `part`, which has bytes above 127 and one byte per ASCII character.

    It is UTF-8 if at least half of the non-ASCII lines are valid UTF-8 (the others are damaged lines), if most
    characters are, or if no other encoding fits.
    """
    if is_iso2022_jp(part):
        return "iso2022_jp_ext"
    lines = [line for line in part.split(b"\n") if not line.isascii()]
    num_valid = sum(map(_is_utf8, lines))
    if 2 * num_valid >= len(lines) or is_mostly_utf8(part[:SAMPLE_BYTES]):
        return "utf-8"
    sample = b"\n".join(line for line in lines if not _is_utf8(line))[:SAMPLE_BYTES]
    if _western_share(sample) >= MIN_WESTERN_SHARE:
        return "cp1252"
    shares = {encoding: _asian_share(sample, encoding) for encoding in _ASIAN}
    best = max(shares, key=lambda encoding: shares[encoding])
    if shares[best] >= MIN_FREQUENT_SHARE:
        return best
    return _detect_common_characters(sample) or _detect_other(sample)


def is_plausible(text: str, encoding: str) -> bool:
    """Return whether `text`, which was decoded with `encoding`, looks like a language that is written in it."""
    high = [c for c in text if c > "\x7f"]
    if not high:
        return True
    if encoding in _ASIAN:
        num_common = sum(_is_common(c.encode(encoding, "ignore"), encoding) for c in high)
        return _share(text, _ASIAN[encoding]) >= MIN_FREQUENT_SHARE or num_common >= MIN_COMMON_SHARE * len(high)
    if encoding in ("cp1252", "mac_roman"):
        # upper-case words and lone letters are less regular than running text
        num_in_runs = sum(map(len, _ACCENTED_RUN.findall(text)))
        return len(_WESTERN.findall(text)) >= MIN_PLAUSIBLE_SHARE * len(high) and num_in_runs < 0.3 * len(high)
    return True


def is_iso2022_jp(content: bytes) -> bool:
    """Return whether `content` is ASCII in which escape sequences begin and end Japanese text."""
    return b"\x1b$" in content and content.isascii() and bool(_ISO2022_JP.search(content))


def is_mostly_utf8(content: bytes) -> bool:
    """Return whether most non-ASCII characters are valid UTF-8, so that the others are damage.

    Text in other encodings contains valid sequences of three bytes only by chance.
    """
    text = content.decode("utf-8", "replace")
    num_invalid = text.count("\ufffd")
    num_valid = sum(c > "\x7f" for c in text) - num_invalid
    return num_valid > 10 * num_invalid


def _detect_common_characters(sample: bytes) -> str:
    """Return gb18030 or big5hkscs for a text too short for frequencies, such as a list of names, otherwise "".

    Both standards have the common characters in one range, which nearly all characters of any text are from.
    """
    for encoding in ("gb18030", "big5hkscs"):
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        codes = [c.encode(encoding) for c in text if c > "\x7f"]
        num_common = sum(_is_common(code, encoding) for code in codes)
        if len(codes) >= 2 and num_common >= MIN_COMMON_SHARE * len(codes):
            return encoding
    return ""


def _is_common(code: bytes, encoding: str) -> bool:
    """Return whether a character is a punctuation mark or one of the common characters of its standard (level 1)."""
    if len(code) != 2:
        return False
    if encoding == "gb18030":
        return code[1] >= 0xA1 and (0xB0 <= code[0] <= 0xD7 or code[0] in (0xA1, 0xA3))
    if encoding == "big5hkscs":
        return 0xA1 <= code[0] <= 0xC6
    if encoding == "cp949":
        return code[1] >= 0xA1 and (0xB0 <= code[0] <= 0xC8 or code[0] in (0xA1, 0xA3))
    return False


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _asian_share(sample: bytes, encoding: str) -> float:
    """Return the share of frequent characters; 0 if more than 5 % of `sample` cannot be decoded."""
    text = sample.decode(encoding, "replace")
    num_high = sum(c > "\x7f" for c in text)
    return _share(text, _ASIAN[encoding]) if num_high > 1 and text.count("\ufffd") <= 0.05 * num_high else 0.0


def _share(text: str, characters: frozenset[str]) -> float:
    """Return the share of `characters` among the non-ASCII characters of `text`."""
    high = [c for c in text if c > "\x7f"]
    return sum(c in characters for c in high) / max(1, len(high))


def _western_share(sample: bytes) -> float:
    """Return the share of non-ASCII characters that are plausible at their position in Windows-1252."""
    text = sample.decode("cp1252", "replace")
    return len(_WESTERN.findall(text)) / max(1, sum(c > "\x7f" for c in text))


def _detect_other(sample: bytes) -> str:
    """Return an encoding for Western text of classic Mac OS, Cyrillic, Greek, Hebrew or the like, or else utf-8."""
    mac_text = sample.decode("mac_roman")
    if len(_WESTERN.findall(mac_text)) >= MIN_WESTERN_SHARE * sum(c > "\x7f" for c in mac_text):
        return "mac_roman"
    guess = charset_normalizer.from_bytes(sample, cp_isolation=_OTHER_ENCODINGS, threshold=0.1).best()
    return guess.encoding if guess is not None and guess.coherence > 0.3 else "utf-8"
