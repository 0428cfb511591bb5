"""Estimate a pretraining before it runs - weights, memory, FLOPs, time, money: python -m flows.estimate [--size gpt2]

Reads the section pretrain of params.yaml, or what `--size` alone would make of it.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.runtime import command, params
from tasks.files import MANIFEST, read_json
from tasks.training import tasks

PUBLISHED_VOCAB_SIZE = 50_257  # of GPT-2 and GPT-3 (arXiv:2005.14165)


def main(arguments: list[str] | None = None) -> int:
    """Print the estimate that the command line asks for; the exit code."""
    return command.guarded(lambda: _print(_arguments(arguments)))


def _print(args: argparse.Namespace) -> None:
    terms = {name: value for name, value in vars(args).items() if name not in ("size", "vocab_size", "data")}
    for line in tasks.estimate(_section(args.size), args.vocab_size or _vocab_size(args.size or "", args.data), terms):
        print(line)


def _section(size: str | None) -> Any:
    return params.load("pretrain") if size is None else params.section("pretrain", {"size": size}, "--size")


def _vocab_size(size: str, data: Path) -> int:
    """Of the published table that `size` names; else of the tokenizer there is, or that tokenization is to make."""
    if size.startswith("gpt"):
        return PUBLISHED_VOCAB_SIZE
    manifest = data / "tokens" / MANIFEST
    if manifest.is_file():
        return int(read_json(manifest)["vocab_size"])
    dials: Any = params.load("tokenization")
    return int(dials.vocab_size)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.estimate", description=__doc__)
    parser.add_argument("--size", help="nano, micro, small, gpt2 ... gpt3, instead of params.yaml's pretrain")
    parser.add_argument(
        "--vocab-size", type=_positive(int), help="tokens (GPT's own, or of the tokenizer in data/tokens)"
    )
    parser.add_argument("--hardware", help="a GPU by name, for its memory and FLOP/s: a100, h100, h200, l4, t4 ...")
    parser.add_argument("--gpu-memory", type=_positive(float), help="GiB of one device")
    parser.add_argument("--flops", type=_positive(float), help="FLOP/s of one device, such as 312e12")
    parser.add_argument("--mfu", type=_positive(float, 1), default=0.4, help="share of them that is reached (0.4)")
    parser.add_argument("--gpus", type=_positive(int), help="devices (those of pretrain.launch)")
    parser.add_argument("--strategy", choices=("ddp", "zero1", "zero2", "zero3", "fsdp", "tensor"))
    parser.add_argument("--price-per-hour", type=_positive(float), help="of one device")
    parser.add_argument("--lora-rank", type=_positive(int), default=8, help="of the rows about LoRA (8)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where tokens/ is (data)")
    return parser.parse_args(arguments)


def _positive(kind: Callable[[str], float], most: float = float("inf")) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        value = kind(text)
        if not 0 < value <= most:
            above = "" if most == float("inf") else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"expected a number above 0{above}, not {text}")
        return value

    parsed.__name__ = kind.__name__
    return parsed


if __name__ == "__main__":
    sys.exit(main())
