"""Personal data is masked; numbers that only look similar are not."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.curation.privacy import pii, pii_patterns

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
    ("ask ann (at) example [dot] org or ben[at]example.net", "ask <email> or <email>"),
    ('märi@example.com, ann@例子.中国, "ann b"@example.org', "<email>, <email>, <email>"),
    ("座机：010-6234 5678、（021）62345678、(0755)12345678", "座机：<phone>、<phone>、<phone>"),
    ("139.1234.5678 139 1234 5678 (86)13912345678 ０１３９１２３４５６７８", "<mobile> <mobile> <mobile> <mobile>"),
    ("電話 2345 6789；+852 9123 4567；852-2345 6789", "電話 <phone>；<phone>；<phone>"),
    ("台北 02-2345-6789, 0912-345-678, +886 912 345 678", "台北 <phone>, <mobile>, <phone>"),
    ("06 12 34 56 78 or +49 30 901820", "<phone> or <phone>"),
    ("身份证 110105 19491231 002X，老身份证110105491231002", "身份证 <identity>，老身份证<identity>"),
    ("护照 G12345678，QQ：123456789", "护照 <passport>，QQ：<account>"),
    ("加我微信号 wxid_abc123 或微信号：li_ming-88，谢谢", "加我微信号 <account> 或微信号：<account>，谢谢"),
    ("住址：某市某区某路1号2室，电话13812345678", "住址：<address>，电话<mobile>"),
    ("家庭地址是某省某市某村8号。", "家庭地址是<address>。"),
    ("call 5551234567 or 555-123-4567", "call <phone> or <phone>"),
    ("host 5.9.12.34, [93.184.216.34], 5.9.12.34:443, IP 203.0.113.7", "host <ip>, [<ip>], <ip>:443, IP <ip>"),
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
    "version 1.2.3.4, v4.16.3.2, section 8.1.2.3, 3.5.7.11是素数, 版本号 1.3.8.12, 5.0.17.1",
    "Chrome/120.0.99.109 and driver 131.0.15.36 and 12.1.200.3 版本",
    "ISBN 978-7-111-40701-0, ISBN：9787111407010, ISBN 7 111 40701 0, 书号 7-111-40701-2",
    "订单号13912345678 and order no. 13912345678 and 编号 139 1234 5678",
    "git@example.com:team/project.git, ann@example.com:/srv/git, ssh://git@example.com/project, noreply@example.com",
    "IBAN DE89 3704 0044 0532 0130 00, GB82 WEST 1234 5698 7654 32",
    "lodash@4.17.21 @angular/core@17.0.1 torch@git+https a@b.T",
    "scores 555-123-4567-890, +25 30 35 40, +1 234 567, 1990-1995, 面积 1234 5678 平方米",
    "010-62345678是北京图书馆的电话，(555) 123-4567 is her number in fiction",
    "用微信扫描二维码，微信 Android 版，家庭作业和家庭地址都很重要，住址：不详",
    "wxid_ and windows, order 5551234567",
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


def test_an_address_before_an_email_address_is_found() -> None:
    assert masked("住址：某市某路1号 ann@example.org, wxid_ann@example.org") == ["住址：<address> <email>, <email>"]


def test_counts_by_type_and_text_and_untouched_neighbors() -> None:
    texts = pa.chunked_array([["clean", "a@b.com and c@d.com"], ["é 93.184.216.34 é", "a@b.com"]], pa.large_string())
    result, counts = pii.mask(texts, PARAMS)
    assert result.to_pylist() == ["clean", "<email> and <email>", "é <ip> é", "<email>"]
    assert counts["email"].tolist() == [0, 2, 0, 1]
    assert counts["ip"].tolist() == [0, 0, 1, 0]
    assert set(counts) == set(pii_patterns.PII_TYPES)


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
