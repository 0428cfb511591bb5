"""The group of a record and the split of a group: pure functions of the content, so that all tables agree.

A record without a group of its own is grouped by what it says, not by where it is. So an inserted line, another path
or another export moves no record to another split, and copies stay on one side.
"""

import hashlib
import string
from collections.abc import Sequence

from tasks.conversations import Message

MIN_CHARACTERS = 32  # a shorter first message, such as "hi", says too little to be a group


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


def text_group(text: str) -> str:
    """Return the group of a text: a hash that ignores ASCII white space and case, which differ between exports."""
    content = text.encode(errors="surrogatepass").translate(None, string.whitespace.encode()).lower()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def prompt_group(prompt: Sequence[Message]) -> str:
    """Return the group of a conversation or preference by its prompt, the messages before the answer.

    Other answers to the same prompt, and longer versions of one conversation, begin with the same message of the user
    and share a group. System messages do not count, because many records have the same.
    """
    contents = [message["content"] for message in prompt if message["role"] != "system"]
    if not contents:  # an answer to a system message alone
        contents = [message["content"] for message in prompt]
    is_distinctive = bool(contents) and len(contents[0]) >= MIN_CHARACTERS
    return text_group(contents[0] if is_distinctive else "\n".join(contents))
