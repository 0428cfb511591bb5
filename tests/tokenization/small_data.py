"""Curated data with a few records: the input of tokenization."""

from pathlib import Path

import pyarrow as pa

from tasks import tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Message, Preference
from tasks.documents import SCHEMA, Document
from tests.tokenization.corpus import SENTENCES

SPLITS = ("train", "train", "validation", "test")


def write_curated(data: Path, repeats: int = 6) -> None:
    """Write `repeats` documents, conversations and preferences for each of four sentences; half of them are train."""
    with (
        tables.Writer(data / "curated", SCHEMA.append(pa.field("language", pa.string()))) as documents,
        tables.Writer(data / "conversations/curated", CONVERSATIONS) as conversations,
        tables.Writer(data / "preferences/curated", PREFERENCES) as preferences,
    ):
        for number in range(repeats * len(SENTENCES)):
            text, split, name = SENTENCES[number % 4], SPLITS[number // 4 % 4], str(number)
            prompt: list[Message] = [{"role": "user", "content": f"say {number}"}]
            metadata = {"task": "saying", "answer": text}
            documents.add_row({**Document(name, text, name).row("synthetic", split), "language": "en"})
            conversation = Conversation(name, [*prompt, {"role": "assistant", "content": text}], name, metadata)
            conversations.add_row(conversation.row("synthetic", split))
            pair = Preference(name, prompt, text, text[:9], name, "complete", metadata)
            preferences.add_row(pair.row("synthetic", split))
