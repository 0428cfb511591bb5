"""Greedy completions by transformers. STAND_IN_FAULT: `crash` at the start, or text that is `different`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
for argument in ("--model", "--served-model-name", "--uds", "--dtype", "--max-num-seqs"):
    parser.add_argument(argument, required=True)
parser.add_argument("--disable-uvicorn-access-log", action="store_true")
args = parser.parse_args()
Path(os.environ["STAND_IN_PID"]).write_text(str(os.getpid()))
fault = os.environ.get("STAND_IN_FAULT")
if fault == "crash":
    sys.exit("ValueError: the GPU has not enough memory")
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    """The stand-in answers."""
    return {}


@app.post("/v1/completions")
def completions(body: dict[str, Any]) -> dict[str, Any]:
    """The greedy answer to a prompt of ids."""
    ids = torch.tensor([body["prompt"]])
    answer = model.generate(ids, max_new_tokens=body["max_tokens"], do_sample=False)[0, ids.shape[1] :]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    return {"model": body["model"], "choices": [{"index": 0, "text": text + "!" * (fault == "different")}]}


uvicorn.run(app, uds=args.uds, log_level="warning")
