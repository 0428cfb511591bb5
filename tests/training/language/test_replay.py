"""Replay: which rows are replayed, what the base writes, and that a resumed run reads the same text."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.answers import answer_logits
from tasks.causal import attention
from tasks.causal.backbone import last_hidden
from tasks.causal.losses import IGNORED
from tasks.causal.row_loss import row_loss
from tasks.errors import BadInput, BadModel, BadParams
from tasks.reports import Report
from tasks.tokens import Stream, make_records, read_stream, write_records, write_stream
from tasks.training.language import base_text, replay
from tasks.training.language.replay import ReplayedRows
from tasks.training.language.rows import PackedRows
from tasks.training.stages import pretrain, sft
from tests.training import tiny

SIZES = 4, 5, 2, 0, 0  # tokens per row, rows per step, rows per micro-batch, seed, pad


def stream(first: int, count: int) -> Stream:
    """One document with the ids `first`, `first` + 1, ..."""
    ids = np.arange(first, first + count).astype(np.uint16)
    return Stream(ids, np.arange(count).astype(np.uint32), np.ones(count, np.uint8))


def rows_with_replay(share: float) -> ReplayedRows:
    """Ten rows of data with ids from 100 on, and four rows of replayed text with ids from 10 on."""
    data, text = PackedRows(stream(100, 41), *SIZES), PackedRows(stream(10, 17), *SIZES)
    return ReplayedRows(data, text, None, share)


def test_a_share_of_the_rows_is_replayed_evenly() -> None:
    """Of the 5 rows of a step, 2 are replayed at a share of 0.4; of 20 rows, 8. Both kinds are read in their order."""
    rows = rows_with_replay(0.4)
    steps = [[row for batch in rows.batches(step) for row in batch.rows] for step in range(4)]
    assert [sum(row < 0 for row in step) for step in steps] == [2, 2, 2, 2]
    replayed = Counter(row for step in steps for row in step if row < 0)
    assert replayed == {-1: 2, -2: 2, -3: 2, -4: 2}, "two epochs of the replayed text"
    data = [row for step in steps for row in step if row >= 0]
    assert data == [rows.data._chosen(place) for place in range(12)]
    assert rows.num_replayed(20) == 8


def test_a_small_share_replays_a_row_in_some_steps() -> None:
    rows = rows_with_replay(0.1)
    counts = [sum(row < 0 for batch in rows.batches(step) for row in batch.rows) for step in range(6)]
    assert counts == [0, 1, 0, 1, 0, 1]


def test_the_targets_of_a_replayed_row_are_its_next_tokens() -> None:
    rows = rows_with_replay(0.4)
    for batch in rows.batches(0):
        for number, ids, targets in zip(batch.rows, batch.ids, batch.targets, strict=True):
            first = 10 + 4 * (-1 - number) if number < 0 else 100 + 4 * number
            assert ids.tolist() == list(range(first, first + 4))
            assert targets.tolist() == list(range(first + 1, first + 5))
        assert batch.weight == int((batch.targets != IGNORED).sum())


def test_the_base_writes_documents_of_its_own_tokens() -> None:
    """They begin with the first token of documents, and contain no other special token than the end token."""
    model, tokenizer = tiny.model(std=0.5), tiny.tokenizer()
    drawn = base_text.sample_documents(model, tokenizer, 500, 16, 0, "sft")
    assert len(drawn.ids) >= 500
    starts = np.flatnonzero(drawn.positions == 0)
    assert (drawn.ids[starts] == tokenizer.bos_token_id).all()
    lengths = np.diff([*starts, len(drawn.ids)])
    assert lengths.max() <= 16
    others = np.delete(drawn.ids, starts)
    assert not set(others.tolist()) & {tokenizer.bos_token_id, tokenizer.pad_token_id}
    ends = np.flatnonzero(drawn.ids == tokenizer.eos_token_id) + 1
    assert set(ends.tolist()) <= {*starts.tolist(), len(drawn.ids)}
    again = base_text.sample_documents(model, tokenizer, 500, 16, 0, "sft")
    assert (again.ids == drawn.ids).all()


def test_samples_have_the_distribution_of_the_base() -> None:
    """The first tokens are drawn with the probabilities of the base: a chi-square of 16 tokens below 40 (p = 0.001)."""
    model, tokenizer = tiny.model(std=0.5), tiny.tokenizer()
    drawn = base_text.sample_documents(model, tokenizer, 20_000, 16, 0, "sft")
    starts = np.flatnonzero(drawn.positions == 0)
    firsts = drawn.ids[starts[:-1] + 1]
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1]
    letters = range(6, len(tiny.WORDS))
    p = logits.softmax(-1)[list(letters)].numpy()
    observed = np.array([(firsts == letter).sum() for letter in letters])
    expected = p / p.sum() * observed.sum()
    assert float(((observed - expected) ** 2 / expected).sum()) < 40


def test_a_base_that_writes_nothing_is_refused() -> None:
    model, tokenizer = tiny.model(), tiny.tokenizer()
    with torch.no_grad():  # every hidden state gives the end token the largest logit
        model.model.norm.weight.fill_(0)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.lm_head.bias = torch.nn.Parameter(torch.full((len(tiny.WORDS),), -50.0))
    model.lm_head.bias.data[tokenizer.eos_token_id] = 50.0
    with pytest.raises(BadModel, match=r"writes nothing after its first token. Set sft.replay.text: documents"):
        base_text.sample_documents(model, tokenizer, 100, 16, 0, "sft")


def params(**section: Any) -> Any:
    settings = {"steps": 4, "global_batch_size": 5, "micro_batch_size": 2, "replay": section or None}
    return sft.Params.model_validate(settings)


def with_replay(section: Any, tokens: Path, checkpoints: Path) -> PackedRows:
    base = base_text.Base(tiny.model(std=0.5), tiny.tokenizer(), torch.device("cpu"))
    return replay.with_replay(PackedRows(stream(6, 16), 8, 5, 2, 0, 0), section, base, tokens, checkpoints, "sft")


def test_a_resumed_run_reads_the_same_samples(tmp_path: Path) -> None:
    first = with_replay(params(share=0.5), tmp_path, tmp_path / "checkpoints")
    assert isinstance(first, ReplayedRows)
    file = tmp_path / "checkpoints/replay.npz"
    before = file.read_bytes()
    again = with_replay(params(share=0.5), tmp_path, tmp_path / "checkpoints")
    assert isinstance(again, ReplayedRows)
    assert (again.replayed.stream.ids == first.replayed.stream.ids).all()
    file.write_bytes(before[:200])  # truncated: it is drawn again, with the same result
    with_replay(params(share=0.5), tmp_path, tmp_path / "checkpoints")
    assert file.read_bytes() == before


def test_the_file_of_another_base_or_seed_is_not_read(tmp_path: Path) -> None:
    """A run that was killed leaves its file; the next one may start from another model."""

    def ids_of(std: float, seed: int) -> list[int]:
        base = base_text.Base(tiny.model(std=std), tiny.tokenizer(), torch.device("cpu"))
        text = base_text.stored_text(base, (4, 2), 8, seed, tmp_path / "replay.npz", "sft")
        return [int(one) for one in text.train.ids]

    first = ids_of(0.5, 0)
    assert ids_of(0.5, 1) != first
    assert ids_of(1.0, 0) != first
    assert ids_of(0.5, 0) == first


def test_held_out_text_is_not_trained_on(tmp_path: Path) -> None:
    rows = with_replay(params(share=0.5), tmp_path, tmp_path / "checkpoints")
    assert isinstance(rows, ReplayedRows)
    assert rows.held_out is not None
    stored = np.load(tmp_path / "checkpoints/replay.npz")["ids"]
    trained, held_out = rows.replayed.stream.ids, rows.held_out.stream.ids
    # The last token that is trained on is a target only, and the first one of the held-out text an input only.
    assert (np.concatenate([trained, held_out[1:]]) == stored).all()
    assert len(held_out) == replay.NUM_HELD_OUT * 8 + 1


def test_the_loss_of_text_of_the_base_is_the_divergence_from_it(tmp_path: Path) -> None:
    """It is 0 before the first step. Afterwards it is the exact sum, because all 23 tokens of the model are kept."""
    rows = with_replay(params(share=0.5), tmp_path, tmp_path / "checkpoints")
    assert isinstance(rows, ReplayedRows)
    assert rows.text is not None
    batch, model = rows._batch([-1, -2]), tiny.model(std=0.5)
    ids, positions, targets = batch.ids, batch.positions, batch.targets
    teacher = rows.text.teacher([-1, -2], torch.device("cpu"))
    assert rows.text.teacher([0, 1], torch.device("cpu")) is None
    with attention.packed(model):
        assert row_loss(model, ids, positions, targets, teacher)[0].item() == pytest.approx(0, abs=1e-5)
        first = answer_logits(model, last_hidden(model, ids, positions)).log_softmax(-1)
        model.lm_head.weight.data *= 1.1
        second = answer_logits(model, last_hidden(model, ids, positions)).log_softmax(-1)
        expected = (first.exp() * (first - second)).sum(-1)[targets != IGNORED].mean()
        loss = row_loss(model, ids, positions, targets, teacher)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert loss.requires_grad


def documents(folder: Path) -> None:
    """Documents of two sources: ids from 6 on (book), and from 12 on (web)."""
    for split in ("train", "validation"):
        ids = np.array([1, 6, 7, 8, 1, 12, 13, 14, 1, 6, 8, 7], np.uint16)
        positions = np.tile(np.arange(4), 3).astype(np.uint32)
        write_stream(folder / split, Stream(ids, positions, np.ones(12, np.uint8)))
        labels = {"source": ["book", "web", "book"], "language": ["en", "en", "en"]}
        write_records(folder / split, make_records(np.array([0, 4, 8]), np.array([4, 4, 4]), labels))


def test_documents_of_some_sources_are_replayed(tmp_path: Path) -> None:
    documents(tmp_path / "documents")
    rows = with_replay(params(text="documents", sources=["web"]), tmp_path, tmp_path / "checkpoints")
    assert isinstance(rows, ReplayedRows)
    assert rows.replayed.stream.ids.tolist() == [1, 12, 13, 14]
    every = with_replay(params(text="documents"), tmp_path, tmp_path / "checkpoints")
    assert isinstance(every, ReplayedRows)
    assert (every.replayed.stream.ids == read_stream(tmp_path / "documents/train").ids).all()
    with pytest.raises(BadParams, match="names news, but the documents have the sources book, web"):
        with_replay(params(text="documents", sources=["news"]), tmp_path, tmp_path / "checkpoints")


def test_missing_documents_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"sft\.replay\.text is documents, but .* contains none. Set text: base"):
        with_replay(params(text="documents"), tmp_path, tmp_path / "checkpoints")


def test_nothing_is_replayed_without_the_param_or_without_steps(tmp_path: Path) -> None:
    assert not isinstance(with_replay(params(), tmp_path, tmp_path), ReplayedRows)
    none = sft.Params.model_validate({"steps": 0, "replay": {"share": 0.5}})
    assert not isinstance(with_replay(none, tmp_path, tmp_path), ReplayedRows)


def test_random_weights_have_no_text_to_replay() -> None:
    with pytest.raises(ValueError, match="replay with text: base needs the key base"):
        pretrain.Params.model_validate({"replay": {"share": 0.1}})
    with pytest.raises(ValueError, match=r"replay\.sources selects documents; set replay\.text: documents"):
        sft.Params.model_validate({"replay": {"sources": ["web"]}})


def test_the_report_counts_the_replay_and_warns_of_forgetting() -> None:
    steps = [{"step": 0, "validation_replay_loss": 3.0}, {"step": 4, "validation_replay_loss": 3.2}]
    report = Report("sft", counts={"steps": 4}, tables={"steps": steps})
    replay.add_to_report(rows_with_replay(0.4), report, params(share=0.4))
    assert report.counts["replayed_rows"] == 8
    assert report.notes == [
        "8 of 20 rows were samples of the base (17 tokens, 2 epochs); the loss of held-out text of this kind was "
        "3 at first and is 3.2."
    ]
    assert report.warnings[0].startswith("sft forgets: the loss of the text that it replays has risen from 3 to 3.2.")
