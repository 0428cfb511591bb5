"""Ingestion of large files of every format: time of doubled input, and peak memory, each in a process of its own.

    make bench NAME=formats
    python -m benchmarks.formats 0.01    # a hundredth of the size

The files are generated: 10^9 bytes of plain text, JSON Lines, a JSON array, CSV and Parquet, 10^7 bytes of HTML, WARC,
PDF, Word and EPUB files, and half of each. Times are CPU seconds of reading and writing the tables, without imports.
"""

import csv
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.tables import Quarantined

LARGE, SMALL = 10**9, 10**7  # bytes of a format that is read fast, and of one that a library has to interpret
WORDS = ["the", "library", "of", "a", "town", "opens", "every", "morning", "at", "eight", "and", "lends", "novels"]
CHINESE = "图书馆每天早上八点开门，读者可以借阅小说和历史书籍，也可以参加周末的讲座。"
Write = Callable[[Path, int], None]


def paragraphs() -> Iterator[str]:
    """Yield different paragraphs of about 500 bytes in English and Chinese without end."""
    for number in count():
        words = " ".join(WORDS[number * step % len(WORDS)] for step in range(1, 60))
        yield f"{number}. {words}. " + (CHINESE * 3 if number % 4 == 0 else "Open on weekends, too. " * 6)


def take(num_bytes: int) -> Iterator[str]:
    """Yield paragraphs of together about `num_bytes` bytes in UTF-8."""
    size = 0
    for paragraph in paragraphs():
        size += len(paragraph.encode()) + 1
        if size > num_bytes:
            return
        yield paragraph


def write_text(path: Path, num_bytes: int) -> None:
    """Write one paragraph per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{paragraph}\n" for paragraph in take(num_bytes))


def write_jsonl(path: Path, num_bytes: int) -> None:
    """Write one object per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": p}, ensure_ascii=False) + "\n" for p in take(num_bytes))


def write_json(path: Path, num_bytes: int) -> None:
    """Write one array on one line."""
    with path.open("w", encoding="utf-8") as file:
        for index, paragraph in enumerate(take(num_bytes)):
            file.write(("[" if index == 0 else ",") + json.dumps({"text": paragraph}, ensure_ascii=False))
        file.write("]")


