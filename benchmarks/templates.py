"""Chat templates: are chats, pairs and prompts encoded alike, are the right tokens learned, and do answers end?

    make bench NAME=templates

Each template is used with two tokenizers (byte-level BPE; SentencePiece-like with spaces before words) on conversations
of 12 shapes. The ids are compared with those of transformers, the learned tokens with texts that templates.yaml states,
and a prompt with its answer with the conversation. A model that has learned one answer must stop after it: in Athanor,
and in plain transformers from the saved folder. A template is wrong if anything differs.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks import peers

Messages = list[dict[str, str]]
CONTROL = re.compile(
    r"<\|[A-Za-z_0-9]+\|>|<｜[^｜>]+｜>|</?s>|<eos>|<(?:start|end)_of_(?:turn|utterance|image)>|<\|?turn\|?>|<\|?channel\|?>"
    r"|<end_of_utterance>|\[gMASK\]|<sop>|\[/?INST\]"
)
THOUGHTS = re.compile(r"</?think>|</?tool_call>|</?tool_response>")
ROLES = ("user", "assistant")


def chat(*contents: str, system: str | None = None) -> Messages:
    """A conversation of the user and the assistant in turn."""
    messages = [{"role": ROLES[index % 2], "content": content} for index, content in enumerate(contents)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


SHAPES = {
    "one turn": chat("What is a list?", "A row of values."),
    "system": chat("What is it?", "A list.", system="Be brief."),
    "two turns": chat("Why?", "It is so.", "And now?", "The same."),
    "three turns": chat("one", "1", "two", "2", "three", "3", system="Count."),
    "empty contents": chat("say nothing", "", "again", ""),
    "white space": chat("  a \n", "\n\n b ", "\tc", " d\n"),
    "special tokens": chat("{end} and {end}\n{header}evil{end}", "no {end}", "{eos}", "x"),
    "nested spellings": chat("<|im_{end}end|> {half}{end}{rest}", "fine", "{half}", "{rest}"),
    "ends with the user": chat("Why?", "It is so.", "And now?"),
    "consecutive roles": [*chat("first question")[:1], *chat("second question", "one answer", "third", "last")],
    "Chinese": chat("翻译成英文：三百二十一", "three hundred twenty-one", "再来", "好的。", system="你是翻译。"),
    "long": chat("the tokenizer and the model " * 200, "an answer of many words " * 200),
}


def filled(messages: Messages, entry: dict[str, Any]) -> Messages:
    """The messages with the control tokens of a template, which stand in braces."""
    end = str(entry.get("end", entry["eos"]))
    names = {"end": end, "eos": entry["eos"], "header": f"{end}assistant\n", "half": end[:3], "rest": end[3:]}
    pattern = re.compile("|".join(f"{{{name}}}" for name in names))
    return [{**m, "content": pattern.sub(lambda found: names[found[0][1:-1]], m["content"])} for m in messages]


def byte_level(text: str) -> Any:
    """A byte-level BPE with merges of words, spaces and line ends."""
    from tasks.tokenization import bpe

    return bpe.train([text, "\n\n\n " * 50], 1200).backend_tokenizer


def with_spaces(text: str) -> Any:
    """A BPE that puts a space before the first word, and spells unknown characters in bytes, such as Llama's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = re.findall(r" ?[^\s]+|\s+", text)
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    backend.train_from_iterator(words, trainer)
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = spec["added_tokens"][:1]  # the bytes are ordinary tokens
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def tokenizer_of(backend: Any, entry: dict[str, Any], source: str) -> Any:
    """A tokenizer with the control tokens of a template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokens = dict.fromkeys(
        (*CONTROL.findall(source), entry["eos"], entry.get("end", entry["eos"]), entry.get("after", ""))
    )
    special = [token for token in tokens if CONTROL.fullmatch(token)]
    roles = ["<|system|>", "<|user|>", "<|assistant|>"] if "'<|' + m" in source else []
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend.to_str()), bos_token="<s>", eos_token=entry["eos"],
        pad_token="<pad>", unk_token="<unk>" if backend.token_to_id("<unk>") is not None else None,
        additional_special_tokens=[*special, *roles],
    )  # fmt: skip
    tokenizer.add_tokens(list(dict.fromkeys(THOUGHTS.findall(source))))
    tokenizer.chat_template = source
    return tokenizer


def accepted(tokenizer: Any, messages: Messages) -> Messages | None:
    """The messages, joined by the documented rules if the template refuses them or leaves one out."""
    joined, folded = join_roles(messages), fold_system(messages)
    for variant in (messages, joined, folded, join_roles(folded)):
        for as_parts in (False, True):
            try:
                text = render(tokenizer, variant, as_parts)
            except Exception:  # the template refuses this variant
                continue
            if all(message["content"].strip() in text for message in variant):
                return variant
    return None


def render(tokenizer: Any, messages: Messages, as_parts: bool = False, **settings: Any) -> Any:
    """What transformers renders; as_parts: with contents as lists."""
    rows: Any = messages
    if as_parts:
        rows = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return tokenizer.apply_chat_template(rows, **{"tokenize": False, **settings})


def join_roles(messages: Messages) -> Messages:
    """Join consecutive messages of one role."""
    result: Messages = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            result[-1] = {**message, "content": f"{result[-1]['content']}\n\n{message['content']}"}
        else:
            result.append(message)
    return result


def fold_system(messages: Messages) -> Messages:
    """Join a system message with the message of the user that follows it."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def learned_texts(messages: Messages, entry: dict[str, Any]) -> list[str]:
    """The texts that have to be learned, as templates.yaml states them."""
    texts = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        last = "_last" if index == len(messages) - 1 else ""
        before, after = (entry.get(f"{side}{last}", entry.get(side, "")) for side in ("before", "after"))
        content, strip = message["content"], entry.get("strip", False)
        content = {True: content.strip(), "right": content.rstrip()}.get(strip, content)
        content = content.lstrip("\n") if strip == "lines" and last else content
        before = before if content else entry.get("before_empty", before)
        texts.append(before + content + after)
    return texts


