"""Estimate a curation on many machines: time, memory, disk, shuffle and price, with the arithmetic of each line."""

from dataclasses import dataclass

from tasks.curation import tasks

# Measured on a core of an AMD Zen 5 by `make bench NAME=curation`, less a quarter for the spam classifier.
CURATION_RATE = 23e6  # bytes of text per CPU-second: the whole stage
# (band key, document) rows per CPU-second, from writing them to the end of the clusters, without the verification of
# pairs: measured by `make bench NAME=scale` on 1.4e9 synthetic rows (cluster_rows / cluster_cpu_seconds).
ROWS_RATE = 1e6
ROW_BYTES = 16  # a key and a document of 64 bits each
DRIVER_BYTES = 190  # of memory per document in the driver, measured by the same benchmark (bytes_per_document)
TABLE_BYTES = 108  # of memory per row of the partition that a task holds
# Bytes of text per CPU-second that others have published or that were measured for them.
PUBLISHED = {"SlimPajama": 0.36e6, "Data-Juicer": 0.39e6, "datatrove (FineWeb)": 0.78e6}
GPU_RATE = 135e6  # NeMo Curator, bytes per second on one H100


@dataclass(frozen=True)
class Cluster:
    """What the user has: equal machines, the cores of each, and the price of one machine per hour."""

    nodes: int = 1
    cores: int = 64
    price_per_hour: float | None = None


def lines(documents: float, num_bytes: float, cluster: Cluster, params: tasks.Params | None = None) -> list[str]:
    """Return the lines of the estimate. num_bytes: text as ingested; params: of curation, None for the defaults."""
    minhash = (params or tasks.Params()).minhash
    bands = minhash.banding()[0] if minhash else 0
    cores, rows = cluster.nodes * cluster.cores, documents * bands
    text_seconds, row_seconds = num_bytes / CURATION_RATE, rows / ROWS_RATE
    hours = (text_seconds + row_seconds) / cores / 3600
    shuffle = rows * ROW_BYTES
    result = [
        f"curation of {documents:.3g} documents, {size(num_bytes)}, on {cluster.nodes} x {cluster.cores} cores:",
        f"  text: {size(num_bytes)} / {size(CURATION_RATE)} per CPU-second = {text_seconds / 3600:,.0f} CPU-hours",
        f"  near-duplicates: {documents:.3g} documents x {bands} bands = {rows:.3g} rows / {ROWS_RATE:.3g} per "
        f"CPU-second = {row_seconds / 3600:,.0f} CPU-hours",
        f"  time: {(text_seconds + row_seconds) / 3600:,.0f} CPU-hours / {cores:,} cores = {hours:,.3g} hours, if all "
        "cores have work all the time",
        f"  shuffle: {rows:.3g} rows x {ROW_BYTES} B = {size(shuffle)} ({shuffle / documents:.0f} B per document), "
        f"{size(shuffle / cluster.nodes)} per node; with the rows of duplicates at most 3 times as much",
        f"  memory of a task: {rows:.3g} rows / 4,096 partitions x {TABLE_BYTES} B = "
        f"{size(rows / 4096 * TABLE_BYTES)}; of a node: x {cluster.cores} cores = "
        f"{size(rows / 4096 * TABLE_BYTES * cluster.cores)}",
        f"  memory of the driver: {documents:.3g} documents x {DRIVER_BYTES} B = {size(documents * DRIVER_BYTES)}",
    ]
    if cluster.price_per_hour is not None:
        cost = hours * cluster.nodes * cluster.price_per_hour
        result.append(f"  price: {hours:,.3g} hours x {cluster.nodes} nodes x {cluster.price_per_hour:g} = {cost:,.0f}")
    return [
        *result,
        "the same text by others, from published rates per core:",
        *_published_rates(num_bytes, text_seconds, row_seconds),
    ]


def _published_rates(num_bytes: float, text_seconds: float, row_seconds: float) -> list[str]:
    own = text_seconds + row_seconds
    rows = [
        f"  {name}: {size(num_bytes)} / {rate / 1e6:g} MB/s = {num_bytes / rate / 3600:,.0f} CPU-hours, "
        f"{num_bytes / rate / own:,.1f} times as many"
        for name, rate in PUBLISHED.items()
    ]
    gpu_hours = num_bytes / GPU_RATE / 3600
    return [*rows, f"  NeMo Curator: {size(num_bytes)} / {GPU_RATE / 1e6:g} MB/s = {gpu_hours:,.0f} H100-hours"]


def size(num_bytes: float) -> str:
    """Return a number of bytes with three digits and its unit."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes:.3g} B"
