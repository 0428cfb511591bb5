"""SFT on packed conversations that do not attend to each other, beside TRL's best-fit packing: tokens per CPU-second.

    make bench NAME=packing

Both train a Llama of 2.6 million parameters in bf16 on the same random conversations of 20 to 200 tokens, in rows of
256 tokens, 8 rows per step, with one thread. The best step of alternating rounds counts. Padding is not counted.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.preference import COMMON

VOCAB, LENGTH, ROWS, STEPS, ROUNDS = 4096, 256, 8, 6, 3
SHAPE = {"width": 192, "num_layers": 4, "num_heads": 4}


def main() -> None:
    """Print progress on stderr and one line of JSON on stdout."""
    import torch

    torch.set_num_threads(1)
    interpreter = peers.python("trl-1.16.0", ["trl==1.16.0", *COMMON])
    with TemporaryDirectory() as folder:
        workspace = Path(folder)
        model().save_pretrained(workspace / "model")
        (workspace / "conversations.json").write_text(json.dumps([ids.tolist() for ids in conversations()]))
        rates = {"ours": 0.0, "trl_bfd": 0.0}
        for number in range(ROUNDS):
            script = Path(__file__).parent / "packing_peers.py"
            trl_result = peers.run(interpreter, script, workspace, LENGTH, ROWS, STEPS)
            new_rates = {"ours": run_ours(workspace / str(number)), "trl_bfd": trl_result["rate"]}
            rates = {name: max(rates[name], rate) for name, rate in new_rates.items()}
            print(f"round {number + 1}: {new_rates}", file=sys.stderr, flush=True)
    print(json.dumps({
        "vs_trl_bfd": round(rates["ours"] / rates["trl_bfd"], 3),
        "isolation_error": isolation_error(),
        "tokens_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
    }))  # fmt: skip


def model() -> Any:
    """The model that both engines train."""
    from tasks.training.estimate.counting import Vocabulary
    from tasks.training.shape.architecture import Architecture, build

    return build(Architecture(**SHAPE), Vocabulary(VOCAB), 0)


def conversations() -> list[Any]:
    """The ids of 600 random conversations of 20 to 200 tokens."""
    generator = np.random.default_rng(0)
    return [np.r_[1, generator.integers(6, VOCAB, n - 1)] for n in generator.integers(20, 200, 600)]


def run_ours(folder: Path) -> float:
    """Tokens per CPU-second of our fastest step, with packing, rows and training loop of the stage sft."""
    from tasks.causal import attention
    from tasks.tokenization import packing
    from tasks.training.language.next_token import NextToken
    from tasks.training.language.rows import PackedRows
    from tasks.training.loop.params import LoopParams
    from tasks.training.loop.training_loop import run

    lists = [(ids, np.ones(len(ids), np.uint8)) for ids in conversations()]
    packed = packing.pack(lists, LENGTH, 0, VOCAB, 0)
    network, marks, tokens = model(), list[float](), list[int]()

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            batches = super().batches(step)
            marks.append(time.process_time())
            tokens.append(sum(int((batch.ids != 0).sum()) for batch in batches))
            return batches

    work = Timed(network, PackedRows(packed.stream, LENGTH, ROWS, ROWS, 0, 0), None, None)
    params = LoopParams(steps=STEPS, learning_rate=1e-3, precision="bf16", device="cpu")
    with attention.packed(network):
        run(work, params, folder, "bench")
    return max(count / (after - before) for count, (before, after) in zip(tokens, pairwise(marks), strict=False))


def isolation_error() -> float:
    """The largest difference of a logit between a packed conversation and the same conversation alone, in fp32."""
    import torch

    from tasks.causal import attention
    from tasks.causal.backbone import last_hidden

    network, lists = model().eval(), conversations()[:3]
    ids = torch.from_numpy(np.concatenate(lists))[None]
    positions = torch.cat([torch.arange(len(part)) for part in lists])[None]
    with torch.no_grad():
        with attention.packed(network):
            together = network.lm_head(last_hidden(network, ids, positions))
        alone = torch.cat([network(torch.from_numpy(part)[None]).logits for part in lists], 1)
    return float((together - alone).abs().max())


if __name__ == "__main__":
    main()