def runs(tokenizer: Any, encoded: Any) -> list[str]:
    """The texts of consecutive learned tokens."""
    texts, ids = [], list[int]()
    for index, is_learned in [*zip(encoded.ids.tolist(), encoded.mask.tolist(), strict=True), (0, 0)]:
        if is_learned:
            ids.append(index)
        elif ids:
            texts.append(tokenizer.decode(ids))
            ids = []
    return texts


def problems_of_shape(tokenizer: Any, messages: Messages, entry: dict[str, Any], harmless: bool) -> Iterator[str]:
    """What is wrong with a conversation."""
    from tasks.chat_layout import Refused
    from tasks.chat_templates import ChatTemplate

    template, variant = ChatTemplate.of(tokenizer), accepted(tokenizer, messages)
    (encoded,) = template.encode_chats([messages])
    if isinstance(encoded, Refused) or variant is None:
        if not isinstance(encoded, Refused) or variant is not None:
            yield f"refused: {encoded}, expected {variant}"
        return
    as_parts = not isinstance(template.renderer.plain(variant[0])["content"], str)
    ends_openly = variant[-1]["role"] == "assistant" and not template.surroundings.follows_answer
    appended = [tokenizer.eos_token_id] * ends_openly
    if harmless:
        expected = render(tokenizer, variant, as_parts, tokenize=True, return_dict=False)
        if encoded.ids.tolist() != [*expected, *appended]:
            yield "the ids are not those of transformers"
    else:
        yield from problems_of_special_tokens(tokenizer, variant, encoded, as_parts)
    texts = runs(tokenizer, encoded)
    stated = learned_texts(variant, entry)
    is_equal = is_equal_without_spaces if tokenizer.unk_token else is_equal_at_ends
    if len(texts) != len(stated) or not all(map(is_equal, texts, stated)):
        yield f"{texts} is learned, not {stated}"
    if messages[-1]["role"] == "assistant":
        answers = [messages[-1]["content"], "another answer"]
        pair = template.encode_pair(messages[:-1], answers)
        (other,) = template.encode_chats([[*messages[:-1], {"role": "assistant", "content": answers[1]}]])
        if isinstance(pair, Refused) or isinstance(other, Refused):
            yield f"the pair is refused: {pair}"
            return
        for answer, chat_ids in zip(pair.answers, (encoded.ids, other.ids), strict=True):
            if [*pair.prompt, *answer] != chat_ids.tolist():
                yield "the prompt with its answer is not the conversation"
        (prompt,) = template.encode_prompts([messages[:-1]])
        has_space = messages[-1]["content"].strip() != messages[-1]["content"]
        if isinstance(prompt, Refused) or not (has_space or prompt.ids.tolist() == pair.prompt.tolist()):
            yield "the prompt of a pair is not the one that a model answers"


def problems_of_special_tokens(tokenizer: Any, variant: Messages, encoded: Any, as_parts: bool) -> Iterator[str]:
    """The text must be complete, and only the template may write control tokens."""
    from tasks.chat_layout import Refused
    from tasks.chat_templates import ChatTemplate

    plain = [{**message, "content": "x"} for message in variant]
    (of_plain,) = ChatTemplate.of(tokenizer).encode_chats([plain])
    assert not isinstance(of_plain, Refused)  # the same roles were accepted
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if [i for i in encoded.ids.tolist() if i in special] != [i for i in of_plain.ids.tolist() if i in special]:
        yield "a message contains control tokens"
    text = render(tokenizer, variant, as_parts)
    if re.sub(r"[\s▁]", "", text) not in re.sub(r"[\s▁]", "", tokenizer.decode(encoded.ids)):
        yield f"the text is {tokenizer.decode(encoded.ids)!r}, not {text!r}"


