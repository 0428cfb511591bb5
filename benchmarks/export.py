"""Greedy answers of llama.cpp from an exported GGUF file, compared with those of transformers from the model folder.

    make bench NAME=export

50 chats in Chinese and English, with and without a system message and earlier turns, go through llama.cpp's own chat
template, tokenizer and end tokens. The model is data/models/dpo, ppo or sft, or the folder in ATHANOR_MODEL; without
one, a tiny model is trained first. `kinds` also compares tiny models of every kind that the export knows.
llama.cpp is that of the package xllamacpp, in an environment of its own.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import peers

REQUIREMENTS = ["xllamacpp==2026.10.11549"]
NUM_TOKENS, TRAINING_STEPS, VOCAB_SIZE, MIN_EQUAL = 64, 120, 400, 49
CUT_CHARACTER = "\ufffd"  # llama.cpp leaves out a character whose last bytes would be beyond NUM_TOKENS
KINDS = ("llama", "qwen2", "qwen3", "qwen3_moe", "gpt2")
NUMBERS = {"一百二十": "one hundred and twenty", "三千八百": "three thousand eight hundred", "九十九": "ninety-nine",
           "一万九千零七": "nineteen thousand seven", "四十二": "forty-two", "七百": "seven hundred"}  # fmt: skip
TEXTS = (
    "Hello! Who are you?", "你好，你是谁？", "I can't, don't, won't: it's what they've said.", "'today' is a word.",
    "今天天气怎么样？", "Write a list:\n- one\n- two\n", "三百六十五天 = 1 year?", "x = y ** 2  # comment",
    "“好的”，他说。", "café naïve Zürich", "价格：￥99.9（含税）", "1234567 and 3.14159", "😀👍🏽",
    "Tell me a story about a fox.", "讲一个关于狐狸的故事。", "  spaces  inside  ", "第一章\n\n正文。", "Пример",
    "twenty-one thousand", "十",
)  # fmt: skip
Chat = list[dict[str, str]]


def chats() -> list[Chat]:
    """50 chats; every fifth has a system message, every seventh an earlier turn."""
    questions = [f"翻译成英文：{number}" for number in NUMBERS] + [
        f"Translate into Chinese: {word}" for word in NUMBERS.values()
    ]
    questions += [
        *TEXTS,
        *(f"What is {n} plus {n + 3}?" for n in range(3, 12)),
        *(f"{n} 加 {n} 等于几？" for n in range(9)),
    ]
    result = list[Chat]()
    for index, question in enumerate(questions[:50]):
        before = [{"role": "system", "content": "You are brief. 请简短。"}] if index % 5 == 4 else []
        if index % 7 == 6:
            before += [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello."}]
        result.append([*before, {"role": "user", "content": question}])
    assert len(result) == 50
    return result


def transformers_answers(folder: Path, all_chats: list[Chat]) -> list[str]:
    """Greedy answers of plain transformers, up to the first end token of the generation config."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for chat in all_chats:
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**prompt, max_new_tokens=NUM_TOKENS, do_sample=False)
        ids = output[0, prompt["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def lessons(all_chats: list[Chat]) -> list[tuple[str, str]]:
    """Pairs of a question and an answer, which only have to be learned, so that no two tokens are nearly equal."""
    answers = [*NUMBERS.values(), *TEXTS, *NUMBERS]
    return [(chat[-1]["content"], answers[i % len(answers)].strip()) for i, chat in enumerate(all_chats)]


def tiny_model(kind: str, tokenizer: Any, folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """Write a small model of this kind, trained for TRAINING_STEPS steps on questions with answers."""
    import torch

    from tasks import models
    from tasks.training.shape.architecture import Architecture, build, config

    settings: dict[str, Any] = {"width": 64, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1}
    if kind == "qwen2":
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = config(Architecture(kind="llama", **settings), tokenizer).to_dict()
        sizes = {key: value for key, value in sizes.items() if key not in ("model_type", "architectures", "head_dim")}
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **sizes), dtype=torch.float32)
    else:
        model = build(Architecture.model_validate({"kind": kind, **settings}), tokenizer, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [tokenizer.apply_chat_template(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], return_dict=False
    ) for question, answer in pairs]  # fmt: skip
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss.backward()
        optimizer.step()
    models.save(folder, model.eval(), tokenizer, {"stage": "sft", "kind": "sft", "params": {}, "base": None})
    return folder


def trained_model(root: Path, tokenizer: Any) -> tuple[Path, str]:
    """The model of the project, and how to call it."""
    named = os.environ.get("ATHANOR_MODEL")
    folders = [Path(named)] if named else [Path("data/models") / stage for stage in ("dpo", "ppo", "sft")]
    for folder in folders:
        if (folder / "manifest.json").is_file():
            return folder, str(folder)
    print("there is no model in data/models: a tiny one is trained", file=sys.stderr)
    return tiny_model("qwen3", tokenizer, root / "trained", lessons(chats())), f"tiny, {TRAINING_STEPS} steps"


def main() -> None:
    """Export, answer with both programs, and print one line of JSON."""
    from tasks.export import tasks as export
    from tasks.tokenization import bpe

    with tempfile.TemporaryDirectory() as temporary:
        root, short = Path(temporary), chats()[::5]
        tokenizer = bpe.train([*NUMBERS, *NUMBERS.values(), *TEXTS], VOCAB_SIZE, min_frequency=1)
        trained, name = trained_model(root, tokenizer)
        folders = {name: trained} | {kind: tiny_model(kind, tokenizer, root / kind, lessons(short)) for kind in KINDS}
        request, reports, expected = [], {}, []
        for label, folder in folders.items():
            reports[label] = export.export(str(folder), "gguf", root / f"gguf-{folder.name}")
            own_chats = chats() if label == name else short
            file = root / f"gguf-{folder.name}" / f"{folder.name}.gguf"
            request.append({"file": str(file), "chats": own_chats})
            expected.append(transformers_answers(folder, own_chats))
        (root / "request.json").write_text(json.dumps({"models": request, "tokens": NUM_TOKENS}))
        python = peers.python("llama.cpp", REQUIREMENTS)
        actual = peers.run(python, Path(__file__).with_name("export_peers.py"), root / "request.json")
    print(json.dumps(results(name, list(folders), expected, actual, reports, request), ensure_ascii=False))


def results(
    name: str, labels: list[str], expected: list[list[str]], actual: list[list[str]], reports: Any, request: Any
) -> dict[str, Any]:
    """The counts; every pair of different answers goes to stderr."""
    equal = dict[str, int]()
    for label, one, other, part in zip(labels, expected, actual, request, strict=True):
        equal[label] = 0
        for chat, a, b in zip(part["chats"], one, other, strict=True):
            if a.rstrip(CUT_CHARACTER) == b.rstrip(CUT_CHARACTER):
                equal[label] += 1
            else:
                print(f"{label}: {chat[-1]['content']!r}: transformers {a!r}, llama.cpp {b!r}", file=sys.stderr)
    counts = {label: len(texts) for label, texts in zip(labels, expected, strict=True)}
    return {
        "model": name,
        "prompts": counts[name],
        "equal": equal[name],
        "different_answers": len(set(expected[0])),
        "kinds": {label: f"{equal[label]} of {counts[label]}" for label in labels[1:]},
        "pre_tokenizer": reports[name]["pre_tokenizer"],
        "largest_difference": max(report["largest_difference"] for report in reports.values()),
        "passed": equal[name] >= MIN_EQUAL and all(equal[label] == counts[label] for label in labels[1:]),
    }


if __name__ == "__main__":
    main()
