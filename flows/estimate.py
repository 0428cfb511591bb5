"""Estimate a pretraining before it runs: weights, memory, FLOPs, time and price. python -m flows.estimate [--size gpt2]

The estimate is for the section pretrain of params.yaml, or for the params that `--size` stands for. With `--curation`
it is for the curation of so many documents and bytes on a cluster: time, memory, shuffle and price.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.runtime import arguments, command, params
from tasks.errors import BadParams
from tasks.files import MANIFEST, read_json
from tasks.training import tasks

PUBLISHED_VOCAB_SIZE = 50_257  # of GPT-2 and GPT-3 (arXiv:2005.14165)


def main(argv: list[str] | None = None) -> int:
    """Print the estimate for the command line; return the exit code."""
    return command.guarded(lambda: _print(_parse(argv)))


def _print(args: argparse.Namespace) -> None:
    if args.curation:
        _print_curation(args)
        return
    not_options = ("size", "vocab_size", "data", "json", "curation", "documents", "bytes", "nodes", "cores")
    options = {name: value for name, value in vars(args).items() if name not in not_options}
    vocab_size = args.vocab_size or _vocab_size(args.size or "", args.data)
    pretrain = _pretrain_params(args.size)
    if args.json:
        print(json.dumps(tasks.estimate_numbers(pretrain, vocab_size, options, args.data), indent=1))
        return
    for line in tasks.estimate(pretrain, vocab_size, options, args.data):
        print(line)


def _print_curation(args: argparse.Namespace) -> None:
    if args.documents is None or args.bytes is None:
        raise BadParams("--curation needs --documents and --bytes, the size of the corpus, such as 1e9 and 3.2e12")
    from flows import curation_estimate  # it imports curation, whose kernels take seconds to load

    cluster = curation_estimate.Cluster(args.nodes, args.cores, args.price_per_hour)
    lines = curation_estimate.lines(args.documents, args.bytes, cluster)
    print(json.dumps(lines, indent=1) if args.json else "\n".join(lines))


def _pretrain_params(size: str | None) -> Any:
    return params.load("pretrain") if size is None else params.section("pretrain", {"size": size}, "--size")


def _vocab_size(size: str, data: Path) -> int:
    """The published vocabulary size for a published `size`; else that of data/tokens, or of tokenization's params."""
    if size.startswith("gpt"):
        return PUBLISHED_VOCAB_SIZE
    manifest = data / "tokens" / MANIFEST
    if manifest.is_file():
        return int(read_json(manifest)["vocab_size"])
    tokenization: Any = params.load("tokenization")
    return int(tokenization.vocab_size)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.parser("flows.estimate", __doc__)
    add = parser.add_argument
    add("--size", help="estimate this size (nano, micro, small, gpt2 ... gpt3) instead of params.yaml's pretrain")
    add(
        "--vocab-size", type=_positive(int),
        help="number of tokens; the default is that of GPT for a gpt size, else that of the tokenizer in data/tokens",
    )  # fmt: skip
    add("--hardware", help="a GPU by name, which sets its memory and FLOP/s: a100, h100, h200, l4, t4 ...")
    add("--gpu-memory", type=_positive(float), help="memory of one device, in GiB")
    add("--flops", type=_positive(float), help="peak FLOP/s of one device, such as 312e12")
    add("--mfu", type=_positive(float, 1), default=0.4, help="share of the peak FLOP/s that is reached (default 0.4)")
    add("--gpus", type=_positive(int), help="number of devices; the default is that of pretrain.launch")
    add(
        "--strategy", choices=("ddp", "zero1", "zero2", "zero3", "fsdp", "tensor"),
        help="how the devices share the model; the default is that of pretrain.launch",
    )  # fmt: skip
    add(
        "--price-per-hour",
        type=_positive(float),
        help="price of one device, or of one machine, per hour, in any currency",
    )
    add("--lora-rank", type=_positive(int), default=8, help="rank of LoRA in the table (default 8)")
    add("--data", type=Path, default=Path("data"), help="folder that contains tokens/ (default data)")
    add("--curation", action="store_true", help="estimate a curation instead of a pretraining")
    add("--documents", type=_positive(float), help="with --curation: number of documents")
    add("--bytes", type=_positive(float), help="with --curation: bytes of text")
    add("--nodes", type=_positive(int), default=1, help="with --curation: number of machines (default 1)")
    add("--cores", type=_positive(int), default=64, help="with --curation: cores of one machine (default 64)")
    arguments.add_json(parser)
    return parser.parse_args(argv)


def _positive(number_type: Callable[[str], float], maximum: float = float("inf")) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = number_type(text)
        if not 0 < value <= maximum:
            limit = "" if maximum == float("inf") else f" and at most {maximum:g}"
            raise argparse.ArgumentTypeError(f"expected a number above 0{limit}, not {text}")
        return value

    parse.__name__ = number_type.__name__  # argparse prints this name when the text is no number
    return parse


if __name__ == "__main__":
    sys.exit(main())
