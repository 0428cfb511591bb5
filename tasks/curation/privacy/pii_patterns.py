"""The patterns of personal data, and the checks that separate it from version numbers, book numbers and other numbers.

Patterns match bytes, so that \\w and \\d are ASCII only and Chinese characters may adjoin a number. A match is personal
data if its checksum, its number of digits and the words around it agree: "order 138 1234 5678" is no telephone number,
eight digits are one only after a word such as "Tel", and the number of a library or in fiction is nobody's.
"""

import datetime
import ipaddress
import re

PII_TYPES = ("email", "ip", "phone", "mobile", "identity", "card", "passport", "account", "address")

CONTEXT = 48  # bytes before and after a match in which its label is searched

_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS = "10X98765432"  # GB 11643-1999, as ISO 7064 mod 11-2

# Prefixes of card numbers, and the lengths that numbers with these prefixes have.
_ISSUERS = {
    "3[47]": (15,),
    "3[0689]": (14,),
    "35|6[0-9]": (16, 17, 18, 19),  # JCB; UnionPay, Discover, Maestro
    "4": (13, 16, 19),
    "5[1-5]|2[2-7]": (16,),
}

# Country calling codes (ITU-T E.164): complete, or the first two digits of those with three.
_COUNTRY = (
    r"1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-69]|35|37|38|42|50|59|67|68|69|80|85|87|88|96|97|99)\d"
)

