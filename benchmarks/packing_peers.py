"""TRL's SFTTrainer with best-fit packing, in a separate environment; prints {"rate": tokens per CPU-second}.

python packing_peers.py WORKSPACE LENGTH ROWS STEPS
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

workspace, length, rows, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
marks: list[float] = []
tokens: list[int] = []


class Timed(SFTTrainer):  # type: ignore[misc]
    """Records the time and the number of tokens of each step."""

    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
        """Record the step and run it."""
        marks.append(time.process_time())
        tokens.append(int((inputs["input_ids"] != 0).sum()))
        return super().training_step(model, inputs, *rest)


backend = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<end>": 5, "a": 6}, unk_token="a"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<end>")
settings = SFTConfig(
    str(workspace / "trl"), packing=True, packing_strategy="bfd", max_length=length, per_device_train_batch_size=rows,
    max_steps=steps, use_cpu=True, bf16=True, report_to=[], save_strategy="no", logging_strategy="no",
    learning_rate=1e-3, disable_tqdm=True, gradient_checkpointing=False,
)  # fmt: skip
data = Dataset.from_list([{"input_ids": ids} for ids in json.loads((workspace / "conversations.json").read_text())])
model = AutoModelForCausalLM.from_pretrained(workspace / "model")
Timed(model, settings, train_dataset=data, processing_class=tokenizer).train()
print(json.dumps({"rate": max(n / (b - a) for n, (a, b) in zip(tokens, pairwise(marks), strict=False))}))
