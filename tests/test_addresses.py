"""Secrets in addresses: redacted wherever they are shown, whole for the code that opens them."""

import json

import pytest
from pydantic import BaseModel

from tasks import addresses
from tasks.addresses import Address, has_secret, redact
from tasks.errors import BadInput

CANARY = "canary-4711"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"redis://user:{CANARY}@host:6379/0", "redis://***@host:6379/0"),
        (f"https://{CANARY}@github.com/a/b", "https://***@github.com/a/b"),
        (f"s3://b/x?X-Amz-Signature={CANARY}&part=1", "s3://b/x?X-Amz-Signature=***&part=1"),
        (f"https://h/x?a=1&access_token={CANARY}#c", "https://h/x?a=1&access_token=***#c"),
        (
            f"cannot open 'postgresql+asyncpg://u:{CANARY}@h/db': refused",
            "cannot open 'postgresql+asyncpg://***@h/db': refused",
        ),
        ("redis://user:${REDIS_PASSWORD}@host", "redis://user:${REDIS_PASSWORD}@host"),
        ("s3://bucket/key=1/part", "s3://bucket/key=1/part"),
        ("https://en.wikipedia.org/wiki/A?page=2&lang=en", "https://en.wikipedia.org/wiki/A?page=2&lang=en"),
        ("data/raw/x@y?token=z", "data/raw/x@y?token=z"),
    ],
)
def test_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert has_secret(text) == (CANARY in text)


def test_an_address_shows_itself_redacted_and_reveals_all() -> None:
    class Params(BaseModel, frozen=True):
        url: Address
        paths: tuple[Address, ...] = ()

    text = f"redis://user:{CANARY}@host"
    params = Params.model_validate({"url": text, "paths": ["data/raw/a.jsonl"]})
    shown = [str(params), repr(params), params.model_dump_json(), json.dumps(params.model_dump()), f"{params.url}"]
    assert not [part for part in shown if CANARY in part]
    assert (params.url.reveal(), params.paths[0].reveal()) == (text, "data/raw/a.jsonl")
    assert CANARY not in str(BadInput(f"a library says: wrong password {CANARY}"))
    with pytest.raises(ValueError, match="valid string"):
        Params.model_validate({"url": 3})


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", CANARY)
    address = Address("redis://user:${TEST_PASSWORD}@host")
    assert address.variables() == ["TEST_PASSWORD"]
    assert str(address) == "redis://user:${TEST_PASSWORD}@host"
    assert address.reveal() == f"redis://user:{CANARY}@host"
    monkeypatch.setenv("TEST_PASSWORD", "a/b@c#1:2")  # otherwise the host would be "a"
    assert address.reveal() == "redis://user:a%2Fb%40c%231%3A2@host"
    assert redact("wrong: a/b@c#1:2, a%2Fb%40c%231%3A2") == "wrong: ***, ***"
    addresses.set_value("OTHER", "value-of-a-block")
    assert Address("${OTHER}").reveal() == "value-of-a-block"
    assert Address("data/${OTHER}/x").reveal() == "data/${OTHER}/x"
