"""What every test gets: one thread, so that several can run beside each other and sums come in one order."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two raylets of one CPU each, one of them with a GPU that does not exist, or a cluster that runs already."""
    ray = pytest.importorskip("ray")
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address, log_to_driver=False)
        yield
        ray.shutdown()
        return
    from ray.cluster_utils import Cluster

    store = 80 << 20  # the smallest one; nothing is put there
    nodes = Cluster(True, head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False})
    nodes.add_node(num_cpus=1, num_gpus=1, object_store_memory=store)
    ray.init(nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()
