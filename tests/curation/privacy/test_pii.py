"""Personal data is masked; numbers that only look similar are not."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.curation.privacy import pii

PARAMS = pii.Params()

FOUND = [
    ("mail john.doe+x@mail.example.co.uk, please", "mail <email>, please"),
    ("1234567@qq.com", "<email>"),
    ("13812345678abc@qq.com", "<email>"),
    ("邮箱：zhang_san@example.cn。", "邮箱：<email>。"),
    ("from 8.8.8.8, port 53", "from <ip>, port 53"),
    ("call (555) 123-4567 or +44 20 7946 0958.", "call <phone> or <phone>."),
    ("手机13812345678，或 +86 138-1234-5678", "手机<mobile>，或 <mobile>"),
    ("座机010-12345678转1，客服 400-820-8820", "座机<phone>转1，客服 <phone>"),
    ("身份证11010519491231002X号", "身份证<identity>号"),
    ("card 4111 1111 1111 1111, 6222021234567894", "card <card>, <card>"),
    ("at 2a00:1450:4001:80b::200e, or 2620:fe::fe: both", "at <ip>, or <ip>: both"),
    ("2606:4700:4700::1111", "<ip>"),
    ("电话：１３８１２３４５６７８，请来电", "电话：<mobile>，请来电"),
    ("身份证１１０１０５１９４９１２３１００２Ｘ号", "身份证<identity>号"),
    ("卡号６２２２０２１２３４５６７８９４ 和 138１２３４５６７８", "卡号<card> 和 <mobile>"),
    ("a@b.com" * 1 + " " + "c@d.org", "<email> <email>"),
]

LEFT = [
    "127.0.0.1 and 10.0.0.1 and 192.168.1.1",  # not public
    "version 1.2.3 of 2024.10.11, at 12:30:45",
    "0.1234567890123456 and 3.14159265358979",
    "4111 1111 1111 1112",  # Luhn
    "110105194912310021 has a wrong check digit",
    "110105194913310023",  # no such month
    "12812345678 and 138123456789 and id_13812345678",
    "@decorator(name) user@localhost a@b",
    "1111111111111111 0000-0000",
    "fe80::1 and fd00:12::7 and 2001:db8::1",  # not public
    "at 2024:10:11, 12:30:45; 2600:1:2:3:4:5:6:7:8:9; dead::beef; std::vector 2a00:z::1 32::2",
    "１２３４５６７８ and １．２",
    "20170809091249",  # a date and a time, though Luhn agrees
    "table 1 2 3 4 5 6 7 8 9 10 11 12",
    "",
]


def masked(*texts: str, **params: object) -> list[str]:
    masked_texts: list[str] = pii.mask(pa.array(texts, pa.large_string()), pii.Params(**params))[0].to_pylist()
    return masked_texts


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_found(text: str, expected: str) -> None:
    assert masked(text) == [expected]


@pytest.mark.parametrize("text", LEFT)
def test_left(text: str) -> None:
    assert masked(text) == [text]


def test_counts_by_type_and_text_and_untouched_neighbors() -> None:
    texts = pa.chunked_array([["clean", "a@b.com and c@d.com"], ["é 8.8.8.8 é", "a@b.com"]], pa.large_string())
    result, counts = pii.mask(texts, PARAMS)
    assert result.to_pylist() == ["clean", "<email> and <email>", "é <ip> é", "<email>"]
    assert counts["email"].tolist() == [0, 2, 0, 1]
    assert counts["ip"].tolist() == [0, 0, 1, 0]
    assert set(counts) == set(pii.PII_TYPES)


def test_masks_and_types_are_params() -> None:
    text = "a@b.com 13812345678"
    assert masked(text, masks={"email": "［邮箱］"}) == ["［邮箱］ 13812345678"]
    assert masked("10.0.0.1", "fd00:12::7", public_ips_only=False) == ["<ip>", "<ip>"]
    assert masked(text, masks={"email": "", "mobile": ""}) == [" "]
    with pytest.raises(ValidationError, match="available: email"):
        pii.Params(masks={"e-mail": ""})


def test_clean_texts_are_returned_as_they_are() -> None:
    texts = pa.array(["nothing", "to see"], pa.large_string())
    assert pii.mask(texts, PARAMS)[0] is texts


def test_masking_twice_changes_nothing() -> None:
    once = masked(*(text for text, _ in FOUND))
    assert masked(*once) == once


def test_candidates_miss_nothing_that_the_patterns_find() -> None:
    """The compiled pass gives the same result as the patterns on whole texts, with random surroundings."""
    rng = np.random.default_rng(0)
    alphabet = list("0123456789 .-+()@abx\n中Xcom")
    texts = ["".join(rng.choice(alphabet, rng.integers(60))) for _ in range(3000)]
    texts += [
        f"{before}{text}{after}" for text, _ in FOUND for before in ("", " ", "，", "\n") for after in ("", " ", "。")
    ]
    for text in texts:
        data = text.encode()
        assert pii.find_pii(text, PARAMS) == [
            (pii_type, data[begin:end].decode())
            for begin, end, pii_type in pii.find_replacements(data, [(0, len(data))], PARAMS)
        ]


def test_hostile_texts_take_no_time() -> None:
    hostile = ["1" * 200_000, "1-" * 100_000, "a." * 100_000 + "@" + "b." * 100_000, "+1 (" * 50_000, "@" * 100_000]
    assert masked(*hostile) == hostile
