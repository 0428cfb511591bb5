"""Export a model for other programs: GGUF for llama.cpp and Ollama, or a model folder for transformers and vLLM.

MODEL is a stage such as dpo, champion, a version of `python -m flows.promotion status`, a model folder, a folder with a
PEFT adapter (it is merged into its base) or a hub name. The files are read back, and the largest difference between a
stored weight and the model's is stated.
Example:

  python -m flows.export champion --to gguf-fp16
  ollama create assistant -f data/exports/champion-gguf-fp16/Modelfile
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

from flows.chat import find_model
from flows.runtime import arguments, command
from tasks.errors import BadArgument

CONFIGS = ("config.json", "adapter_config.json")  # one of which every model folder contains


def main(argv: list[str] | None = None) -> int:
    """Export the model that the command line names; return the exit code."""
    from tasks.export import tasks

    parser = arguments.parser("flows.export", __doc__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a stage, champion, a version, a model folder, a folder with an adapter, or a hub name",
    )
    parser.add_argument("--to", required=True, choices=get_args(tasks.Format), help="gguf alone keeps the precision")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write; default data/exports/<model>-<format>"
    )
    parser.add_argument("--pre-tokenizer", metavar="NAME", help="how llama.cpp splits texts; chosen by default")
    arguments.add_json(parser)
    parsed = parser.parse_args(argv)
    folder = parsed.out or Path("data/exports") / f"{Path(parsed.model).name}-{parsed.to}"

    def run() -> None:
        model = str(find_model(parsed.model, Path("data")))
        if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in CONFIGS):
            raise BadArgument(f"{model} is no model folder: it contains neither of {', '.join(CONFIGS)}")
        is_new = not folder.exists()
        arguments.make_folder(folder)
        try:
            report = tasks.export(model, parsed.to, folder, parsed.pre_tokenizer)
        finally:
            if is_new and not any(folder.iterdir()):  # the model was refused
                folder.rmdir()
        print(json.dumps(report, ensure_ascii=False, indent=1) if parsed.json else "\n".join(_lines(report, folder)))

    return command.guarded(run)


def _lines(report: dict[str, Any], folder: Path) -> list[str]:
    lines = [
        f"{folder}: {', '.join(report['files'])}",
        f"{report['tensors']} tensors in {report['precision']}, read back; the largest difference to the model is "
        f"{report['largest_difference']:.3g} (the largest weight is {report['largest_weight']:.3g})",
    ]
    if report["merged_adapter"]:
        lines.append("the adapter was merged into its base")
    if "pre_tokenizer" in report:
        lines.append(
            f"tokenizer: {report['pre_tokenizer']} splits {report['probes'] - report['different_probes']} of "
            f"{report['probes']} probe texts like the model's own; an answer ends at {' '.join(report['end_tokens'])}"
        )
        if not report["has_ollama_template"]:
            lines.append("the chat template could not be translated for Ollama: complete TEMPLATE in the Modelfile")
    return lines


if __name__ == "__main__":
    sys.exit(main())
