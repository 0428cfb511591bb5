"""Questions that are also in the training data are counted; few-shot examples and short lines are not."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tasks.promotion import contamination

SHOT = "Which country has the most inhabitants?\nIndia\n\n"
QUESTIONS = ["Which river flows through the city of Cologne?", "Which mountain is the highest one in Africa?", "Why?"]


def write(data: Path, texts: list[str], split: str = "train") -> None:
    (data / "curated").mkdir(parents=True)
    parquet.write_table(pa.table({"text": texts, "split": [split] * len(texts)}), data / "curated/00000.parquet")


def test_a_question_in_a_training_document_is_leaked(tmp_path: Path) -> None:
    write(tmp_path, ["Quiz\nWhich river flows  through the CITY of Cologne?\nThe Rhine", SHOT])
    assert contamination.leaked([SHOT + question for question in QUESTIONS], tmp_path) == (1, 2)


def test_messages_are_searched_and_test_documents_are_not(tmp_path: Path) -> None:
    write(tmp_path, QUESTIONS, split="test")
    (tmp_path / "conversations/curated").mkdir(parents=True)
    messages = [[{"role": "user", "content": QUESTIONS[1]}]]
    table = pa.table({"messages": messages, "split": ["train"]})
    parquet.write_table(table, tmp_path / "conversations/curated/00000.parquet")
    assert contamination.leaked(QUESTIONS, tmp_path) == (1, 2)