# Of matches that begin at the same byte the longest wins, then the first of this table.
_START, _END = rb"(?<![\w.])", rb"(?!\w|\.\d)"
_BYTE = rb"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV6 = rb"(?<![\w.:])[23fF][\dA-Fa-f]{3}(?::[\dA-Fa-f]{0,4}){2,7}(?:(?<=[\dA-Fa-f])|(?<=::))(?!\w|:\w)"
_LETTER = rb"(?:[A-Za-z0-9]|[\xc3-\xc9][\x80-\xbf])"  # also Latin letters with accents
_DOMAIN = rb"(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\d*(?![\w-])"
_HAN = rb"(?:[\xe4-\xe9][\x80-\xbf]{2})"
_HAN_DOMAIN = (
    rb"(?:[A-Za-z0-9-]|" + _HAN + rb"){1,20}\.(?:" + "中国|中國|公司|网络|網路|香港|台灣|台湾".encode() + rb")"
)
_AT, _DOT = rb" ?(?:\(at\)|\[at\]|\{at\}) ?", rb"(?:\.| ?(?:\(dot\)|\[dot\]|\{dot\}) ?)"
_PATTERNS = {
    "email": rb"(?<![\w.%+-])"
    + _LETTER
    + rb"(?:[\w.%+-]|[\xc3-\xc9][\x80-\xbf])*@(?:"
    + _DOMAIN
    + rb"|"
    + _HAN_DOMAIN
    + rb')|"[\w .+-]{1,40}"@'
    + _DOMAIN
    + rb"|(?<![\w.%+-])[A-Za-z0-9][\w.%+-]{0,40}"
    + _AT
    + rb"[A-Za-z0-9-]{1,40}(?:"
    + _DOT
    + rb"[A-Za-z0-9-]{1,40}){1,4}(?![\w-])",
    "identity": rb"(?<!\w)[1-9]\d{5}( ?)\d{8}\1\d{3}[\dXx](?!\w)|(?<!\w)[1-9]\d{14}(?!\w)",
    "card": rb"(?<![A-Z]{2}\d\d )"
    + _START
    + rb"(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}|\d{13,19})"
    + _END,
    "mobile": _START
    + rb"(?:(?:(?:\+|00)?86|\(\+?86\))[ -]?|0)?1[3-9]\d(?:([ .-]?)\d{4}\1\d{4}|[ -]\d{8})"
    + _END
    + rb"|"
    + _START
    + rb"09\d{2}(?:([ -]?)\d{3}\2\d{3}|-\d{6})"
    + _END,  # Taiwan
    "ip": _START + _BYTE + rb"(?:\." + _BYTE + rb"){3}" + _END + rb"|" + _IPV6,
    "phone": _START
    + rb"(?:(?:\+|00)[1-9]\d{0,14}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,5})){0,5}"  # with a country code
    + rb"|(?:\((?:86|85[23]|886)\) ?|(?:86|85[23]|886)-)(?:\(?0?\d{1,3}\)?[ -]?)?\d{3,4}[ -]?\d{4}"  # China without "+"
    + rb"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|(?!400)[2-9]\d{2}[.-])\d{3}[ .-]\d{4}(?!-\d)"  # North America
    + rb"|(?:\(0\d{1,3}\) ?|0\d{1,3}[- ])(?:\d{7,8}|\d{3,4}[ -]\d{4})(?!-\d)"  # China, Taiwan
    + rb"|555\d{7}"  # the area code of examples
    + rb"|(?<!\d )0[1-9](?:([ .-])\d\d)(?:\1\d\d){3}(?!\1\d)"  # France
    + rb"|(?<!\d )0\d{2,4} \d{3,4} \d{3,4}(?! \d))"  # elsewhere, with a trunk prefix
    + _END,
    "labeled phone": _START
    + rb"(?:\d{4}[ -]\d{4}|[2-9]\d{2}[ .-](?:\d{4}|\d{3}[ .-]\d{4})|\d{4}-\d{3}-\d{3}|[48]00-\d{3,4}-\d{3,4}|\d{7,11})"
    + _END,
    "passport": rb"(?<!\w)[A-Z]{1,2}\d{7,8}(?!\w)",
    "account": rb"(?<!\w)[1-9]\d{6,11}(?!\w)",
    "wechat account": rb"(?<![\w@.])[A-Za-z][\w-]{5,19}(?![\w@])",
    "wxid account": rb"(?<![\w@.])wxid_\w{4,20}(?![\w@])",
    "address": rb"(?:"
    + rb"|".join(
        rb"(?<=" + f"{word}{colon}".encode() + rb")"
        for word in ("住址", "家庭地址")
        for colon in ("：", ":", "是", "为", "為", " ")
    )
    + rb") ?(?:"
    + _HAN
    + rb"|[\w#-]){2,40}",
}
_MIN_BYTES = {"identity": 15, "card": 13, "mobile": 10, "phone": 8}
_WORDS = {"wechat account": "微信".encode(), "wxid account": b"wxid_", "address": "址".encode()}
COMPILED = tuple(
    (name, name.split()[-1], _MIN_BYTES.get(name, 7), _WORDS.get(name, b""), re.compile(pattern))
    for name, pattern in _PATTERNS.items()
)
"""(name of the pattern, type of personal data, fewest bytes of a span, word that the span contains, pattern)"""


def _label(words: str, after: str) -> re.Pattern[bytes]:
    """Return a pattern of one of some words, and up to a few characters between it and the end."""
    return re.compile(rf"(?:{words}){after}$".encode(), re.IGNORECASE)