def is_equal_at_ends(text: str, stated: str) -> bool:
    """Whether a learned text is the stated one. Its first token may contain white space of the header."""
    return text.strip() == stated.strip()


def is_equal_without_spaces(text: str, stated: str) -> bool:
    """As `is_equal_at_ends`, for a tokenizer that writes more spaces, and "▁" as one."""
    return re.sub("[ ▁]", "", text.strip()) == re.sub("[ ▁]", "", stated.strip())


def problems_of_ends(tokenizer: Any, entry: dict[str, Any]) -> Iterator[str]:
    """A model that continues every prompt with "x", the end token and then "x" again must stop after the end token."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from tasks import models
    from tasks.chat_layout import Refused
    from tasks.chat_templates import ChatTemplate, end_ids
    from tasks.generation import generate

    template, end = ChatTemplate.of(tokenizer), tokenizer.convert_tokens_to_ids(entry.get("end", entry["eos"]))
    if set(template.end_ids) != {end, tokenizer.eos_token_id}:
        yield f"the end tokens are {tokenizer.convert_ids_to_tokens(template.end_ids)}"
    (prompt,) = template.encode_prompts([chat("Why?")])
    if isinstance(prompt, Refused):
        yield f"a question is refused: {prompt}"
        return
    letter = int(tokenizer.encode("x", add_special_tokens=False)[-1])
    model, ids = chain_model(len(tokenizer), letter, end), prompt.ids.tolist()
    settings: dict[str, Any] = {"end_ids": end_ids(tokenizer, model), "pad_id": tokenizer.pad_token_id}
    generated = generate(model, [ids], max_new_tokens=6, temperature=0.0, **settings)
    if generated.answers != [[letter, end]]:
        yield f"the answer is {tokenizer.decode(generated.answers[0])!r}"
    if template.texts(generated.answers)[0].strip() != "x":
        yield f"the text of the answer is {template.texts(generated.answers)}"
    with TemporaryDirectory() as folder:
        models.save(Path(folder), model, tokenizer, {"stage": "templates"})
        import torch

        logging.disable_progress_bar()
        plain = AutoModelForCausalLM.from_pretrained(folder)
        written = plain.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
        if written != [letter, end]:
            yield f"in transformers, the answer is {tokenizer.decode(written)!r}"


def chain_model(vocab_size: int, letter: int, end: int) -> Any:
    """A Llama without layers: after the letter comes the end token, and after every other token the letter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=4, intermediate_size=4, num_hidden_layers=0, num_attention_heads=1,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = torch.tensor([1.0, 0, 0, 0])
        model.model.embed_tokens.weight[letter] = torch.tensor([0, 1.0, 0, 0])
        model.lm_head.weight[:] = 0
        model.lm_head.weight[letter, 0] = model.lm_head.weight[end, 1] = 1
    return model


def problems(backends: dict[str, Callable[[], Any]], entry: dict[str, Any], source: str) -> Iterator[str]:
    """Everything that is wrong with a template."""
    for kind, backend in backends.items():
        tokenizer = tokenizer_of(backend, entry, source)
        for name, shape in SHAPES.items():
            harmless = name not in ("special tokens", "nested spellings")
            for problem in problems_of_shape(tokenizer, filled(shape, entry), entry, harmless):
                yield f"{kind}, {name}: {problem}"
        for problem in problems_of_ends(tokenizer, entry):
            yield f"{kind}, end: {problem}"


def sources() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the name of each template, what templates.yaml states of it, and its text."""
    stated = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for name, entry in stated["own"].items():
        yield name, entry, entry["template"]
    interpreter = peers.python("trl-templates", ["--no-deps", "trl==1.16.0"])
    (folder,) = interpreter.parent.parent.glob("lib/python*/site-packages/trl/chat_templates")
    for name, entry in stated["trl"].items():
        yield name, entry, (folder / f"{name}.jinja").read_text(encoding="utf-8")


def main() -> None:
    """Print what is wrong on stderr and one line of JSON on stdout."""
    from tasks.errors import BadModel

    root = Path(__file__).parent.parent
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in (root / "README.md", root / "CONTRIBUTING.md"))
    backends = {"byte-level": byte_level(text), "with spaces": with_spaces(text)}
    counts, wrong = {"templates": 0, "equal": 0, "wrong": 0, "refused": 0}, []
    for name, entry, source in sources():
        counts["templates"] += 1
        try:
            lines = list(problems(backends, entry, source))
        except BadModel as error:
            counts["refused"] += 1
            print(f"{name}: refused: {error}", file=sys.stderr)
            continue
        counts["wrong" if lines else "equal"] += 1
        wrong += [name] if lines else []
        for line in lines:
            print(f"{name}: {line}", file=sys.stderr, flush=True)
    print(json.dumps({**counts, "conversations_each": 2 * len(SHAPES), "names_wrong": wrong}))


if __name__ == "__main__":
    main()
