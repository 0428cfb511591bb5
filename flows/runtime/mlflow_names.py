"""Names that MLflow accepts for metrics, params and tags, and the columns of its run table.

A name that had to be changed is kept in a tag.

MLflow accepts letters, digits, `_`, `-`, `.`, `/`, `:` and spaces, no path that resolves to another one, and at most
250 characters. It refuses the whole call otherwise.
"""

import contextlib
import hashlib
import json
import posixpath
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable

MAX_CHARS = 250
REFUSED = re.compile(r"[^/\w.\- :]")
RENAMED = "name."  # the prefix of the tags that contain the original names


def accepted(name: str) -> str:
    """Return `name`, or a name that MLflow accepts: others replaced by `_`, and a hash, so that two stay different."""
    normal = posixpath.normpath(REFUSED.sub("_", name).replace("\n", "_")).lstrip("/")
    parts = [part if part.strip(".") else "_" for part in normal.split("/")]
    changed = "/".join(parts)
    changed = f"_{changed}" if changed.startswith("..") else changed
    if changed == name and len(name) <= MAX_CHARS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{changed[: MAX_CHARS - len(RENAMED) - len(digest) - 1]}-{digest}"


def renamed_tags(names: Iterable[str]) -> dict[str, str]:
    """Return the tags that state the original of each of `names` that MLflow does not accept."""
    return {f"{RENAMED}{accepted(name)}": name for name in names if accepted(name) != name}


# The columns of MLflow's run table, which shows no metrics by default. MLflow keeps such a view as a tag of the
# experiment, and its page opens it by the name in the address.
EXPERIMENT = VIEW = "athanor"
VIEW_STATE = {
    "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
    "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
    "selectedColumns": [
        "metrics.`perplexity`", "metrics.`exact_match/ppo`", "metrics.`gold/ppo`", "metrics.`gates_passed`",
        "tags.`decision`", "tags.`champion`", "tags.`params.changed`",
    ],
    "columnOrder": [], "columnWidths": {}, "runsExpanded": {}, "runsPinned": [], "runsHidden": [],
    "runListHidden": False, "viewMaximized": False, "isAccordionReordered": False, "useGroupedValuesInCharts": True,
    "groupBy": None, "groupsExpanded": {}, "autoRefreshEnabled": True, "hideEmptyCharts": True,
}  # fmt: skip
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps(VIEW_STATE),
}


def page(address: str, experiment: str) -> str:
    """Return the address of the run table with these columns, or of all experiments if it does not exist yet."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"  # MLflow 3 opens in its GenAI view otherwise
    url = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={urllib.parse.quote(experiment)}"
    with contextlib.suppress(OSError, ValueError, KeyError), urllib.request.urlopen(url, timeout=10) as response:
        return f"{address}/#/experiments/{json.load(response)['experiment']['experiment_id']}/runs?{query}"
    return f"{address}/#/experiments?workflowType=machine_learning"
