"""Data sets of the Hugging Face Hub by name, saved data sets, and folders of data files: all three kinds of records."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from tasks.errors import BadInput
from tasks.ingestion import records
from tasks.ingestion.decoding import Location
from tasks.ingestion.opening import contains_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.sources import csv, jsonl, parquet, text
from tasks.tables import Quarantined

BATCH_ROWS = 1024
_FILES_OF_SAVED_DATASET = ("dataset_dict.json", "state.json")


class Params(records.RowParams, frozen=True, extra="forbid"):
    """Which data set to read, and the names of the fields of its rows."""

    name: str = Field(min_length=1, description="The name of the data set on the hub, or a local folder.")
    config: str = Field("", description="The configuration (subset) of the data set; empty for the default one.")
    part: str = Field(
        "train", description="The split of the data set to read; ignored for a folder that was saved without splits."
    )
    revision: str = Field(
        "", description="A commit or tag; a commit makes the result reproducible. Empty for the newest."
    )
    streaming: bool = Field(
        True, description="Whether to read while downloading, without storing the data set on disk."
    )
    max_records: int = Field(0, ge=0, description="Maximum number of records; 0 means all.")


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the record of every row. Raises BadInput if the data set does not exist or cannot be reached."""
    folder, counts = Path(params.name), counts or ReadCounts()
    if not folder.is_dir():
        rows = _read_rows(_load_from_hub(params), params, counts)
    elif any((folder / name).exists() for name in _FILES_OF_SAVED_DATASET):
        rows = _read_rows(_load_from_disk(params), params, counts)
    else:
        rows = _read_data_files(params, counts)
    return _limit(rows, params.max_records, counts) if params.max_records else rows


def _limit(rows: Iterator[records.Record], max_records: int, counts: ReadCounts) -> Iterator[records.Record]:
    """Yield at most `max_records` records; rows that were read and are beyond them are counted as skipped."""
    num_used: Counter[str] = Counter()
    for record in islice(rows, max_records):
        if isinstance(record, Quarantined):
            num_used[record.file] += record.num_records
        else:
            num_used.update(record.rows)
        yield record
    for file, num_read in counts.rows.items():
        if num_read > num_used[file]:
            counts.skip(file, "beyond_max_records", num_read - num_used[file])


def _load_from_hub(params: Params) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    datasets.disable_progress_bars()
    selection = {"name": params.config or None, "split": params.part, "revision": params.revision or None}
    try:  # `datasets` itself retries if the network fails
        return datasets.load_dataset(params.name, streaming=params.streaming, **selection)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            f"The data set {params.name!r} cannot be read: {str(error).splitlines()[0][:300]} "
            "Check name, config, part and revision in params.yaml, and the network, or set name to a local folder."
        ) from error


def _load_from_disk(params: Params) -> Any:
    import datasets

    try:
        saved = datasets.load_from_disk(params.name)
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise BadInput(f"The data set in {params.name} is damaged: {error}. Save it again.") from error
    if isinstance(saved, datasets.DatasetDict):
        if params.part not in saved:
            raise BadInput(f"{params.name} has no part {params.part!r}; available: {', '.join(sorted(saved))}.")
        return saved[params.part]
    return saved


def _read_rows(dataset: Any, params: Params, counts: ReadCounts) -> Iterator[records.Record]:
    row = 1
    for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        for batch in table.combine_chunks().to_batches():
            counts.add(params.name, batch.num_rows)
            unused = params.unused_columns(batch.schema.names)
            counts.add_unused_columns(params.name, unused, batch.num_rows)
            yield from parquet.from_batch(batch, Location(params.name, row), params)
            row += batch.num_rows


def _read_data_files(params: Params, counts: ReadCounts) -> Iterator[records.Record]:
    """Read a folder with the sources of this project, which quarantine damage on which `datasets` raises or crashes."""
    row_params = {name: getattr(params, name) for name in records.RowParams.model_fields}
    is_empty = True
    for source in (jsonl, parquet, csv, text):
        if contains_files(params.name, source.SUFFIXES):
            is_empty = False
            yield from source.read(source.Params(paths=(params.name,), **row_params), counts)
    if is_empty:
        raise BadInput(
            f"{params.name} contains no data. Expected a data set that save_to_disk wrote, or files in one of the "
            "formats JSON Lines, Parquet, CSV and text."
        )
