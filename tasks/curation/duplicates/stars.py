"""Connected components of a graph in files, by alternating large-star and small-star until neither changes an edge.

The algorithm is that of Kiveris et al. 2014, "Connected Components in MapReduce and Beyond": each step connects the
neighbors of a node to the smallest of them, so that in the end each node has one edge, to the smallest node of its
component. An edge is a row (node, neighbor). A step reads the edges of one partition of nodes at a time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.curation.arrays import UInt64Array
from tasks.curation.duplicates import partitions
from tasks.curation.duplicates.row_files import Minima, RowWriter, read_partition
from tasks.engine.engine import Engine, Manifest, discard_files

EDGES = "edges"
MAX_ROUNDS = 64  # the number of rounds grows with the logarithm of the number of nodes; 64 would suffice for any graph


def components(engine: Engine, edges: Manifest, bits: int, discard: bool = True) -> tuple[Manifest, int]:
    """Return the files of (node, smallest node of its component) rows, and the number of rounds.

    edges: a stage whose files EDGES hold both directions of each edge. The result has rows of both directions, too.
    discard: delete the files of a step as soon as the next one has ended. Raises BadInput if a task has ended its
    worker in every attempt.
    """
    for number in range(MAX_ROUNDS):
        changes = 0
        for kind in ("large", "small"):
            inputs = partitions.inputs(edges, bits, kind=kind)
            following = partitions.complete(engine.run(f"star-{number:02d}-{kind}", list(inputs), star, inputs))
            if discard and number + (kind == "small"):
                discard_files(edges)
            edges = following
            changes += edges.total("changes")
        if not changes:
            return edges, number + 1
    raise AssertionError(f"no end after {MAX_ROUNDS} rounds")


def star(part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """One step for the nodes of one partition; counts the edges that it changes.

    Large-star moves the edges to larger neighbors, small-star those to smaller ones, to the smallest node among a node
    and its neighbors. It reads both directions of an edge, and small-star only (larger, smaller).
    """
    is_large, minima = task["kind"] == "large", Minima()
    source = task["folders"], EDGES, 2, task["partition"]
    for rows in read_partition(*source):
        minima.add(rows[:, 0], rows[:, 1])
    changes = 0
    with RowWriter(part, EDGES, 2, task["bits"], distinct=True) as writer:
        for rows in read_partition(*source):
            node, neighbor = rows.T
            smallest = np.minimum(minima.find(node)[0], node)
            if is_large:
                is_moved = neighbor > node
                changes += int((smallest < node)[is_moved].sum())
                moved = np.stack([neighbor[is_moved], smallest[is_moved]], axis=1)
                writer.add(moved)  # for small-star, at the larger node
            else:
                changes += int((neighbor != smallest).sum())
                for other in (neighbor, node):
                    is_moved = other != smallest
                    moved = np.stack([other[is_moved], smallest[is_moved]], axis=1)
                    writer.add(np.concatenate([moved, moved[:, ::-1]]))
    return {"changes": changes, "edges": writer.num_rows}


def both_directions(edges: UInt64Array) -> UInt64Array:
    """Return each edge (a, b) as the rows (a, b) and (b, a)."""
    return np.concatenate([edges, edges[:, ::-1]])
