"""Files of every name and kind: names, links, archives and formats that are no text."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingestion.files import containers
from tasks.ingestion.sources import html, jsonl, parquet, text, warc
from tasks.tables import Quarantined
from tests.ingestion.world import outcome, read

ROW = '{"text": "one"}'
NAMES = ["a b.jsonl", "UPPER.JSONL", "star*.jsonl", "x[1].jsonl", "{b}.jsonl", "数据 集.jsonl", "tail .jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, tmp_path: Path) -> None:
    assert read(jsonl, tmp_path / name, ROW.encode()) == (["one"], [])
    assert outcome(list(jsonl.read(jsonl.Params(paths=str(tmp_path))))) == (["one"], [])


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xd6\xd0.jsonl", "w") as file:
        file.write(ROW)
    (row,) = jsonl.read(jsonl.Params(paths=str(tmp_path)))
    assert not isinstance(row, Quarantined)
    assert row.id == f"{tmp_path}/\\xd6\\xd0.jsonl:1"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "data/inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/a.jsonl").write_text(ROW)
    (tmp_path / "elsewhere/b.jsonl").write_text('{"text": "two"}')
    (tmp_path / "data/inner/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/same.jsonl").symlink_to(tmp_path / "data/a.jsonl")
    (tmp_path / "data/broken.jsonl").symlink_to(tmp_path / "nowhere")
    kept, reasons = outcome(list(jsonl.read(jsonl.Params(paths=str(tmp_path / "data")))))
    assert (sorted(kept), reasons) == (["one", "two"], ["unreadable_file"])


UNREADABLE = {
    "a.pdf": (b"%PDF-1.4\n...", "This is a PDF; to read it: pip install -c constraints.txt -e '.[office]'"),
    "b.docx": (b"PK\x03\x04aaaa", "This is a Word document; to read it: pip install"),
    "c.epub": (b"PK\x03\x04", "This is an EPUB book; to read it: pip install"),
    "c.xlsx": (b"PK\x03\x04", "This is an Excel table; save it as CSV first"),
    "d": (b"PK\x03\x04", "This is a ZIP archive; its members are read"),
    "f.rtf": (b"{\\rtf1}", "This is an RTF document; convert it"),
    "g.doc": (b"\xd0\xcf\x11\xe0", "This is a document of Word, Excel or PowerPoint before 2007; convert it"),
    "h.png": (b"\x89PNG\r\n\x1a\n", "This is a PNG image; only text is read"),
    "i": (b"\0" * 257 + b"ustar\0", "This is a tar archive"),
    "j.parquet": (b"PAR1\x15", "This is a Parquet file; use `source: parquet`"),
    "k.pkl": (b"\x80\x04\x95\0", "This is a Python pickle"),
    "l.mobi": (b"a" * 60 + b"BOOKMOBI", "This is a Kindle book"),
    "m.arc": (b"filedesc://x.arc 0.0.0.0", "This is an ARC file"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("source", [jsonl, html, warc])
def test_files_that_are_no_text_are_named(name: str, source: Any, tmp_path: Path) -> None:
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    rows = list(source.read(source.Params(paths=str(tmp_path / name))))
    assert isinstance(rows[0], Quarantined)
    assert rows[0].reason == "unsupported_format"
    assert rows[0].detail.startswith(message)


MEMBERS = {"a.txt": b"one", "folder/b.txt": b"two", "image.png": b"x", "__MACOSX/a.txt": b"x", ".hidden.txt": b"x"}


def archive(ending: str, members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    if ending == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
    else:
        mode: Any = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}[ending]
        with tarfile.open(fileobj=target, mode=mode) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_archives_are_read_member_by_member(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").write_bytes(archive(ending, MEMBERS))
    in_folder = list(text.read(text.Params(paths=str(tmp_path))))
    assert outcome(in_folder) == (["one", "two"], [])
    assert [getattr(row, "id", "") for row in in_folder] == [f"{tmp_path}/a{ending}/{n}" for n in list(MEMBERS)[:2]]
    named = list(text.read(text.Params(paths=str(tmp_path / f"a{ending}"))))
    assert outcome(named) == (["one", "two"], ["other_format"])


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_rows_and_tables_in_archives(ending: str, tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"]}), table)
    (tmp_path / f"a{ending}").write_bytes(archive(ending, {"a.jsonl": ROW.encode(), "b.parquet": table.getvalue()}))
    assert outcome(list(jsonl.read(jsonl.Params(paths=str(tmp_path))))) == (["one"], [])
    assert outcome(list(parquet.read(parquet.Params(paths=str(tmp_path))))) == (["one", "two"], [])


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "x/../../a.txt", "C:\\a.txt"])
def test_paths_that_lead_out_of_an_archive(ending: str, name: str, tmp_path: Path) -> None:
    content = archive(ending, {name: b"bad", "b.txt": b"two"})
    assert read(text, tmp_path / f"a{ending}", content) == (["two"], ["unsafe_path"])


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_a_bomb_in_an_archive_is_stopped(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MIN_BOMB", 1 << 20)
    monkeypatch.setattr("tasks.ingestion.files.decompression.MIN_BOMB", 1 << 20)
    content = archive(ending, {"a.txt": b"one", "b.txt": b"\n" * (8 << 20)})
    kept, reasons = read(text, tmp_path / f"a{ending}", content, max_ratio=100)
    assert kept == ["one"]
    assert "decompression_bomb" in reasons


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_truncated_archive_is_reported(ending: str, share: float, tmp_path: Path) -> None:
    members = {f"{i}.txt": bytes([97 + i]) * 2000 for i in range(9)}
    content = archive(ending, members)
    _, reasons = read(text, tmp_path / f"a{ending}", content[: int(share * len(content))])
    assert reasons


def test_names_in_zip_archives_without_the_flag_of_utf8() -> None:
    info = zipfile.ZipInfo("数据.txt".encode("gb18030").decode("cp437"))
    assert containers._member_name(info) == "数据.txt"


def test_links_and_encrypted_members_are_reported(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert outcome(list(text.read(text.Params(paths=str(tmp_path))))) == ([], ["link_in_archive"])
