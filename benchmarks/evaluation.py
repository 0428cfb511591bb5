"""Evaluation beside lm-evaluation-harness and sacrebleu's published numbers: speed, agreement and exactness.

    make bench NAME=evaluation      (some minutes; installs the extra lm-eval where it is missing)

CPU seconds are those of `loglikelihood` (tokenization and forward passes), without the harness's own work.
Both score the same rows with the same model in fp32: 5-shot, 4 options, with the same solved examples for all questions
(as in MMLU) and with other ones for each question. The model has random weights, so that every prediction is a close
decision. The rows and the outputs of WMT22 are read from ../shared/data; what is missing there is reported as not
measured. Finished parts are stored in .bench/evaluation, so that an interrupted benchmark continues.
"""

import gzip
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.evaluation import continuations, harness
from tasks.evaluation.benchmarks.texts import windows
from tasks.evaluation.continuations import Pair
from tasks.evaluation.outputs import score_files
from tasks.files import read_json, write_json
from tasks.tokenization import bpe

WORKSPACE, SHARED = Path(".bench/evaluation"), Path("../shared/data")
NUM_QUESTIONS, NUM_EXAMPLES, BATCH_SIZE, VOCAB_SIZE, WINDOW, NUM_CHARACTERS = 64, 5, 16, 4096, 128, 40_000
Result = dict[str, Any]


def main() -> None:
    """Print one line of JSON."""
    if importlib.util.find_spec("lm_eval") is None:
        print("installing the extra lm-eval ...", file=sys.stderr, flush=True)
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", "constraints.txt"]
        subprocess.run([*pip, "lm-eval"], check=True)
        importlib.invalidate_caches()
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine take CPU time, too
    parts: dict[str, Callable[[], Result]] = {
        "same_examples": lambda: compare_with_harness("first_n"),
        "other_examples": lambda: compare_with_harness("default"),
        "perplexity": perplexity, "bleu": bleu,
    }  # fmt: skip
    results = {}
    for name, measure in parts.items():
        path = WORKSPACE / f"{name}.json"
        if not path.is_file():
            write_json(path, measure())
        results[name] = read_json(path)
        print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    same, other = results["same_examples"], results["other_examples"]
    print(
        json.dumps(
            {
                "vs_lm_eval": same.get("speedup"), "vs_lm_eval_other_examples": other.get("speedup"),
                "agreement": _both(min, same, other, "agreement"),
                "max_score_difference": _both(max, same, other, "max_difference"),
                "batch_difference": _both(max, same, other, "batch_difference"),
                "perplexity_difference": results["perplexity"].get("difference"),
                "bleu_difference": results["bleu"].get("bleu"), "chrf_difference": results["bleu"].get("chrf"),
                "systems": results["bleu"].get("systems"),
            }
        )
    )  # fmt: skip


def _both(function: Callable[..., Any], same: Result, other: Result, key: str) -> Any:
    return function(same[key], other[key]) if key in same and key in other else None


