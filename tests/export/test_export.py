"""Models of every kind as GGUF and as 16-bit folders, read back; the template of Ollama; refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers

from tasks.errors import BadModel, BadParams
from tasks.export import architectures, gguf_file, modelfile, vocabulary
from tasks.export import tasks as export
from tasks.peft import without_peft_warnings

END = "<|end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> Any:
    """A byte-level BPE with 256 bytes, one merge, and six control tokens."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|document|>", "<|system|>", "<|user|>", "<|assistant|>", END]
    words = {token: index for index, token in enumerate([*special, *letters, "he"])}
    model = {"type": "BPE", "vocab": words, "merges": [["h", "e"]]}
    pattern = {"type": "Split", "pattern": {"Regex": vocabulary.PRE_TOKENIZERS["qwen2"].patterns[0]}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    parts = [{**pattern, "behavior": "Isolated", "invert": False}, byte_level]
    body: dict[str, Any] = {
        "version": "1.0",
        "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
    }
    body["added_tokens"] = [
        {"id": i, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i, token in enumerate(special)
    ]  # fmt: skip
    backend = Tokenizer.from_str(json.dumps(body | {"decoder": byte_level}))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|document|>", eos_token=END, pad_token="<|pad|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def model(kind: str) -> Any:
    """A random model of 2 layers of 32 numbers, with a vocabulary of one embedding more than tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": kind == "qwen2"}
    sizes |= {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer()) + 1, eos_token_id=5, **sizes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", sorted(architectures.ARCHITECTURES))
def test_the_file_contains_every_weight_of_each_kind_of_model(kind: str, tmp_path: Path) -> None:
    random_model, words = model(kind), vocabulary.read(tokenizer(), model(kind), 264, None)
    path = tmp_path / "m.gguf"
    count = gguf_file.write(path, random_model, words, "m", "F32")
    assert gguf_file.largest_difference(path, random_model) == 0
    stored = dict(gguf_file.metadata(path))
    architecture = architectures.ARCHITECTURES[kind]
    assert stored["general.architecture"] == architecture
    assert (stored[f"{architecture}.block_count"], stored[f"{architecture}.attention.head_count"]) == (2, 4)
    assert stored["tokenizer.ggml.pre"] == "qwen2"
    assert stored["tokenizer.ggml.tokens"][-1] == "[PAD263]"
    assert stored["tokenizer.ggml.token_type"][-2:] == [vocabulary.NORMAL, vocabulary.UNUSED]
    assert stored["tokenizer.ggml.merges"] == ["h e"]
    assert stored["tokenizer.chat_template"] == TEMPLATE
    assert (stored["tokenizer.ggml.eos_token_id"], stored["tokenizer.ggml.bos_token_id"]) == (5, 1)
    # gate and up of all experts are one tensor in transformers and two in GGUF; a tied head is left out
    assert count == len(random_model.state_dict()) + {"qwen3_moe": 2, "qwen2": -1, "gpt2": -1}.get(kind, 0)


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    random_model = model("qwen3")
    gguf_file.write(
        tmp_path / "m.gguf", random_model, vocabulary.read(tokenizer(), random_model, 264, None), "m", "F32"
    )
    with torch.no_grad():
        random_model.model.norm.weight[3] += 0.25
    assert gguf_file.largest_difference(tmp_path / "m.gguf", random_model) == 0.25


def test_rows_of_a_head_are_interleaved() -> None:
    """A head of 4 numbers: rotating (0, 2) and (1, 3) becomes rotating the neighbors of 0 2 1 3."""
    rows = torch.arange(8.0)[:, None]
    assert architectures.interleave(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("bert", {}, "only gpt2, llama"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ("qwen3", {"hidden_act": "gelu"}, "gelu"),
        ("qwen3_moe", {"norm_topk_prob": False}, "not normalized"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale of attention"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(BadModel, match=message):
        architectures.check(AutoConfig.for_model(kind, **settings))


@pytest.mark.parametrize("to", ["gguf", "gguf-q8_0", "safetensors-fp16"])
def test_an_export_states_the_largest_difference(to: Any, tmp_path: Path) -> None:
    random_model = model("qwen3")
    random_model.save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    report = export.export(str(tmp_path / "tiny"), to, tmp_path / "out")
    most = {"gguf": 0.0, "gguf-q8_0": 0.005, "safetensors-fp16": 0.0005}[to] * report["largest_weight"]
    assert report["largest_difference"] <= most
    assert (report["largest_difference"] > 0) == (to != "gguf")
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == report
    if to == "gguf":
        modelfile_text = (tmp_path / "out" / "Modelfile").read_text()
        assert 'PARAMETER stop "<|end|>"' in modelfile_text
        assert modelfile_text.startswith('FROM ./tiny.gguf\nTEMPLATE """<|document|>{{ range .Messages }}')


def test_an_adapter_is_merged_before_the_export(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = model("qwen3")
    base.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    with without_peft_warnings():
        with_adapter: Any = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with_adapter.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with_adapter.save_pretrained(tmp_path / "adapter")
    expected = with_adapter.merge_and_unload().state_dict()["model.layers.0.self_attn.q_proj.weight"]
    merged, _, has_adapter = export.load(str(tmp_path / "adapter"))
    assert has_adapter
    assert torch.allclose(merged.state_dict()["model.layers.0.self_attn.q_proj.weight"], expected)


def test_the_pre_tokenizer_is_chosen_by_probes() -> None:
    backend = tokenizer().backend_tokenizer
    description = json.loads(backend.to_str())
    assert vocabulary.choose(backend, description, None) == ("qwen2", 0)
    with pytest.raises(BadParams, match="available: gpt-2, qwen2"):
        vocabulary.choose(backend, description, "qwen9")


def render(messages: list[dict[str, str]], end: str = "<|end|>") -> str:
    return "<s>" + "".join(f"<|{one['role']}|>{one['content']}{end}" for one in messages) + "<|assistant|>"


def test_the_layout_of_a_template_becomes_a_template_of_go() -> None:
    layout = modelfile.layout(render, ["<s>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>"])
    assert layout == modelfile.Layout(
        "<s>", {role: (f"<|{role}|>", "<|end|>") for role in modelfile.ROLES}, "<|assistant|>"
    )
    text = modelfile.write("m.gguf", layout, ["<|end|>"], 64)
    assert '{{ if eq .Role "system" }}<|system|>{{ .Content }}<|end|>{{ else if eq .Role "user" }}' in text


def test_a_template_that_counts_messages_is_not_translated() -> None:
    assert modelfile.layout(lambda messages: f"{len(messages)}{render(messages)}", ["<s>"]) is None
    assert "# The chat template" in modelfile.write("m.gguf", None, ["</s>"], 64)


def test_vectors_keep_full_precision() -> None:
    assert gguf_file._precision_of(np.zeros(32, np.float32), "Q8_0") == "F32"
    assert gguf_file._precision_of(np.zeros((2, 33), np.float32), "Q8_0") == "F16"
