"""PDF, Word and EPUB files: their text, and the message where the extra `office` is not installed."""

import builtins
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.sources import text
from tasks.tables import Quarantined
from tests.ingestion.world import read

STREAM = b"BT /F1 12 Tf 20 100 Td (The library opens at eight.) Tj ET"
OBJECTS = [
    b"<< /Type /Catalog /Pages 2 0 R >>",
    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
    b"<< /Length %d >>\nstream\n%s\nendstream" % (len(STREAM), STREAM),
    b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
]


def pdf() -> bytes:
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(OBJECTS, 1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer << /Size 6 /Root 1 0 R >>\n"
    return content + head + b"startxref\n%d\n%%%%EOF\n" % len(content)


def epub(**changes: str) -> bytes:
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<c xmlns="x"><r full-path="OEBPS/a.opf"/></c>',
        "OEBPS/a.opf": '<p xmlns="x"><m><item id="1" href="b%20c.xhtml"/><item id="2" href="a.xhtml"/></m>'
        '<s><itemref idref="1"/><itemref idref="2"/></s></p>',
        "OEBPS/b c.xhtml": '<?xml version="1.0" encoding="utf-8"?>'
        "<html><head><title>x</title></head><body><h1>第一章</h1>"
        "<p>One.</p></body></html>",
        "OEBPS/a.xhtml": "<html><body><p>Two.</p></body></html>",
        **changes,
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    assert read(text, tmp_path / "a.pdf", pdf()) == (["The library opens at eight."], [])
    assert read(text, tmp_path / "a.pdf", b"%PDF-1.4\n...")[1] in (["damaged_pdf"], ["no_text"])


def test_docx(tmp_path: Path) -> None:
    docx: Any = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("图书馆在城市的中心。")
    row = document.add_table(1, 2).rows[0]
    row.cells[0].text, row.cells[1].text = "Mon", "8-21"
    document.save(str(tmp_path / "a.docx"))
    content = (tmp_path / "a.docx").read_bytes()
    assert read(text, tmp_path / "a.docx", content) == (["图书馆在城市的中心。\nMon | 8-21"], [])
    assert read(text, tmp_path / "a.docx", content[:-9])[1] == ["damaged_docx"]


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    assert read(text, tmp_path / "a.epub", epub()) == (["第一章\nOne.\n\nTwo."], [])
    assert read(text, tmp_path / "a.epub", epub(), per="line") == (["第一章", "One.", "Two."], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"OEBPS/a.opf": '<!DOCTYPE x [<!ENTITY a "aa">]><p>&a;</p>'}, "damaged_epub"),
        ({"META-INF/container.xml": "<c/>"}, "damaged_epub"),
        ({"OEBPS/a.opf": '<p xmlns="x"/>'}, "no_text"),
    ],
)
def test_bad_epub(changes: dict[str, str], reason: str, tmp_path: Path) -> None:
    assert read(text, tmp_path / "a.epub", epub(**changes)) == ([], [reason])


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, *arguments: Any) -> Any:
        if name == "pypdf":
            raise ImportError(name)
        return imported(name, *arguments)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fail)
    (tmp_path / "a.pdf").write_bytes(pdf())
    (tmp_path / "b.txt").write_text("one")
    first, second = text.read(text.Params(paths=str(tmp_path)))
    assert isinstance(first, Quarantined)
    assert first.detail.startswith("This is a PDF; to read it: pip install -c constraints.txt -e '.[office]'")
    assert not isinstance(second, Quarantined)
