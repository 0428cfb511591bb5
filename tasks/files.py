"""Files that are either complete or absent: written under a temporary name, flushed, renamed.

The manifest of a folder is written last, so that its presence means that the folder is complete.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Return the hex digest of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, body: object) -> None:
    """Write JSON so that `path` is, at every moment, either the old file or the complete new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(body, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # without it a power cut can leave an empty file under the new name
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
