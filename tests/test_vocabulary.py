"""The vocabulary of the field: no British spelling, no banned words, variables named after what they hold.

A variable is named after the thing that it holds (`scores`, `kept_rows`), not after an action (`found`, `told`).
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import ROOT, files

# Files that contain the old words on purpose, the license, and examples of what people write.
EXEMPT = {
    *(Path("tests/test_vocabulary.py"), Path("flows/runtime/renamed_keys.py"), Path("LICENSE")),
    *(Path(f"tasks/curation/classifier/spam_phrases_{language}.yaml") for language in ("en", "zh")),
}
TEXT_FILES = {".py", ".md", ".yaml", ".toml", ".txt", ""}
BRITISH = re.compile(
    r"\b\w*(?:"
    r"(?:optim|normal|quant|token|initial|organ|recogn|summar|serial|general|special|minim|maxim|random|regular|visual"
    r"|parallel|synchron|categor|factor|penal|real|util|material|local)is(?:e|es|ed|er|ers|ing|ation|ations)"
    r"|artefact|behaviour|colour|favour|neighbour|labell|modell|cancelled|centring|centred|learnt|analys(?:e|ed|ing)\b"
    r")\w*",
    re.IGNORECASE,
)
# Former names of functions and classes, whose standard names are all_reduce, zero_grad, SpanCorruption ...
BANNED_NAMES = (
    r"add_up|add_up_gradients|put_together|forget_gradients|take_weights|take_optimizers|copied_weights|fellows|Told"
    r"|Referred|Riddle|Cutting|foresee|Preferring|Reinforcing|Ranking|is_table"
)
# Archaic words, and metaphors for params, commands and the pipeline, except for the name of a benchmark.
BANNED_WORDS = (
    r"dials?|doors?|told|mend|whence|wherein|whoever|thereof|hereby|whereof|heed|riddles?|(?<!NAME=)journey(?!\.py)"
)
# Participles, pronouns and adverbs that say nothing about the thing that a variable holds.
VAGUE_NAMES = re.compile(
    r"_*(?:found|told|asked|said|gone|mine|given|taken|wanted|offered|seen|held|known|left|ours|theirs|done|made|put|got"
    r"|lost|sought|brought|bought|shown|drawn|grown|sent|spared|wished|foreseen|apart|within|whom|whose|thus|hence|meant"
    r"|thought|caught|taught|paid|gained|turned|ahead|alike|beside|here|there|everyone|others|behind|met|come|begun)_*"
)
MAX_VAGUE_SHARE = 0.01


def text_files() -> list[Path]:
    """Return the text files that git tracks, relative to the project."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in names.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT_FILES and path.parts[0] != "data" and path not in EXEMPT]


def matches(pattern: "re.Pattern[str]") -> list[str]:
    """Return "file:line: match" for each match of `pattern` in a text file."""
    lines = []
    for path in text_files():
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
            lines += [f"{path}:{number}: {match[0]}" for match in pattern.finditer(line)]
    return lines


def names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of each variable, parameter, function and class that a file defines."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_spelling_is_american() -> None:
    british = matches(BRITISH)
    assert not british, "\n".join(british)


def test_banned_words_do_not_occur() -> None:
    banned = matches(re.compile(rf"\b(?:{BANNED_NAMES}|{BANNED_WORDS})\b"))
    assert not banned, "\n".join(banned)


@pytest.mark.parametrize("folder", ["tasks", "flows", "tests", "benchmarks"])
def test_variables_are_named_after_what_they_hold(folder: str) -> None:
    defined = [(path, name, line) for path in files(folder) for name, line in names(path)]
    vague = [f"{path}:{line}: {name}" for path, name, line in defined if VAGUE_NAMES.fullmatch(name)]
    assert len(vague) < MAX_VAGUE_SHARE * len(defined), "\n".join(vague)


def test_the_patterns_match_what_they_should() -> None:
    for word in ("optimiser", "normalised", "Quantisation", "tokenises", "artefacts", "learnt", "behaviour"):
        assert BRITISH.search(word), word
    for word in ("optimizer", "noise", "promise", "exercise", "analysis", "analyses", "raised", "realistic"):
        assert not BRITISH.search(word), word
