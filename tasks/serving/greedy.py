"""Greedy answers of the code that trains and evaluates models, with which those of another engine are compared."""

from collections.abc import Sequence
from pathlib import Path

QUESTIONS = (
    "Hello!", "你好！", "What is 12 plus 7?", "三十加十二等于多少？", "Translate into Chinese: forty-two",
    "翻译成英文：三千八百", "Tell me a story about a fox.", "讲一个关于狐狸的故事。",
)  # fmt: skip


def greedy_answers(
    folder: Path, dtype: str, questions: Sequence[str] = QUESTIONS, max_new_tokens: int = 32
) -> tuple[list[list[int]], list[str]]:
    """The ids of prompts (of the chat template, if there is one) and the greedy answers to them as text."""
    import torch

    from tasks import models
    from tasks.causal import attention
    from tasks.chat_layout import Refused
    from tasks.chat_templates import ChatTemplate, end_ids
    from tasks.generation import generate

    model, tokenizer = models.load_causal(folder, getattr(torch, dtype))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    prompts = [[int(token) for token in tokenizer(question)["input_ids"]] for question in questions]
    if tokenizer.chat_template is not None:
        chats = ChatTemplate.of(tokenizer).encode_prompts([[{"role": "user", "content": one}] for one in questions])
        prompts = [list(map(int, chat.ids)) for chat in chats if not isinstance(chat, Refused)]
    with attention.packed(model):
        generated = generate(
            model, prompts, max_new_tokens=max_new_tokens, end_ids=end_ids(tokenizer, model),
            pad_id=tokenizer.pad_token_id or 0, temperature=0.0,
        )  # fmt: skip
    return prompts, [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in generated.answers]
