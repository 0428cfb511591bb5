"""The split of a group: a pure function of the seed and the name of the group, so that all tables agree."""

import hashlib


def choose_split(group: str, seed: int, validation_share: float, test_share: float) -> str:
    """Return one of documents.SPLITS. The result does not depend on the other records.

    A hash of the group is mapped to [0, 1): the first `test_share` of the interval is test, the next `validation_share`
    is validation, and the rest is train.
    """
    digest = hashlib.blake2b(f"{seed} {group}".encode(errors="surrogatepass"), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"
