"""Train the n-gram language model of one language, for the filter `perplexity`, and print what it is.

The texts are those of the PATHs: tables such as data/curated (the train documents in the language), files of JSON lines
(.jsonl, field `text`), text files (.txt, a text per line), each also compressed (.gz), or folders of such files.
Percentiles of the perplexity of held-out texts become the bounds of head, middle and tail. Example:

  python -m flows.language_model --language zh --output data/classifiers/zh.safetensors wikipedia.txt.gz

Then add `perplexity` to `curation.filters`, and the file to its language (docs/classifier.md).
"""

import argparse
import json
import sys
from pathlib import Path

from flows.runtime import arguments, command

DEFAULT_PATH, DEFAULT_BITS = Path("data/curated"), 22


def main(argv: list[str] | None = None) -> int:
    """Train and write the model; return the exit code."""
    return command.guarded(lambda: _train(_parse(argv)))


def _train(args: argparse.Namespace) -> None:
    from tasks.curation import tasks

    about = tasks.train_language_model(args.paths or [DEFAULT_PATH], args.language, args.bits, args.output)
    if args.json:
        print(json.dumps({**about, "output": str(args.output)}, ensure_ascii=False, indent=1))
        return
    print(
        f"{args.output}: {about['texts']:,} texts in {about['language']}, {about['tokens']:,} words or characters, "
        f"{about['ngrams']:,} n-grams in {about['slots']:,} slots, {about['ignored_share']:.1%} ignored\n"
        f"perplexity of {about['held_out']:,} held-out texts: head up to {about['max_perplexity_of_head']:.1f}, "
        f"middle up to {about['max_perplexity_of_middle']:.1f}, tail above"
    )
    if about["ignored_share"]:
        print(f"warning: the hash table is full. --bits {args.bits + 2} has four times as many slots.", file=sys.stderr)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.parser("flows.language_model", __doc__)
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path, help=f"text; the default is {DEFAULT_PATH}")
    parser.add_argument("--language", metavar="CODE", required=True, help="language of the model, such as en or zh")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="file to write (.safetensors)")
    parser.add_argument(
        "--bits",
        metavar="N",
        type=int,
        choices=range(8, 29),
        default=DEFAULT_BITS,
        help=f"the hash table has 2**N slots of 20 bytes; from 8 to 28, the default is {DEFAULT_BITS} (84 MB)",
    )
    arguments.add_json(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
