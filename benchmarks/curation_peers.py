"""The steps of datatrove that correspond to curation, end to end; run in the environment of `benchmarks.curation`.

python curation_peers.py DOCUMENTS.parquet FOLDER -> {"bytes", "seconds", "kept"}

Parquet in, Parquet out: Gopher quality and repetition, FineWeb, MinHash, PII masking. Not included, which
favors datatrove: language (its models are downloads), exact duplicates, contamination, spam.
"""

import json
import resource
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


def main(documents: str, folder: str) -> None:
    """Run the stages one after another in this process and print."""
    workspace = Path(folder)

    def run(name: str, *steps: object, tasks: int = 1) -> None:
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=1, logging_dir=str(workspace / "logs" / name)).run()

    start = cpu()
    run(
        "filters",
        ParquetReader(str(Path(documents).parent), glob_pattern=Path(documents).name),
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        FineWebQualityFilter(),
        ParquetWriter(str(workspace / "filtered")),
    )
    run("signatures", ParquetReader(str(workspace / "filtered")), MinhashDedupSignature(str(workspace / "signatures")))
    run("buckets", MinhashDedupBuckets(str(workspace / "signatures"), str(workspace / "buckets")), tasks=14)
    run("cluster", MinhashDedupCluster(str(workspace / "buckets"), str(workspace / "remove")))
    run(
        "write",
        ParquetReader(str(workspace / "filtered")),
        MinhashDedupFilter(str(workspace / "remove")),
        PIIFormatter(),
        ParquetWriter(str(workspace / "out")),
    )
    seconds = cpu() - start
    kept = sum(pq.read_metadata(path).num_rows for path in (workspace / "out").glob("*.parquet"))
    size = sum(len(text.encode()) for text in pq.read_table(documents)["text"].to_pylist())
    print(json.dumps({"bytes": size, "seconds": seconds, "kept": kept, "wall": time.monotonic()}))


def cpu() -> float:
    """CPU seconds of this process and the children it has waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