_PHONE_LABEL = _label(
    "电话|電話|手机|手機|座机|座機|热线|熱線|致电|致電|拨打|撥打|来电|來電|传真|傳真|客服|联系|聯絡|聯繫|查詢|咨询|香港|澳門|澳门|台灣|台湾"
    r"|\b(?:tel|telephone|phone|mobile|cell|fax|call|whatsapp|hotline|sms|hong kong|hk)",
    r"(?:[^\d\n]){0,15}",
)
_OTHER_NUMBER_LABEL = _label(
    "编号|編號|订单|訂單|单号|單號|流水|序列|货号|貨號|条码|條碼|学号|學號|工号|型号|型號|账号|帳號|书号|書號|邮编|票号|案号"
    r"|\b(?:isbn(?:-1[03])?|issn|doi|imei|order|serial|invoice|tracking|part|item|sku|hash|id|uid|timestamp|lotto|scores?)",
    r"(?:号(?:码)?|號(?:碼)?|(?: ?(?:number|no\.?|is)))?(?:[\s:#=]|：|是|为|為){0,4}",
)
_BOOK_LABEL = _label(r"\bisbn(?:-1[03])?|\bissn|\bdoi|\biban|书号|書號", r"(?:[\s:#=]|：){0,4}[\dA-Z -]{0,24}")
_IDENTITY_LABEL = _label("身份证|身份證|身分證|证件|證件|公民身份", r"(?:[^\d\n]){0,15}")
_PASSPORT_LABEL = _label("护照|護照|passport", r"(?:[^A-Z\d\n]){0,15}(?:no\.? ?|number:? ?)?")
_ACCOUNT_LABEL = _label(r"\bqq", r"(?:群|号|號|：|[\s:]){0,4}")
_WECHAT_LABEL = _label("微信(?:号(?:码)?|號(?:碼)?| ?id)", r"(?:：|是|为|為|[\s:]){0,4}")
_PLACE = re.compile("[省市区區县縣州路街道巷弄号號栋棟幢楼樓室村镇鎮乡鄉]")
_IP_LABEL = _label(
    "地址|主机|主機|访问|訪問|登录|登錄|来自|來自|服务器|伺服器"
    r"|\b(?:ip|ips|ipv4|addr|address|host|ping|dns|gateway|client|peer|from)\b|//|@|\[",
    r"(?:[^\d\n]){0,8}",
)
_VERSION_LABEL = _label(
    "版本|升级|升級|更新|固件|第"
    r"|\b(?:version|ver|v|release|build|package|section|clause|chapter|rfc|oid|kernel|linux|driver|firmware|windows|glibc|oracle|mysql|nginx|php|python|chrome|firefox"
    r"|safari|edge|java|jdk)|(?:upgrad|updat|downgrad|migrat)\w* from|[A-Za-z][/_-]",
    r"(?:号|號|：|[\s:=.]){0,4}",
)
_AFTER_PUBLIC_NUMBER = re.compile(
    r"(?:是|为|為)[^，。\n]{1,12}(?:馆|館|公司|医院|醫院|学校|學校|大学|大學|银行|銀行|政府|部门|部門|局|中心)的?"
    r"(?:电话|電話|热线|熱線|总机|總機)|[^.\n]{0,24}\bficti(?:on|onal|tious)\b"
)
_AFTER_IP = re.compile(rb":\d{2,5}\b|/\d{1,2}\b|\]| - - \[")
_AFTER_VERSION = re.compile(r"\s*(?:版|\bversion\b|\brelease\b)".encode(), re.IGNORECASE)
_NO_REPLY = re.compile(rb"(?:no-?_?reply|do-?_?not-?_?reply|mailer-daemon)@", re.IGNORECASE)
_AFTER_GIT = re.compile(rb":[\w~./-]*/|:[\w.-]+\.git\b")
_NUMERIC_DOMAIN = re.compile(rb"@[\d.-]+\.(?!com|cn|net|org)")


def is_valid(name: str, match: re.Match[bytes], public_ips_only: bool) -> bool:
    """Whether a match of the pattern `name` is personal data, by its digits and its context."""
    begin, end, text = match.start(), match.end(), match.string
    before, after = text[max(0, begin - CONTEXT) : begin], text[end : end + CONTEXT]
    digits = re.sub(rb"[^0-9Xx]", b"", match.group()).decode()
    match name:
        case "email":
            return _is_personal_address(match.group(), before, after)
        case "ip":
            return _is_address(match.group().decode(), before, after, public_ips_only)
        case "passport":
            return _PASSPORT_LABEL.search(before) is not None
        case "account":
            return _ACCOUNT_LABEL.search(before) is not None
        case "wechat account":
            return _WECHAT_LABEL.search(before) is not None
        case "wxid account":
            return True
        case "address":
            return len(_PLACE.findall(match.group().decode())) >= 2
        case "phone" if _AFTER_PUBLIC_NUMBER.match(after.decode(errors="ignore")):
            return False
        case "identity":
            return is_identity_number(digits) if len(digits) == 18 else _is_old_identity_number(digits, before)
        case "labeled phone":
            return _PHONE_LABEL.search(before) is not None and len(set(digits)) > 2
    if (_OTHER_NUMBER_LABEL.search(before) and not _PHONE_LABEL.search(before)) or _BOOK_LABEL.search(before):
        return False
    if name == "card":
        return is_card_number(digits)
    return name == "mobile" or _is_phone_number(match.group().decode(), digits)


