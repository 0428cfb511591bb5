"""Synthetic data from a stronger model behind any endpoint that speaks the protocol of OpenAI, also our own server.

FILE is a YAML file with the settings (--help-settings prints them). --estimate prints requests, tokens and cost and
sends nothing. Every reply is stored before it is used, so that a run that was killed continues without paying twice.
The source `synthetic` of params.yaml reads the result.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flows.runtime import arguments, command
from tasks import synthesis
from tasks.errors import BadInput, BadParams
from tasks.files import write_json

RECORDS, SUMMARY = "records.jsonl", "summary.json"


def parse(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; an invalid one ends the process with exit code 2."""
    parser = arguments.parser("flows.synthesis", __doc__)
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="a YAML file with the settings")
    parser.add_argument("--estimate", action="store_true", help="print requests, tokens and cost, and send nothing")
    parser.add_argument("--help-settings", action="store_true", help="print every setting with its default and meaning")
    arguments.add_json(parser)
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse(command_line)
    return command.guarded(lambda: show(args))


def show(args: argparse.Namespace) -> None:
    """Run what the arguments ask for, and print it. Raises BadParams, BadInput."""
    if args.help_settings:
        print("\n".join(_described(synthesis.Params, "")))
        return
    if args.file is None:
        raise BadParams("name the YAML file with the settings: python -m flows.synthesis FILE")
    params = load(args.file)
    forecast = synthesis.estimate(params)
    if args.estimate:
        _print(forecast, args.json)
        return
    if not args.json:
        print(f"estimated: {_words(forecast)}", file=sys.stderr, flush=True)
    _print(run(params, forecast), args.json)


def load(file: Path) -> synthesis.Params:
    """The settings of a file. Raises BadParams."""
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
        return synthesis.Params.model_validate(body)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadParams(f"{file} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise BadParams(f"{file}: {problems}") from None


def run(params: synthesis.Params, forecast: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Make the records, write them with a summary, and return the summary. Raises BadInput."""
    store = synthesis.ReplyStore(params.output)
    budget = synthesis.Budget(params.endpoint, params.max_cost, params.max_total_tokens)
    endpoint = synthesis.Endpoint(params.endpoint, store, budget)
    try:
        records, dropped = synthesis.run(params, endpoint, _novelty(params.max_similarity))
    except synthesis.BudgetSpent:
        raise BadInput(
            f"the next request could exceed the budget (max_cost, max_total_tokens): {_used(endpoint)}. The replies "
            f"are stored in {params.output}; increase the budget to continue."
        ) from None
    finally:
        store.close()
    summary = {
        "records": len(records), "dropped": dict(dropped), "sent": endpoint.num_sent, "stored": endpoint.num_stored,
        "retries": endpoint.num_retries, "damaged_lines": store.num_damaged, "input_tokens": budget.input_tokens,
        "output_tokens": budget.output_tokens, "cost": round(budget.cost, 6), "estimate": dict(forecast or {}),
    }  # fmt: skip
    _write_lines(params.output / RECORDS, records)
    write_json(params.output / SUMMARY, {**summary, "params": params.model_dump(mode="json")})
    return summary


def _novelty(max_similarity: float) -> synthesis.Novelty:
    def is_new(earlier: Sequence[str], texts: Sequence[str]) -> list[bool]:
        from tasks.curation import tasks as curation

        return curation.novel_texts(earlier, texts, max_similarity)

    return is_new


def _used(endpoint: synthesis.Endpoint) -> str:
    budget = endpoint.budget
    return f"{budget.input_tokens + budget.output_tokens:,} tokens, cost {budget.cost:.4g}"


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    temporary.replace(path)


def _print(body: Mapping[str, Any], as_json: bool) -> None:
    print(
        json.dumps(body, ensure_ascii=False) if as_json else "\n".join(f"{key}: {value}" for key, value in body.items())
    )


def _words(forecast: Mapping[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in forecast.items())


def _described(model: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += _described(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.default)
            lines.append(f"{prefix}{name} ({default}): {field.description}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
