"""The honest texts that the shipped spam classifier is trained on; docs/NOTICE.md names the sources and their licenses.

Public sets are read from a folder outside the project, documentation and code from installed packages with permissive
licenses (versions: constraints.txt). A source that is absent gives no texts.
"""

import ast
import gzip
import hashlib
import importlib.metadata
import json
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_TEXTS = 6_000  # of each set
MAX_FILES = 50  # of each package
DOCUMENT_CHARACTERS = 3_000  # the size of documents of documentation in the default run

# Installed packages whose licenses are permissive: MIT, BSD, Apache-2.0, PSF. Other packages are kept for measurements.
PACKAGES = (
    "beartype", "celery", "fastapi", "fonttools", "huggingface-hub", "mlflow", "mypy", "networkx", "numpy", "pandas",
    "pip", "prefect", "rich", "scikit-learn", "sqlalchemy", "sympy", "torch", "transformers",
)  # fmt: skip


def texts(folder: Path) -> list[str]:
    """Return honest texts of all sources. folder: the public sets."""
    sets = (
        _comments(folder), _sentences(folder), _problems(folder), _passages(folder), _pages(folder),
        _answers_zh(folder), _clauses(_answers_zh(folder)), _answers_en(folder), _clauses(_answers_en(folder)),
        _instructions(folder), documentation(PACKAGES),
    )  # fmt: skip
    generator = random.Random(0)
    return [text for some in sets for text in generator.sample(some, min(MAX_TEXTS, len(some))) if text.strip()]


def documentation(packages: Sequence[str]) -> list[str]:
    """Return README texts, docstrings (alone, and joined to documents) and code of installed packages."""
    found: list[str] = []
    for package in packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        # The README text follows an empty line after the fields; long fields continue on indented lines.
        found += _paragraphs((distribution.read_text("METADATA") or "").partition("\n\n")[2])
        # Sorted by a hash, so that the files come from all parts of a package.
        files = [str(file) for file in distribution.files or () if file.suffix == ".py"]
        files.sort(key=lambda file: hashlib.blake2b(file.encode(), digest_size=8).digest())
        for file in files[:MAX_FILES]:
            code = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8", errors="replace")
            docstrings = _docstrings(code)
            found += ["\n\n".join(docstrings)[:DOCUMENT_CHARACTERS], *docstrings[:4], code[:DOCUMENT_CHARACTERS]]
    return [text for text in found if text.strip()]


def lines(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the lines of all compressed files that match, without outer white space; blank lines are skipped."""
    for path in sorted(folder.glob(pattern)):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from (line.strip() for line in file if line.strip())


def rows(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Return the records of all compressed files of JSON lines that match."""
    return [json.loads(line) for line in lines(folder, pattern)]


def _docstrings(code: str) -> list[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in the code of others
            tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return [docstring for node in nodes if (docstring := ast.get_docstring(node))]


def _paragraphs(readme: str) -> list[str]:
    """Return a README text as a whole, in halves, and by section: links are dense in some and absent in others."""
    sections = [part for part in re.split(r"\n(?=#+ )|\n\n(?=[^\n]+\n[=~-]{3})", readme) if len(part) > 40]
    return [readme, readme[DOCUMENT_CHARACTERS:], *sections] if readme.strip() else []


def _comments(folder: Path) -> list[str]:
    return [line.split(",", 4)[-1] for line in lines(folder, "toxicity_zh/cold_*.csv.gz")]


def _sentences(folder: Path) -> list[str]:
    return [part for line in lines(folder, "tatoeba_cmn_eng/cmn.txt.gz") for part in line.split("\t")[:2]]


def _problems(folder: Path) -> list[str]:
    problems = (rows(folder, f"eval_en/**/*{name}*.gz") for name in ("gsm8k", "lambada"))
    return [row.get("context") or row.get("question") or "" for some in problems for row in some]


def _passages(folder: Path) -> list[str]:
    books = list(lines(folder, "lm_text_en/gutenberg_*.txt.gz"))
    return [" ".join(books[i : i + 1 + i % 17]) for i in range(0, len(books), 20)]


def _pages(folder: Path) -> list[str]:
    return 4 * [row["text"] for row in rows(folder, "web_text_en/c4_demo.jsonl.gz")]


def _answers_zh(folder: Path) -> list[str]:
    """Return questions and answers of OpenAssistant in Chinese."""
    answers = [row[key] for row in rows(folder, "sft_misc/oaast_sft_zh.jsonl.gz") for key in ("instruction", "output")]
    ranked = [answer for row in rows(folder, "pref_zh/oaast_rm_zh.jsonl.gz") for answer in row["output"]]
    return list(dict.fromkeys([*answers, *ranked]))


def _answers_en(folder: Path) -> list[str]:
    """Return answers of language models (PandaLM) and chats (HH-RLHF)."""
    responses = [row[key] for row in rows(folder, "pref_en_human/pandalm*.gz") for key in ("response1", "response2")]
    answers = [response for response in responses if isinstance(response, str)]  # a few are true or false
    chats = [row["chosen"] for row in rows(folder, "hh_harmless/*.gz")]
    turns = [turn for chat in chats for turn in re.split(r"\n\n(?:Human|Assistant): ", chat)]
    return [*dict.fromkeys([*answers, *turns])]


def _clauses(answers: Sequence[str]) -> list[str]:
    """Return the sentences and lines of answers, which are as short as messages and headlines."""
    boundary = re.compile(r"(?<=[。！？；])|(?<=[.!?])\s|\n")
    return list(dict.fromkeys(part for answer in answers for part in boundary.split(answer)))


def _instructions(folder: Path) -> list[str]:
    """Return descriptions of activities (HellaSwag) and code (HumanEval)."""
    activities = [row["query"] + " " + row["choices"][row["gold"]] for row in rows(folder, "eval_en/**/hellaswag*.gz")]
    code = [row["prompt"] + row["canonical_solution"] for row in rows(folder, "eval_en/**/HumanEval*.gz")]
    return [*activities, *code]