def write_csv(path: Path, num_bytes: int) -> None:
    """Write rows, of which each tenth has several lines."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number, paragraph in enumerate(take(num_bytes)):
            writer.writerow([number, paragraph.replace(". ", '.\n"', 1) if number % 10 == 0 else paragraph])


def write_parquet(path: Path, num_bytes: int) -> None:
    """Write row groups of 64 MB without compression, so that the file has the size of its text."""
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="none", use_dictionary=False) as writer:
        rows: list[str] = []
        for paragraph in take(num_bytes):
            rows.append(paragraph)
            if len(rows) == 1 << 17:
                writer.write_table(pa.table({"text": rows}))
                rows = []
        writer.write_table(pa.table({"text": rows}))


def html_page(texts: list[str]) -> str:
    """Return a page of these paragraphs."""
    body = "".join(f"<p>{text}</p>" for text in texts)
    return f'<html><head><meta charset="utf-8"><title>T</title></head><body><article>{body}</article></body></html>'


def groups(num_bytes: int, size: int) -> Iterator[list[str]]:
    """Yield lists of `size` paragraphs."""
    texts: list[str] = []
    for paragraph in take(num_bytes):
        texts.append(paragraph)
        if len(texts) == size:
            yield texts
            texts = []


def write_html(path: Path, num_bytes: int) -> None:
    """Write a folder of pages of about 20 KB."""
    path.mkdir()
    for number, texts in enumerate(groups(num_bytes, 40)):
        (path / f"{number:06d}.html").write_text(html_page(texts), encoding="utf-8")


def write_warc(path: Path, num_bytes: int) -> None:
    """Write responses with pages of about 20 KB."""
    with path.open("wb") as file:
        for number, texts in enumerate(groups(num_bytes, 40)):
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html_page(texts).encode()
            head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.org/{number}\r\n"
            file.write(head.encode() + b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(body), body))


def write_pdf(path: Path, num_bytes: int) -> None:
    """Write one page of several lines for each ten paragraphs, in ASCII."""
    pages = [[text for text in texts if text.isascii()] for texts in groups(num_bytes, 10)]
    kids = " ".join(f"{2 * index + 4} 0 R" for index in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for index, texts in enumerate(pages):
        stream = "BT /F1 9 Tf 20 800 Td " + " ".join(f"({text}) Tj 0 -12 Td" for text in texts) + " ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 820] /Contents {2 * index + 5} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    with path.open("wb") as file:
        file.write(b"%PDF-1.4\n")
        offsets = []
        for number, body in enumerate(objects, 1):
            offsets.append(file.tell())
            file.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
        start = file.tell()
        file.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
        file.writelines(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
        file.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())


def write_docx(path: Path, num_bytes: int) -> None:
    """Write one Word document, whose XML is not compressed."""
    office = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    relations = "http://schemas.openxmlformats.org/package/2006"
    types = (
        f'<Types xmlns="{relations}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{office}.document.main+xml"/></Types>'
    )
    links = (
        f'<Relationships xmlns="{relations}/relationships"><Relationship Id="rId1" Target="word/document.xml" Type='
        '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
    )
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in take(num_bytes))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", links)
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>')


def write_epub(path: Path, num_bytes: int) -> None:
    """Write one book with chapters of about 50 KB."""
    chapters = list(groups(num_bytes, 100))
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", '<c xmlns="x"><r full-path="a.opf"/></c>')
        archive.writestr("a.opf", f'<p xmlns="x"><m>{items}</m><s>{spine}</s></p>')
        for number, texts in enumerate(chapters):
            archive.writestr(f"c{number}.xhtml", html_page(texts))


FORMATS: dict[str, tuple[str, Write, int, str, dict[str, Any]]] = {
    # name -> source, function that writes the file, bytes, name of the file, params of the source
    "plain text": ("text", write_text, LARGE, "a.txt", {"per": "line"}),
    "JSON Lines": ("jsonl", write_jsonl, LARGE, "a.jsonl", {}),
    "JSON array": ("jsonl", write_json, LARGE, "a.json", {}),
    "CSV": ("csv", write_csv, LARGE, "a.csv", {}),
    "Parquet": ("parquet", write_parquet, LARGE, "a.parquet", {}),
    "HTML": ("html", write_html, SMALL, "pages", {}),
    "WARC": ("warc", write_warc, SMALL, "a.warc", {}),
    "PDF": ("text", write_pdf, SMALL, "a.pdf", {}),
    "Word": ("text", write_docx, SMALL, "a.docx", {}),
    "EPUB": ("text", write_epub, SMALL, "a.epub", {}),
}


def peak_bytes() -> int:
    """Return the peak memory of this process; `ru_maxrss` includes that of the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ingest(name: str, path: Path, data: Path) -> dict[str, float]:
    """Read one file into the tables. Return seconds, peak memory in GB, and the numbers of records."""
    from tasks.ingestion.record_writer import RecordWriter

    source, _, _, _, params = FORMATS[name]
    module = importlib.import_module(f"tasks.ingestion.sources.{source}")
    start, num_kept, num_quarantined = time.process_time(), 0, 0
    with RecordWriter(data, lambda _: "train") as writer:
        for record in module.read(module.Params(paths=(str(path),), **params)):
            writer.add("bench", record)
            num_kept += not isinstance(record, Quarantined)
            num_quarantined += isinstance(record, Quarantined)
    seconds = time.process_time() - start
    peak = peak_bytes() / 1e9
    return {"seconds": seconds, "peak_gb": peak, "kept": num_kept, "quarantined": num_quarantined}


def measure(name: str, num_bytes: int) -> dict[str, float]:
    """Write the input, and read it in another process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FORMATS[name][3]
        FORMATS[name][1](path, num_bytes)
        command = [sys.executable, "-m", "benchmarks.formats", name, str(path), str(Path(folder) / "data")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    if result["quarantined"] or not result["kept"]:
        sys.exit(f"{name}: {result}. All records of the generated file should have been kept.")
    return result


def main(scale: float = 1.0) -> None:
    """Print a table, and the results as one line of JSON at the end."""
    print(f"{'format':<12} {'bytes':>14} {'seconds':>9} {'MB/s':>7} {'growth':>7} {'peak GB':>8} {'records':>10}")
    growths, peaks = {}, {}
    for name, (_, _, full_size, _, _) in FORMATS.items():
        num_bytes = int(full_size * scale)
        half, full = measure(name, num_bytes // 2), measure(name, num_bytes)
        growths[name], peaks[name] = full["seconds"] / half["seconds"], max(half["peak_gb"], full["peak_gb"])
        rate = num_bytes / 1e6 / full["seconds"]
        print(
            f"{name:<12} {num_bytes:>14,} {full['seconds']:>9.1f} {rate:>7.1f} {growths[name]:>7.2f} "
            f"{peaks[name]:>8.2f} {int(full['kept']):>10,}",
            flush=True,
        )
    body = {"formats": len(FORMATS), "max_peak_gb": max(peaks.values()), "max_growth": max(growths.values())}
    print(json.dumps({**body, "growth": growths, "peak_gb": peaks}))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(ingest(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main(float(sys.argv[1]) if len(sys.argv) == 2 else 1.0)
