"""Data for the preference benchmarks: the source numbers, a tokenizer, token files and random models."""

import json
from pathlib import Path
from typing import Any

from tasks import models, tables
from tasks.conversations import CONVERSATIONS, PREFERENCES, Conversation, Preference
from tasks.ingestion.sources import numbers
from tasks.tokenization import bpe, records
from tasks.training.shape import architecture
from tasks.training.stages.reward import with_head

NUM_CONVERSATIONS, NUM_PAIRS, VOCABULARY = 4000, 2000, 4096
SHAPE = architecture.Architecture(width=192, num_layers=4, num_heads=6, max_length=256)  # 2.5 M parameters


def make(folder: Path) -> Path:
    """Write the data to `folder`, as ingestion, curation and tokenization would, with models of random weights."""
    rows: list[tuple[bool, Any]] = [
        (isinstance(record, Conversation), record.row("numbers", "train"))
        for record in numbers.read(numbers.Params(num_conversations=NUM_CONVERSATIONS, num_preferences=NUM_PAIRS))
        if isinstance(record, Conversation | Preference)
    ]
    for is_conversation, schema, name in ((True, CONVERSATIONS, "conversations"), (False, PREFERENCES, "preferences")):
        with tables.Writer(folder / name / "curated", schema) as writer:
            for kind, row in rows:
                if kind is is_conversation:
                    writer.add_row(row)
    tokenizer = bpe.train((message["content"] for kind, row in rows if kind for message in row["messages"]), 400)
    bpe.save(folder / "tokens/tokenizer", tokenizer)
    records.write_preferences(tokenizer, folder / "preferences/curated", folder / "tokens/preferences")
    records.write_prompts(tokenizer, folder, folder / "tokens/prompts")
    save_models(folder, tokenizer)
    pairs = [as_text(row, tokenizer) for kind, row in rows if not kind]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    return folder


def save_models(folder: Path, tokenizer: Any) -> None:
    """Save an sft model and a reward model with random weights and a vocabulary as large as that of the default run."""
    config = architecture.config(SHAPE, tokenizer)
    config.vocab_size = VOCABULARY
    import torch
    from transformers import AutoModelForCausalLM

    for seed, name in ((0, "sft"), (1, "reward")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        kept = with_head(model, seed) if name == "reward" else model
        models.save(folder / "models" / name, kept, tokenizer, {"stage": name})


def as_text(row: dict[str, Any], tokenizer: Any) -> dict[str, str]:
    """A pair in the format of TRL: strings, to which TRL appends the end token."""
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}
