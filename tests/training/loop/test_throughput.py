"""Throughput: operations and rates computed by hand, and where a run reports them."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks import progress
from tasks.reports import Timings
from tasks.training import adapters
from tasks.training.loop import throughput
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tasks.training.stages import sft
from tests.training.models import small_model
from tests.training.small_work import LinearWork


def test_operations_of_a_llama_by_hand() -> None:
    """Width 32, MLP 96, two layers: 4 * 32 * 32 + 3 * 32 * 96 weights in each, and the head, tied, 300 * 32."""
    layer, head = 4 * 32 * 32 + 3 * 32 * 96, 300 * 32
    assert throughput.flops_of(small_model()) == (6 * (2 * layer + head), 6 * 32 * 2)


def test_frozen_weights_need_no_gradient() -> None:
    model = adapters.attach(small_model(), sft.Params(adapter={"name": "lora", "rank": 1}).adapter, 0)
    rows = 2 * (4 * 64 + 3 * (32 + 96))  # for every matrix [n, m], rank 1 adds a row and a column
    frozen = 2 * (4 * 32 * 32 + 3 * 32 * 96) + 300 * 32
    assert throughput.flops_of(model)[0] == 4 * frozen + 6 * rows


def test_tokens_and_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "cpu_peak", lambda dtype, threads: 1e9)
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    model = small_model()
    counter = throughput.Throughput(model, torch.device("cpu"), torch.float32, processes=2)
    counter.add(
        [SimpleNamespace(ids=torch.zeros(4, 50)), SimpleNamespace(answers=SimpleNamespace(ids=torch.zeros(2, 50)))]
    )
    weights, length = throughput.flops_of(model)
    timings = counter.timings()
    assert timings["tokens_per_second"] == 150
    assert timings["peak_share"] == pytest.approx(150 * (weights + 50 * length) / 2 / 1e9)
    assert counter.note().startswith("0.1 k tokens/s, ")


def test_the_peak_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert throughput.cpu_peak(torch.float32, 1, tmp_path) > 1e8
    monkeypatch.setattr(throughput, "matmul_seconds", lambda *_: pytest.fail("measured again"))
    throughput.cpu_peak.cache_clear()
    assert throughput.cpu_peak(torch.float32, 1, tmp_path) > 1e8


def test_the_loop_fills_timings_and_shows_the_newest_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    timings = Timings("test", tmp_path)
    params = LoopParams(steps=6, learning_rate=0.01, precision="fp32", num_threads=1, device="cpu", log_every=5)
    rows: list[dict[str, Any]] = run(LinearWork(), params, tmp_path, "test", timings)
    lines = capsys.readouterr().err.splitlines()
    assert f"loss {rows[0]['loss']:.3f}, " in lines[3]
    assert f"loss {rows[1]['loss']:.3f}, " in lines[4]
    assert lines[5].endswith(" GB")
    assert timings.values["training_memory_bytes"] > 0
    assert {f"steps.{part}" for part in ("batches", "passes", "optimizer", "evaluation")} <= timings.values.keys()


def test_an_adapter_is_counted_against_full_fine_tuning() -> None:
    plain, model = small_model(), adapters.attach(small_model(), sft.Params(adapter="ia3").adapter, 0)
    counts = adapters.parameter_counts(model)
    assert adapters.parameter_counts(plain) == {"num_trainable_parameters": plain.num_parameters()}
    assert counts["num_parameters"] == plain.num_parameters() + counts["num_trainable_parameters"]
    assert counts["training_bytes"] == 4 * counts["num_parameters"] + 12 * counts["num_trainable_parameters"]