def compare_with_harness(sampler: str) -> Result:
    """CPU seconds of both scorers on the same requests, and how far their results differ."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rows = _rows("eval_en/arc_easy.jsonl.gz")
    if not rows:
        return {"not_measured": f"{SHARED} has no eval_en/arc_easy.jsonl.gz"}
    folder = _write_task(rows, sampler)
    model, tokenizer = _model([row["query"] for row in rows])

    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def harness_results(scorer: Any) -> tuple[Any, float]:
        """The samples, and the CPU seconds of `loglikelihood`: tokenization and forward passes."""
        loglikelihood, seconds = scorer.loglikelihood, list[float]()

        def timed(*args: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return loglikelihood(*args, **named)
            finally:
                seconds.append(time.process_time() - start)

        scorer.loglikelihood = timed
        results = evaluator.simple_evaluate(
            scorer, tasks=["bench_choices"], task_manager=manager, bootstrap_iters=0, limit=NUM_QUESTIONS
        )
        return results["samples"]["bench_choices"], sum(seconds)

    scorer_class = harness._scorer_class()
    peer = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE, max_length=model.config.max_position_embeddings
    )
    harness_results(scorer_class(model, tokenizer, BATCH_SIZE))  # imports and compilations belong to neither
    expected, peer_seconds = harness_results(peer)
    own_samples, seconds = harness_results(scorer_class(model, tokenizer, BATCH_SIZE))
    one_by_one, _ = harness_results(scorer_class(model, tokenizer, 1))
    return {
        "speedup": round(peer_seconds / seconds, 2),
        "seconds": round(seconds, 2), "peer_seconds": round(peer_seconds, 2),
        "agreement": sum(_choice(a) == _choice(b) for a, b in zip(own_samples, expected, strict=True)) / len(expected),
        "max_difference": _difference(own_samples, expected), "batch_difference": _difference(own_samples, one_by_one),
        "questions": len(expected),
    }  # fmt: skip


def _values(sample: Any) -> list[float]:
    return [float(one[0]) for one in sample["filtered_resps"]]


def _choice(sample: Any) -> int:
    values = _values(sample)
    return values.index(max(values))


def _difference(own_samples: Any, expected: Any) -> float:
    return max(
        abs(a - b)
        for x, y in zip(own_samples, expected, strict=True)
        for a, b in zip(_values(x), _values(y), strict=True)
    )


def _write_task(rows: list[Any], sampler: str) -> Path:
    folder = WORKSPACE / sampler
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in {"test": rows[: 4 * NUM_QUESTIONS], "train": rows[-100:]}.items():
        text = "".join(json.dumps(row) + "\n" for row in part if len(row["choices"]) == 4)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    files = {split: str((folder / f"{split}.jsonl").resolve()) for split in ("train", "test")}
    task = {
        "task": "bench_choices", "dataset_path": "json", "dataset_kwargs": {"data_files": files},
        "test_split": "test", "fewshot_split": "train", "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
        "num_fewshot": NUM_EXAMPLES, "fewshot_config": {"sampler": sampler}, "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / "bench_choices.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def _model(texts: list[str]) -> tuple[Any, Any]:
    tokenizer = bpe.train(texts, VOCAB_SIZE)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), tokenizer


def perplexity() -> Result:
    """The relative difference between the nats of windows and those of a plain loop, on wikitext-2."""
    path = SHARED / "lm_text_en" / "wikitext2_valid.txt.gz"
    if not path.is_file():
        return {"not_measured": f"there is no {path}"}
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    model, tokenizer = _model([text])
    text = text[:NUM_CHARACTERS]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pairs = list(windows(ids, tokenizer.bos_token_id, WINDOW, WINDOW))
    nats = -sum(one.total for one in continuations.likelihoods(model, pairs, BATCH_SIZE))
    plain = sum(_plain_nats(model, pair) for pair in pairs)
    num_words = len(text.split())
    return {"difference": abs(math.exp(nats / len(ids)) / math.exp(plain / len(ids)) - 1), "words": num_words}


@torch.no_grad()
def _plain_nats(model: Any, pair: Pair) -> float:
    ids = torch.tensor([pair.prompt + pair.continuation])
    log_probs = model(ids[:, :-1]).logits[0].log_softmax(-1)[len(pair.prompt) - 1 :]
    return -float(log_probs.gather(1, ids[0, len(pair.prompt) :, None]).double().sum())


def bleu() -> Result:
    """The largest differences from the official BLEU and chrF of WMT22, over all systems in both directions."""
    folder = SHARED / "wmt22_zh_en"
    if not folder.is_dir():
        return {"not_measured": f"there is no {folder}"}
    table = [line.split("\t") for line in (folder / "automatic-scores.zh.tsv").read_text().splitlines()]
    official = {(row[0], row[1], row[4]): float(row[5]) for row in table[1:]}
    differences: dict[str, list[float]] = {"bleu": [], "chrf": []}
    for path in sorted((folder / "system-outputs").iterdir()):
        _, direction, _, system, language = path.name.split(".")
        references = sorted((folder / "references").glob(f"*.{direction}.ref.*.{language}"))
        (scores,) = score_files(["bleu", "chrf"], [path], references).values()
        for metric, score in scores.items():
            differences[metric].append(abs(score["value"] - official[direction, system, f"{metric}-all"]))
    return {metric: max(values) for metric, values in differences.items()} | {"systems": len(differences["bleu"])}


def _rows(name: str) -> list[Any]:
    path = SHARED / name
    if not path.is_file():
        return []
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]


if __name__ == "__main__":
    main()
