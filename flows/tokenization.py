"""Tokenization: curated text -> a tokenizer and memory-mapped token ids."""

from pathlib import Path

from prefect import flow

from tasks.reports import Timings
from tasks.tokenization import tasks


@flow(name="tokenization")
def tokenization(params: tasks.Params, data: Path = Path("data")) -> None:
    """Make a tokenizer from the train split, then encode documents, conversations, preferences and prompts."""
    timings = Timings("tokenization")
    tokenizer = tasks.make_tokenizer(params, data, timings)
    counts = {
        "documents": tasks.encode_documents(tokenizer, data, timings),
        "conversations": tasks.encode_conversations(tokenizer, params, data, timings),
        "preferences": tasks.encode_preferences(tokenizer, data, timings),
        "prompts": tasks.encode_prompts(tokenizer, data, timings),
    }
    tasks.report(params, tokenizer, counts, data, timings)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(tokenization)
