"""How rows of files become examples, and how unusable rows are counted."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tasks.errors import BadInput
from tasks.evaluation.benchmarks import gold
from tasks.evaluation.benchmarks.examples import Example, Loaded, load
from tasks.evaluation.benchmarks.fields import FieldProblem
from tasks.evaluation.benchmarks.params import BenchmarkSet

QUESTION = {"q": "Two and two?", "options": ["three", "four", "five"], "right": "four"}
FIELDS = {"question": "q", "choices": "options", "gold": "right"}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def read(**settings: Any) -> Loaded:
    return load(BenchmarkSet.model_validate({"type": "multiple_choice", "fields": FIELDS, **settings}))


def first(**settings: Any) -> Example:
    return read(**settings).examples[0]


def test_one_paragraph_describes_jsonl_csv_parquet_and_archives(tmp_path: Path) -> None:
    """The same question in each format gives the same example, with the same id."""
    paths = [write(tmp_path / "a.jsonl", [QUESTION])]
    (tmp_path / "b.json").write_text(json.dumps([QUESTION], indent=2), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(QUESTION).encode()))
    parquet.write_table(pa.Table.from_pylist([QUESTION]), tmp_path / "d.parquet")
    with tarfile.open(tmp_path / "e.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("test/q.jsonl")
        content = json.dumps(QUESTION).encode()
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    examples = [first(paths=[str(path)]) for path in (*paths, *sorted(tmp_path.glob("[b-e].*")))]
    table = write(tmp_path / "f.csv", ["q,x,y,z,right", "Two and two?,three,four,five,B"])
    examples.append(first(paths=table, fields={"question": "q", "choices": ["x", "y", "z"], "gold": "right"}))
    assert len(examples) == 6
    assert {example.id for example in examples} == {examples[0].id}
    assert examples[0].contexts == ("Two and two?",) * 3
    assert examples[0].continuations == (" three", " four", " five")
    assert {example.gold for example in examples} == {1}


@pytest.mark.parametrize(
    ("value", "kind", "index"),
    [
        (1, "auto", 1), ("1", "auto", 1), ("B", "auto", 1), ("(b)", "auto", 1), ("four", "auto", 1), (2.0, "auto", 2),
        (2, "index_from_1", 1), ("2", "index_from_1", 1), ("C", "letter", 2), (["A"], "auto", 0),
    ],
)  # fmt: skip
def test_gold_is_an_index_a_letter_or_a_text(value: Any, kind: str, index: int) -> None:
    assert gold.index(value, ["three", "four", "five"], kind) == index


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (3, "auto", "not the index, the letter"), ("D", "letter", "not the letter"), (True, "auto", "labels"),
        (-1, "auto", "not the index"), (["A", "B"], "auto", "not exactly one"), ("six", "text", "not the text"),
        (0, "index_from_1", "not the index from 1"),
    ],
)  # fmt: skip
def test_gold_is_never_guessed(value: Any, kind: str, problem: str) -> None:
    with pytest.raises(FieldProblem, match=problem):
        gold.index(value, ["three", "four", "five"], kind)
    with pytest.raises(FieldProblem, match="ambiguous"):
        gold.index("1", ["0", "2", "1"], "auto")
    assert gold.index("1", ["0", "2", "1"], "text") == 2


def test_nested_lists_templates_and_labels(tmp_path: Path) -> None:
    """The form of C3: [[lines of a dialogue], [questions], id]; each question is an item."""
    questions = [{"question": "Who?", "choice": ["A man", "A cat"], "answer": 0}] * 2
    (tmp_path / "c.json").write_text(json.dumps([[["Hi.", "Bye."], questions, "d-1"]]), encoding="utf-8")
    template = "{{ row[0] | join('\n') }}\n{{ item.question }}"
    fields = {"question": template, "choices": "choice", "gold": "answer", "group": "2"}
    loaded = read(paths=str(tmp_path / "c.json"), explode="1", fields=fields, labels={0: 1})
    assert [one.contexts[0] for one in loaded.examples] == ["Hi.\nBye.\nWho?"] * 2
    assert loaded.examples[0].gold == 1
    assert loaded.examples[0].group == "d-1"
    assert loaded.examples[1].id == f"{loaded.examples[0].id}-2", "an id is unique"


def test_options_in_the_prompt_and_letters_as_answers(tmp_path: Path) -> None:
    prompt = "{{ question }}\n{% for one in choices %}{{ letters[loop.index0] }}. {{ one }}\n{% endfor %}Answer:"
    example = first(paths=write(tmp_path / "a.jsonl", [QUESTION]), prompt=prompt, answer=" {{ letter }}")
    assert example.contexts[0] == "Two and two?\nA. three\nB. four\nC. five\nAnswer:"
    assert example.continuations == (" A", " B", " C")


def test_contexts_may_differ_instead_of_continuations(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": ["Ann saw Bob, so Ann", "Ann saw Bob, so Bob"], "b": "ran.", "gold": 1}])
    example = first(paths=path, fields={"contexts": "a", "continuation": "b", "gold": "gold"})
    assert example.contexts[1] == "Ann saw Bob, so Bob"
    assert example.continuations == (" ran.", " ran.")


def test_chinese_needs_no_space(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "天空的颜色是", "options": ["蓝", "red"], "right": 0}])
    assert first(paths=path).continuations == ("蓝", "red")


def test_bad_rows_are_counted_by_reason_with_file_line_and_field(tmp_path: Path) -> None:
    rows = [QUESTION] * 8 + ['{"q": ', {**QUESTION, "right": "six"}, {"q": "Why?", "right": 0}]
    path = write(tmp_path / "quiz.jsonl", rows)
    loaded = read(paths=path, max_bad_rows=0.5)
    assert (loaded.num_rows, len(loaded.examples)) == (11, 8)
    text = "\n".join(loaded.descriptions())
    assert f"1 × the line is not valid JSON (first: {path}:9)" in text
    assert (
        f"gold is not the index, the letter or the text of one of the choices (first: {path}:10, received 'six')"
        in text
    )
    assert f"choices is missing: there is no `options`; available: q, right (first: {path}:11)" in text
    with pytest.raises(BadInput, match=r"^3 of 11 items are unusable, more than max_bad_rows"):
        read(paths=path)


def test_ragged_lines_and_wrong_encodings_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["q,x,y,right", "Why?,a,b,A", "Why?,a", "Who?,a,b,B"])
    fields = {"question": "q", "choices": ["x", "y"], "gold": "right"}
    loaded = read(paths=path, fields=fields, max_bad_rows=0.5)
    assert loaded.descriptions() == [f"1 × the line has another number of cells than the header (4) (first: {path}:3)"]
    (tmp_path / "b.csv").write_bytes("q,x\n为什么,是".encode("gb18030"))
    with pytest.raises(BadInput, match=r"b.csv:2: the bytes are not UTF-8"):
        read(paths=str(tmp_path / "b.csv"))
    with pytest.raises(BadInput, match=r"nothing.jsonl does not exist"):
        read(paths=str(tmp_path / "nothing.jsonl"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_csv_is_recognized(tmp_path: Path, delimiter: str) -> None:
    cells = [[" 题目", "选项A ", "选项B", "答案"], ['"二加二, 等于?"', "三", "四", "B"]]
    path = write(tmp_path / "a.csv", [delimiter.join(line) for line in cells])
    fields = {"question": "题目", "choices": ["选项A", "选项B"], "gold": "答案"}
    assert first(paths=path, fields=fields).contexts[0] == "二加二, 等于?"
    path = write(tmp_path / "b.csv", [delimiter.join(cells[1])])
    assert first(paths=path, fields=fields, columns=["题目", "选项A", "选项B", "答案"]).choices == ("三", "四")


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["q,A,A,,,right", "Why?,yes,no,,,A"])
    with pytest.raises(BadInput, match=r"a.csv:1: several columns have the name A"):
        read(paths=path)


def test_messages_name_what_could_be_used_instead(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": [QUESTION]}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"available: data, version \(`explode: data` reads the elements of this list\)"):
        read(paths=str(tmp_path / "a.json"))
    with pytest.raises(BadInput, match=r"'frage' is undefined; available: choices, gold, options, q, question, right"):
        read(paths=write(tmp_path / "b.jsonl", [QUESTION]), prompt="{{ frage }}")
    with pytest.raises(BadInput, match=r"choices has keys; .* map\(attribute='text'\)"):
        read(paths=write(tmp_path / "c.jsonl", [{**QUESTION, "options": [{"text": "three"}, {"text": "four"}]}]))


def test_a_cell_may_contain_a_list(tmp_path: Path) -> None:
    """As JSON, or as Python writes it, which pandas does."""
    lines = ["q,options,right", 'Why?,"[""a, b"", ""c""]",1', "How?,\"['a', 'c']\",1"]
    assert [one.choices for one in read(paths=write(tmp_path / "a.csv", lines)).examples] == [("a, b", "c"), ("a", "c")]


def test_references_that_look_like_a_list_are_not_guessed(tmp_path: Path) -> None:
    generation = {"type": "generation", "paths": write(tmp_path / "a.csv", ["q,a", 'Who?,"[""A"", ""B""]"'])}
    with pytest.raises(BadInput, match="from_json"):
        first(**generation, fields={"prompt": "q", "references": "a"})
    listed = first(**generation, fields={"prompt": "q", "references": "= a | from_json"})
    assert listed.references == ("A", "B")
    assert first(**generation, fields={"prompt": "q", "references": "= [a]"}).references == ('["A", "B"]',)


def test_few_shot_examples_come_from_the_stated_split_and_never_are_the_question(tmp_path: Path) -> None:
    rows = [{**QUESTION, "q": f"Question {number}?"} for number in range(5)]
    path = write(tmp_path / "a.jsonl", rows)
    of_itself = read(paths=path, few_shot={"num": 2}).examples
    assert of_itself[0].shots == (("Question 1?", " four"), ("Question 2?", " four"))
    assert of_itself[4].shots == (("Question 0?", " four"), ("Question 1?", " four"))
    other = write(tmp_path / "b.jsonl", [{**QUESTION, "q": "Shot?"}])
    assert first(paths=path, few_shot={"num": 1, "rows": {"paths": other}}).shots == (("Shot?", " four"),)
    random = {"num": 2, "order": "random"}
    assert read(paths=path, few_shot=random).examples == read(paths=path, few_shot=random).examples
    with pytest.raises(BadInput, match="there are 1 few-shot examples"):
        read(paths=path, few_shot={"num": 2, "rows": {"paths": other}})


def test_references_of_a_generation_may_be_several_and_extracted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "1 + 1?", "a": "It is 2.\n#### 2", "more": ["2", "two"]}])
    generation = {"type": "generation", "paths": path}
    example = first(**generation, fields={"prompt": "q", "references": "a"}, extract_reference="#### (.*)")
    assert example.references == ("2",)
    assert first(**generation, fields={"prompt": "q", "references": "more"}).references == ("2", "two")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"fields": {"question": "q"}}, "needs `fields` with choices, gold or contexts, continuation, gold"),
        ({"paths": []}, "either `paths` or `hub`"),
        ({"hub": "owner/name"}, "either `paths` or `hub`"),
        ({"type": "guess"}, "multiple_choice"),
        ({"extract": "("}, "regular expression"),
        ({"fields": {"choices": "c", "gold": "g"}}, "needs question"),
        ({"fields": {**FIELDS, "groups": "g"}}, "no field 'groups', and no template uses it; did you mean 'group'"),
        ({"prompt": "{{ question "}, "the template `{{ question ` cannot be read"),
        ({"fields": {**FIELDS, "choices": "= options | lst"}}, "the expression `= options | lst` cannot be read"),
    ],
)
def test_mistakes_in_params_are_named(settings: dict[str, Any], problem: str) -> None:
    valid = {"type": "multiple_choice", "paths": "a.jsonl", "fields": FIELDS}
    with pytest.raises(ValidationError, match=problem):
        BenchmarkSet.model_validate(valid | settings)
