"""Contradictions in params.yaml are reported before any stage runs, with place, expectation and remedy."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.runtime import data_kinds, params
from tasks import pipeline_stages
from tasks.errors import BadInput, BadParams
from tests.sources import ROOT

DEFAULT: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
CHATS = {"chats": {"source": "jsonl", "kind": "conversations", "paths": "chats.jsonl"}}
QUIZ = {"type": "cloze", "paths": "quiz.jsonl", "fields": {"continuation": "text"}}
BOMB = "a: &a [1, 1]\n" + "".join(
    f"{chr(97 + i)}: &{chr(97 + i)} [*{chr(96 + i)}, *{chr(96 + i)}]\n" for i in range(1, 18)
)
TEXTS = {"texts": {"source": "text", "paths": "texts"}}


def problem(tmp_path: Path, changes: dict[str, Any], stages: tuple[str, ...] = ()) -> str:
    """Return the message for the default params with `changes` (dotted key -> value); empty if they are valid."""
    body = copy.deepcopy(DEFAULT)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = body
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        params.load_all(stages or tuple(DEFAULT), file)
    except BadParams as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.prompt_sources": ["skils"]}, "ppo.prompt_sources.0: 'skils' is not a source of ingestion; did you"),
        ({"ingestion.sources": CHATS | TEXTS, "dpo.prompt_sources": ["texts"]}, "'texts' has documents only, no prom"),
        (
            {"sft.warmup_steps": 9, "sft.steps": 9},
            "sft.warmup_steps: the warm-up of 9 steps is not shorter than the run of 9",
        ),
        ({"sft.launch": {"processes": 2}}, "for 2 processes, so that some would be idle; set micro_batch_size: 4"),
        ({"pretrain.launch": {"processes": 8, "strategy": "tensor"}}, "divides the 4 heads of pretrain.model among 8"),
        ({"pretrain.model.num_heads": 3}, "width 128 must be a multiple of 2 * num_heads (6)"),
        ({"pretrain.base": "org/model"}, "pretrain.model: has no effect with base: org/model"),
        ({"sft.base": "org/model"}, "sft.base: the model org/model needs its own tokenizer, but tokenization would"),
        ({"sft.base": "pretran"}, "sft.base: neither a stage nor a folder is called 'pretran'; did you mean 'pretr"),
        ({"sft.base": "./model"}, "sft.base: there is no folder ./model"),
        ({"sft.base": "data/models/sft"}, "sft.base: a stage cannot start from its own model"),
        ({"tokenization.tokenizer": "gpt2"}, "tokenization.vocab_size: has no effect with tokenizer: gpt2"),
        ({"pretrain.masking": {}}, "pretrain.masking: has no effect with objective: causal; remove it, or set obj"),
        ({"ingestion.sources": CHATS}, "sft: no model to start from: pretrain is left out, because no source of in"),
        ({"ingestion.sources": {"a/b": TEXTS["texts"]}}, "the name of a source consists of at most 100 letters"),
        ({"my stage": {"stage": "sft"}}, "the name of a stage consists of letters, digits, _ and -, because DVC ref"),
        ({"evaluation.metrics": {"kl": {}}}, "evaluation.gates.min_gold_gain: the gate needs the metric gold, whic"),
        ({"evaluation.reference": "stf"}, "evaluation.reference: no stage 'stf' trains a model; did you mean 'sft'?"),
        ({"evaluation.metrics.perplexity": {"model": "base"}}, "evaluation.metrics.perplexity.model: no stage 'base'"),
        (
            {"evaluation.gates.scores": {"exact_mach.sft": {"min": 0}}},
            "gates.scores.exact_mach.sft: no metric or",
        ),
        ({"evaluation.gates.scores": {"exact_match.stf": {"min": 0}}}, "did you mean 'exact_match.sft'? available: "),
        ({"evaluation.gates.scores": {"benchmarks.quiz.accuracy.*": {"min": 0}}}, "that is measured has this score"),
        (
            {"evaluation.benchmarks": {"quiz": QUIZ | {"models": ["sft", "stf"]}}},
            "benchmarks.quiz.models.1: no stage",
        ),
        ({"evaluation.metrics.lm_eval": {"models": ["stf"]}}, "evaluation.metrics.lm_eval.models.0: no stage 'stf'"),
        (
            {"ingestion.sources": CHATS | {"numbers": {}}, "sft.mixture": {"numbers": 1}},
            "sft.mixture: needs a share for chats, too; 0 leaves a source out",
        ),
        ({"pretrain.mixture": {"environment": 1, "skills": 1}}, "pretrain.mixture.skills: 'skills' has no documents"),
        ({"sft.learning_rate": float("inf")}, "sft.learning_rate: expected a finite number, not inf"),
        ({"dpo.loss": True}, "dpo.loss: expected 'sigmoid', 'ipo' or 'kto' (YAML reads on, off, yes and no as tr"),
        ({"ingestion.sources": {2024: TEXTS["texts"]}}, "the name 2024 is not text in YAML; write it in quotes"),
        ({"ppo.prompt_sources": "numbers"}, "ppo.prompt_sources: expected a list (`[a, b]`), not 'numbers'"),
        (
            {"pretrain.model": {"kind": "gpt2", "max_length": 256}, "tokenization.sequence_length": 512},
            "pretrain.model.max_length: 256 is less than tokenization.sequence_length (512)",
        ),
    ],
)
def test_contradictions(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    text = problem(tmp_path, changes)
    assert message in text
    assert all(f"{tmp_path}/params.yaml, line " in line for line in text.splitlines())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ingestion.sources": TEXTS},
        {"ingestion.sources": CHATS | TEXTS},
        {"ingestion.sources": CHATS, "sft.base": "org/model", "tokenization": {"tokenizer": "org/model"}},
        {"ingestion.sources": CHATS, "pretrain": {"base": "org/model"}, "tokenization": {"tokenizer": "org/model"}},
        {"sft": {"steps": 20}},  # the default warm-up is shorter than a short run
        {"mid": {"stage": "sft", "base": "sft"}},
        {"ingestion.sources": {"客服 2024": TEXTS["texts"]}},
        {"evaluation.gates": {}, "evaluation.metrics": {"perplexity": {}}},
        {"evaluation.gates.scores": {"exact_match.*": {"min": 0}, "bleu.sft.zh-en": {"min": 9}}},
        {
            "evaluation.benchmarks": {"quiz": QUIZ | {"models": ["sft"]}},
            "evaluation.gates.scores": {"benchmarks.quiz.bits_per_byte.sft": {"max": 2}},
        },
    ],
)
def test_params_that_a_user_may_write(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert problem(tmp_path, changes) == ""


def test_primary_metrics_must_be_measured(tmp_path: Path) -> None:
    own, stages = {"evaluation.benchmarks": {"quiz": QUIZ}}, ("promotion",)
    right = ["benchmarks.quiz.accuracy.MODEL", "gold.MODEL", "bits_per_byte"]
    assert problem(tmp_path, {**own, "promotion.primary": right}, stages) == ""
    text = problem(tmp_path, {**own, "promotion.primary": [*right, "benchmarks.quizz.accuracy.MODEL"]}, stages)
    assert "promotion.primary.3: no metric or test set that is measured has this score; did you mean 'bench" in text


def test_problems_of_all_sections_are_reported_together(tmp_path: Path) -> None:
    assert len(problem(tmp_path, {"sft.warmup_steps": 9_000, "dpo.loss": "dpo", "reward.steps": 0}).splitlines()) == 3


def test_the_kinds_of_data_of_each_source() -> None:
    sources = {"environment": {"num_conversations": 0}, "numbers": None, **CHATS, "web": {"source": "hub"}}
    assert data_kinds.sources({"ingestion": {"sources": sources}}) == {
        "environment": ("documents",),
        "numbers": ("conversations", "preferences"),
        "chats": ("conversations",),
        "web": ("documents",),
    }
    assert data_kinds.sources({"ingestion": {"sources": {"mine": {}}}}) is None


def test_files_that_do_not_exist_are_reported_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("ingestion:\n  sources:\n    a:\n      source: text\n      paths: [no/such.txt, s3://bucket/x]\n")
    with pytest.raises(BadInput, match=r"line 5: ingestion.sources.a.paths: no/such.txt does not exist"):
        params.check_files("ingestion", params.load("ingestion", file), file)


def test_test_sets_that_cannot_be_read_are_reported_with_their_lines(tmp_path: Path) -> None:
    file, rows = tmp_path / "params.yaml", tmp_path / "rows.jsonl"
    rows.write_text('{"good": "A man sings.", "bad": "A man sing."}\n', encoding="utf-8")
    sets = [
        "{type: minimal_pairs, paths: no.jsonl, fields: {good: good, bad: bad}}",
        f"{{type: minimal_pairs, paths: {rows}, fields: {{good: god, bad: bad}}}}",
        f"{{type: minimal_pairs, paths: {rows}, fields: {{good: good, bad: bad}}}}",
    ]
    lines = [f"    set{number}: {body}" for number, body in enumerate(sets)]
    champion = "  champion_report: no/evaluation.json"
    file.write_text("\n".join(["evaluation:", "  benchmarks:", *lines, champion]), encoding="utf-8")
    with pytest.raises(BadInput) as raised:
        params.check_files("evaluation", params.load("evaluation", file), file)
    assert "line 3: evaluation.benchmarks.set0: no.jsonl does not exist" in str(raised.value)
    assert "line 4: evaluation.benchmarks.set1: 1 of 1 items are unusable" in str(raised.value)
    assert "there is no `god`; available: bad, good (first: " in str(raised.value)
    assert "set2" not in str(raised.value)
    assert "line 6: evaluation.champion_report: there is no no/evaluation.json" in str(raised.value)
    file.write_text("evaluation: { champion_report: models/champion/../evaluation.json }", encoding="utf-8")
    params.check_files("evaluation", params.load("evaluation", file), file)  # no model was promoted yet


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "line 1: the alias \\*a is inside its own anchor"),
        ("a: " + "[" * 100_000, "more than 32 mappings and lists are inside one another"),
        (BOMB, "more than 100,000 values"),
        ("a: 2024-13-45", "a value cannot be read: month must be in 1..12"),
        ("# " + "x" * (1 << 20), "at most 1,048,576 are read"),
    ],
)  # fmt: skip
def test_yaml_is_bounded(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError, match=message):
        pipeline_stages.read_yaml(tmp_path / "params.yaml")
    with pytest.raises(BadParams, match="is not valid YAML: "):
        params.load("sft", tmp_path / "params.yaml")
