"""Text in every common charset, decoded as browsers do: declared, not declared, and declared wrongly."""

from pathlib import Path

import pytest

from tasks.ingestion.files import charsets, encodings
from tasks.ingestion.formats import web
from tasks.ingestion.sources import html, text
from tests.ingestion.world import read

ZH = "我们的图书馆在城市的中心，每天早上八点开门，晚上九点关门。读者可以在这里借阅小说。"
ZH_TW = "我們的圖書館在城市的中心，每天早上八點開門，晚上九點關門。讀者可以在這裡借閱小說。"
JA = "私たちの図書館は町の中心にあり、毎朝八時に開きます。読者は小説や歴史の本を借りることができます。"
KO = "우리 도서관은 도시의 중심에 있으며 매일 아침 여덟 시에 문을 엽니다. 독자들은 책을 빌릴 수 있습니다."
RU = "Наша библиотека стоит в центре города и открывается каждое утро в восемь часов. Читатели могут брать книги."
FR = "La bibliothèque est située au cœur de la ville, et chaque été elle ouvre à huit heures du matin."
TEXTS = {
    "gb2312": ZH,
    "gbk": ZH,
    "gb18030": ZH + "镕",
    "big5": ZH_TW,
    "big5hkscs": ZH_TW + "嘅咗",
    "shift_jis": JA,
    "cp932": JA + "①髙﨑",
    "euc_jp": JA,
    "iso2022_jp": JA,
    "euc_kr": KO,
    "cp949": KO + "똠방각하 펲시콜라",
    "koi8_r": RU,
    "cp1251": RU,
    "cp1252": FR,
    "utf-8": ZH + FR,
}


def page(content: str, charset: str = "") -> str:
    head = f'<meta charset="{charset}">' if charset else ""
    return f"<html><head>{head}</head><body><article><p>{content * 3}</p></article></body></html>"


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("declared", ["", "own", "iso-8859-1", "utf-8", "none"])
def test_pages(encoding: str, declared: str) -> None:
    content = TEXTS[encoding]
    charset = encoding.replace("_", "-") if declared == "own" else declared
    decoded = web.decode_page(page(content, charset).encode(encoding))
    assert decoded == page(content, charset)


@pytest.mark.parametrize("encoding", TEXTS)
def test_lines(encoding: str, tmp_path: Path) -> None:
    lines = [TEXTS[encoding]] * 3
    content = "\n".join(lines).encode(encoding)
    assert read(text, tmp_path / "a.txt", content, per="line") == (lines, [])


@pytest.mark.parametrize("name", ["x-sjis", "windows-31j", "Windows-949", "x-gbk", "ks_c_5601-1987", "Big5-HKSCS"])
def test_names_that_browsers_know(name: str) -> None:
    assert charsets.codec_name(name) in ("cp932", "cp949", "gb18030", "big5hkscs")


@pytest.mark.parametrize("name", ["none", "hex", "zip", "rot13", ""])
def test_names_that_are_no_charset(name: str) -> None:
    assert charsets.codec_name(name) == ""


def test_the_euro_sign_of_windows_in_gbk(tmp_path: Path) -> None:
    content = b"\n".join([ZH.encode("gbk"), "价格是".encode("gbk") + b"\x80" + "五元，很便宜".encode("gbk")])
    assert read(text, tmp_path / "a.txt", content, per="line") == ([ZH, "价格是€五元，很便宜"], [])


def test_circled_numbers_in_euc_jp(tmp_path: Path) -> None:
    content = JA.encode("euc_jp") + b"\n\xad\xa1" + JA.encode("euc_jp")
    assert read(text, tmp_path / "a.txt", content, per="line") == ([JA, "①" + JA], [])


SHORT = {
    "names": ("张伟\n王芳\n李娜\n刘洋\n陈静", "gb18030"),
    "comments in code": ("int a = 1; // 处理缓冲区\nreturn a; // 返回结果\n", "gb18030"),
    "one word": ("非常好", "gb18030"),
    "traditional": ("臺灣圖書館\n陳靜\n張偉", "big5"),
    "German": ("Über den Wäldern läuft ein Fluß.", "cp1252"),
    "French of classic Mac OS": ("le café est déjà fermé, voilà", "mac_roman"),
    "Korean": ("도서관\n학교에서", "euc_kr"),
}


@pytest.mark.parametrize("case", SHORT)
def test_short_texts(case: str, tmp_path: Path) -> None:
    content, encoding = SHORT[case]
    assert read(text, tmp_path / "a.txt", content.encode(encoding)) == ([content], [])


def test_one_bad_byte_costs_one_line(tmp_path: Path) -> None:
    for encoding in ("utf-8", "gb18030", "cp932", "cp949", "big5hkscs"):
        line = {"cp932": JA, "cp949": KO, "big5hkscs": ZH_TW}.get(encoding, ZH).encode(encoding)
        content = b"\n".join([line, line + b"\xff\n" + line, line])
        kept, reasons = read(text, tmp_path / "a.txt", content, per="line")
        assert (len(kept), len(reasons)) == (3, 1), encoding


def test_a_bad_byte_in_one_line_of_json_does_not_change_the_encoding() -> None:
    assert encodings.detect_encoding(ZH.encode() + b"\xff" + ZH.encode()) == "utf-8"


def test_pages_as_browsers_save_and_show_them(tmp_path: Path) -> None:
    saved = (
        b'From: <Saved by Blink>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related;boundary="B"\r\n\r\n--B\r\n'
        b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"<html><body><article><p>=E4=B8=AD=E6=96=87 is a language that many people read and write.</p>"
        b"</article></body></html>\r\n--B--"
    )
    expected = "中文 is a language that many people read and write."
    assert read(html, tmp_path / "a.html", saved) == ([expected], [])
    assert read(html, tmp_path / "a.html", expected.encode()) == ([expected], [])


def test_pronunciation_is_left_out(tmp_path: Path) -> None:
    ruby = "<ruby>図書館<rp>(</rp><rt>としょかん</rt><rp>)</rp></ruby>"
    content = page(JA).replace("<p>", f"<p>{ruby}は").encode()
    assert read(html, tmp_path / "a.html", content) == (["図書館は" + JA * 3], [])
