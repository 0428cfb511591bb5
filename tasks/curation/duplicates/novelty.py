"""Which of new texts are neither equal nor similar to earlier ones."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tasks.curation.duplicates import exact, minhash


def novel_texts(earlier: Sequence[str], texts: Sequence[str], max_similarity: float) -> list[bool]:
    """Whether each of `texts` is new: neither equal nor similar to an earlier one, or to one before it in `texts`.

    Candidates come from MinHash, and each is verified by its exact Jaccard similarity of shingles of two words, so that
    the time does not grow with the square of the number of texts. A text without a shingle is new unless it is equal.
    """
    column = pa.array([*earlier, *texts], pa.large_string())
    priority = np.arange(len(column), 0, -1)
    params = minhash.Params.model_validate({"threshold": max_similarity, "shingle_size": 2})
    similar, _ = minhash.duplicates(column, params, priority)
    equal = exact.duplicates(column, priority)
    return [bool(one < 0 and other < 0) for one, other in zip(similar, equal, strict=True)][len(earlier) :]
