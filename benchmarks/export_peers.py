"""Greedy answers of llama.cpp to the chats of a JSON file; benchmarks.export runs it in an environment of its own.

The chats are rendered by the template in the GGUF file, split by llama.cpp's tokenizer, and end where it stops.
"""

import json
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    """Print the answers of each model as JSON: one list per GGUF file."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps([answers(model["file"], model["chats"], request["tokens"]) for model in request["models"]]))


def answers(file: str, chats: list[list[dict[str, str]]], num_tokens: int) -> list[str]:
    """The answers of one model. All numbers are fp32, as in transformers; by default the cache has 16 bits."""
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
    params.cpuparams.n_threads, params.warmup, params.verbosity = 1, False, 0
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    texts = []
    for chat in chats:
        body = {"messages": chat, "temperature": 0, "max_tokens": num_tokens, "cache_prompt": False}
        texts.append(server.handle_chat_completions(body)["choices"][0]["message"]["content"])
    return texts


if __name__ == "__main__":
    main()
