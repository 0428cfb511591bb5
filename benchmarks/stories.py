"""The model stories260K of llama2.c (MIT license) as a folder of transformers: a small model that is really trained.

It has 260,000 weights and was trained on TinyStories (arXiv:2305.07759). The format is that of llama2.c, version 0:
seven numbers, then the weights in fp32. The tokenizer has 256 bytes and pieces with scores, from which merges are made.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SOURCE = Path("../shared/data/model_stories260k")
NUM_SPECIAL = 3  # <unk>, <s>, </s>; the bytes follow


def write(folder: Path) -> None:
    """Write the model and its tokenizer to `folder`."""
    load_model(SOURCE / "stories260K.bin").save_pretrained(folder)
    load_tokenizer(SOURCE / "tok512.bin").save_pretrained(folder)


def load_model(path: Path) -> LlamaForCausalLM:
    """The model in a file of llama2.c, version 0, whose embeddings are also its head."""
    content = path.read_bytes()
    width, mlp_width, num_layers, num_heads, num_kv_heads, vocab_size, context = struct.unpack("7i", content[:28])
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=mlp_width, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, max_position_embeddings=context,
        rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    numbers = torch.from_numpy(np.frombuffer(content[28:], np.float32).copy())
    head_width, place = width // num_heads, 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return numbers[place - size : place].view(shape)

    def halves(weights: torch.Tensor) -> torch.Tensor:
        """Rows of pairs that are rotated together, as transformers orders them: first all first ones."""
        pairs = weights.view(-1, head_width // 2, 2, weights.shape[1])
        return pairs.transpose(1, 2).reshape(weights.shape)

    kv_width = num_kv_heads * head_width
    shapes = {
        "input_layernorm": (width,), "self_attn.q_proj": (width, width), "self_attn.k_proj": (kv_width, width),
        "self_attn.v_proj": (kv_width, width), "self_attn.o_proj": (width, width), "post_attention_layernorm": (width,),
        "mlp.gate_proj": (mlp_width, width), "mlp.down_proj": (width, mlp_width), "mlp.up_proj": (mlp_width, width),
    }  # fmt: skip
    weights = {"model.embed_tokens.weight": take(vocab_size, width)}
    for name, shape in shapes.items():
        for layer in range(num_layers):
            weight = take(*shape)
            weights[f"model.layers.{layer}.{name}.weight"] = (
                halves(weight) if name[-6:] in ("q_proj", "k_proj") else weight
            )
    weights["model.norm.weight"] = take(width)
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return model.eval()


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a file of llama2.c."""
    content, place, pieces = path.read_bytes(), 4, list[str]()
    while place < len(content):
        _, size = struct.unpack("fi", content[place : place + 8])
        pieces.append(content[place + 8 : place + 8 + size].decode().replace(" ", "▁"))
        place += 8 + size
    pieces[:NUM_SPECIAL] = ["<unk>", "<s>", "</s>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    # The pieces are sorted by score, and the one with the highest score is merged first.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces[NUM_SPECIAL + 256 :]
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