def is_identity_number(number: str) -> bool:
    """Whether 18 digits (the last may be X) are a Chinese identity number: a date of birth and the check digit."""
    total = sum(int(digit) * weight for digit, weight in zip(number, _IDENTITY_WEIGHTS, strict=False))
    return _is_date(number[6:14]) and number[17].upper() == _IDENTITY_CHECKS[total % 11]


def is_card_number(number: str) -> bool:
    """Whether digits are a payment card number: a known issuer, its length, and Luhn's check digit (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number)]
    # Every second digit from the right counts double; of a product with two digits, their sum counts.
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    is_issued = any(re.match(issuer, number) and len(number) in lengths for issuer, lengths in _ISSUERS.items())
    return is_issued and len(set(number)) > 1 and total % 10 == 0


def _is_old_identity_number(number: str, before: bytes) -> bool:
    """Whether 15 digits are an identity number from before 1999, which has no check digit: a date and a label."""
    return _is_date("19" + number[6:12]) and _IDENTITY_LABEL.search(before) is not None


def _is_date(digits: str) -> bool:
    try:
        return 1850 <= datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).year <= 2100
    except ValueError:
        return False


def _is_personal_address(match: bytes, before: bytes, after: bytes) -> bool:
    """Whether an e-mail address belongs to a person: not one of Git or of a URL, a version, or one without replies."""
    if b"@" in match and (_NO_REPLY.match(match) or _NUMERIC_DOMAIN.search(match)):
        return False
    is_remote = match.startswith(b"git@") or _AFTER_GIT.match(after) or (before.endswith(b"://") and after[:1] in b"/:")
    return not is_remote


def _is_address(text: str, before: bytes, after: bytes, public_only: bool) -> bool:
    """Whether a match is an IP address rather than a version or a section number.

    Four numbers below 100 are a version unless something says otherwise: only 2 % of all addresses look like that.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    has_label = _IP_LABEL.search(before) is not None or _AFTER_IP.match(after) is not None
    if address.version == 4:
        is_version = _VERSION_LABEL.search(before) is not None or _AFTER_VERSION.match(after) is not None
        resembles_version = all(byte < 100 for byte in address.packed)
        # Private addresses, which are masked on request only, are never versions.
        if is_version or (resembles_version and address.is_global and not has_label):
            return False
    is_example = text.startswith(("192.0.2.", "198.51.100.", "203.0.113."))  # stand for public ones in documentation
    return address.is_global or not public_only or (is_example and has_label)


def _is_phone_number(text: str, digits: str) -> bool:
    """Whether the number of digits is possible (at most 15, ITU-T E.164), and not nearly all digits are equal.

    A number with "+" or "00" begins with a country code; "+25 30 35" is a list of numbers.
    """
    if len(set(digits)) <= 2:
        return False
    if not text.startswith(("+", "00")):
        return 7 <= len(digits) <= 15
    number = digits.removeprefix("00")
    first = re.split(r"[ .()-]", text.removeprefix("+").removeprefix("00"))[0]
    has_code = re.fullmatch(_COUNTRY, first) if len(first) <= 3 else re.match(_COUNTRY, first)
    return has_code is not None and (len(number) == 11 if number[0] in "17" else 9 <= len(number) <= 15)
