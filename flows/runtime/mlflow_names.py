"""Names that MLflow accepts for metrics, params and tags. A name that had to be changed is kept in a tag.

MLflow accepts letters, digits, `_`, `-`, `.`, `/`, `:` and spaces, no path that resolves to another one, and at most
250 characters. It refuses the whole call otherwise.
"""

import hashlib
import posixpath
import re
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
