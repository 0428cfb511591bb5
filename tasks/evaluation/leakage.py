"""Refuse test data that training may have used: scores on such data measure memorization.

Curation compares the training data with the test sets and records a digest of each set in its report; tokenization
records a digest of what it made the test tokens from. Both records must agree. In addition, the tokens themselves are
compared: no test document may be equal to a training document. (inputs.py leaves out test prompts that also occur in
training.)
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tasks import reports
from tasks.errors import BadInput
from tasks.evaluation.inputs import SPLIT
from tasks.files import MANIFEST, read_json, sha256
from tasks.tokens import read_stream

RERUN = "Run `python -m flows.pipeline`, which runs again every stage that is out of date."


def refuse_leakage(data: Path) -> None:
    """Raise BadInput unless the test data below `data` are known to be absent from the training data."""
    check_comparison(data)
    check_documents(data / "tokens" / "documents")


def check_comparison(data: Path) -> None:
    """Raise BadInput unless curation compared the training data with every test set that evaluation uses."""
    manifest, report = data / "tokens" / MANIFEST, data / "reports" / "curation.json"
    test = _read(manifest, "tokenization", read_json).get("test")
    if test is None:
        raise BadInput(f"{manifest} does not state what the test tokens were made from (key `test`). {RERUN}")
    for name, digest in test["files"].items():
        path = manifest.parent / name
        if not path.is_file() or sha256(path) != digest:
            raise BadInput(
                f"{path} is not the file that tokenization wrote, so that nobody compared it with the training data. "
                f"Add test data as a source of ingestion, so that curation reads it. {RERUN}"
            )
    compared = _read(report, "curation", reports.read).get("compared_with")
    if compared is None:
        raise BadInput(
            f"the training data were not compared with any test data ({report} has no `compared_with`), so that scores "
            "may measure memorization. Set `contamination` under curation in params.yaml (`contamination: {}` takes "
            f"the defaults). {RERUN}"
        )
    for name, test_set in test["sets"].items():
        compared_set = compared.get(name, {}).get("test", {})
        if test_set["examples"] and test_set != compared_set:
            raise BadInput(
                f"the training data were not compared with the test {name} that evaluation uses: {manifest} states "
                f"{_describe(test_set)}, {report} states {_describe(compared_set)}. {RERUN}"
            )


def check_documents(folder: Path) -> None:
    """Raise BadInput if the tokens of a test document below `folder` equal those of a training document."""
    training_documents, test_documents = set(_documents(folder / "train")), list(_documents(folder / SPLIT))
    num_shared = sum(ids in training_documents for ids in test_documents)
    if num_shared:
        raise BadInput(
            f"{num_shared} of {len(test_documents)} test documents in {folder} are also training documents, so that "
            "scores on them measure memorization. Set `exact` and `minhash` under curation in params.yaml, or let the "
            "source give copies the same group, which keeps them in one split."
        )


def _read(path: Path, stage: str, read: Callable[[Path], Any]) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(f"{path} is missing; {stage} writes it at its end. {RERUN}")
    return dict(read(path))


def _describe(test_set: Mapping[str, Any]) -> str:
    return f"{test_set['examples']} examples with digest {test_set['digest']}" if test_set else "no examples"


def _documents(folder: Path) -> Iterator[bytes]:
    """The token ids of each document as bytes, which can be compared and hashed."""
    stream = read_stream(folder)
    starts = np.flatnonzero(np.asarray(stream.positions) == 0)  # positions restart with each document
    ids = np.ascontiguousarray(stream.ids)
    for start, end in pairwise([*starts, len(ids)]):
        yield ids[start:end].tobytes()
