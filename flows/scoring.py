"""Score texts that any system wrote against references: BLEU, chrF, ROUGE, token F1 or exact match.

Each file has one text per line; line n of each hypotheses file belongs to line n of each references file. BLEU and chrF
are sacrebleu's on the raw texts, and are printed with its signature. Every number has a 95 % confidence interval.
"""

import json
import sys
from pathlib import Path

from flows.runtime import arguments, command


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.scoring", __doc__)
    parser.add_argument("--metric", default="bleu,chrf", help="names, separated by commas: bleu, chrf, exact_match ...")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, metavar="H", help="one file per system")
    parser.add_argument("--references", type=Path, nargs="+", required=True, metavar="R", help="one or several files")
    parser.add_argument("--tokenize", help="sacrebleu's tokenizer for BLEU, such as 13a, zh, char, intl; by default zh "
                        "for Chinese references and 13a for others")  # fmt: skip
    arguments.add_json(parser)
    parsed = parser.parse_args()
    metrics = [name.strip() for name in parsed.metric.split(",") if name.strip()]
    return command.guarded(lambda: show(metrics, parsed.hypotheses, parsed.references, parsed.tokenize, parsed.json))


def show(
    metrics: list[str], hypotheses: list[Path], references: list[Path], tokenizer: str | None, as_json: bool
) -> None:
    """Print the scores of each system. Raises BadInput or BadParams."""
    from tasks.evaluation import tasks

    with arguments.naming_input():
        systems = tasks.score_files(metrics, hypotheses, references, tokenizer)
    if as_json:
        print(json.dumps(systems, ensure_ascii=False, indent=1))
        return
    for name, scores in systems.items():
        print(name)
        for metric, score in scores.items():
            interval = f"[{score['low']:.4g}, {score['high']:.4g}]"
            print(f"  {metric:<12}{score['value']:>9.4f}  {interval:<20} n={score['n']}  {score.get('signature', '')}")


if __name__ == "__main__":
    sys.exit(main())
