"""Encoders, encoder-decoders and experts train in two processes as in one: same losses, norms and weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tasks import corruption
from tasks.errors import BadParams
from tasks.training.language.masked import Masked
from tasks.training.language.next_token import NextToken
from tasks.training.language.spans import Spans
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tests.training.language.test_objectives import packed_rows
from tests.training.models import small_model
from tests.training.parallel.test_strategies import equal_runs
from tests.training.processes import in_processes


def train(
    folder: Path, kind: str, strategy: str = "ddp", **changes: Any
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Five micro-batches of one row per step, so that one of two processes has more of them."""
    model: Any = small_model(kind)
    rows, validation_rows = (packed_rows([9, 14, 25, 6, 17] * 4, 5, 1) for _ in range(2))
    work: NextToken = NextToken(model, rows, validation_rows, 4)
    if kind == "bert":
        work = Masked(
            model, rows, validation_rows, 4, masking=corruption.Masking(), mask_id=299, vocab_size=299, seed=0
        )
    if kind == "t5":
        sentinels = np.arange(260, 290)
        work = Spans(
            model,
            rows,
            validation_rows,
            4,
            span_corruption=corruption.SpanCorruption(),
            sentinels=sentinels,
            end_id=5,
            seed=0,
        )
    params = LoopParams.model_validate(
        {"steps": 6, "learning_rate": 0.01, "warmup_steps": 2, "precision": "fp32", "num_threads": 1, "device": "cpu",
         "log_every": 1, "evaluate_every": 3, "launch": {"strategy": strategy}, **changes}
    )  # fmt: skip
    # FSDP warns about the position biases of T5, which are views; no code changes them in place.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    log = run(work, params, folder, "test")
    return log, {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["bert", "t5", "qwen3_moe"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(tmp_path: Path, strategy: str, kind: str) -> None:
    one = train(tmp_path / "one", kind)
    for two in in_processes(lambda: train(tmp_path / "two", kind, strategy)):
        assert equal_runs(one, two)


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_8bit"])
def test_optimizers_that_need_whole_weights_say_so(tmp_path: Path, optimizer: str) -> None:
    def is_refused() -> bool:
        with pytest.raises(BadParams, match=f"optimizer {optimizer} does not support launch.strategy fsdp"):
            train(tmp_path, "llama", "fsdp", optimizer=optimizer)
        return True

    assert all(in_processes(is_refused))
