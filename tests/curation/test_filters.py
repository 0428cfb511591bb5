"""Each filter on a few texts, each bound from both sides; profiles, their names and their mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks import catalog
from tasks.curation import filtering
from tasks.curation.classifier import classifier, spam_examples, spam_honest
from tasks.curation.filtering import Language
from tasks.curation.language_model import ngram_model, training
from tasks.curation.signals import signals
from tasks.errors import BadInput, BadParams
from tests.curation.classifier.test_classifier import messages
from tests.curation.language_model.test_ngram_model import CHINESE

SENTENCE = "The keeper of the house went to the sea and had a look at the boats that had come home with the tide."


def first_reasons(name: str, *texts: str, language: str = "en", **changes: Any) -> list[str]:
    """The first reason of one filter for each text, "" where it keeps it."""
    profile = filtering.profile(language)
    params = catalog.find(filtering.FILTERS, name).Params(**{**profile.filters.get(name, {}), **changes})
    array = pa.array(texts, pa.large_string())
    measured = signals.measure(array, {language: profile.stop_words}, profile.phrases)
    reasons = np.full(len(texts), "", dtype=object)
    for reason, verdict in reversed(filtering.verdicts(name, params, measured, array)):
        reasons[verdict.dropped] = reason.removeprefix(f"{name}.")
    return list(reasons)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SENTENCE * 3, ""),
        (SENTENCE, "too_few_words"),
        ("a b c " * 20, "words_too_short"),
        ("incomprehensibilities " * 50, "words_too_long"),
        (SENTENCE * 3 + "#" * 7, "too_many_hashes"),
        (SENTENCE * 3 + "..." * 7, "too_many_ellipses"),
        ("\n".join([f"- {SENTENCE}"] * 3), "too_many_bullets"),
        ("\n".join([f"{SENTENCE}..."] * 3), "too_many_line_ellipses"),
        (SENTENCE * 3 + " 1001" * 20, "too_few_words_with_letters"),
        ("Cats purr while dogs bark loudly. " * 10, "too_few_stop_words"),
    ],
)
def test_gopher_quality(text: str, reason: str) -> None:
    assert first_reasons("gopher_quality", text, published=True) == [reason]


@pytest.mark.parametrize(
    ("text", "language", "published"),
    [
        ("昨晚下了一场雨，早上出门空气特别清新。", "zh", "too_few_stop_words"),  # a sentence of 17 words
        ("我想了很久……还是没有想明白这是为了什么……", "zh", "too_many_ellipses"),  # …… is one mark, not two
        ("- The house by the sea has a room with a view to the boats.\n" * 2, "en", "too_many_bullets"),
        ("Let n be odd. Write n = 2k + 1, so that n^2 - 1 = 4k(k + 1) and 8 divides it.", "en", "words_too_short"),
    ],
)
def test_gopher_quality_keeps_correct_short_texts(text: str, language: str, published: str) -> None:
    changes: dict[str, Any] = {"min_words": 10, "min_alpha_word_ratio": 0.5}
    assert first_reasons("gopher_quality", text, language=language, **changes) == [""]
    assert first_reasons("gopher_quality", text, language=language, published=True, **changes) == [published]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one\ntwo\nthree", ""),
        ("one\n\none\n\none", "duplicate_paragraph"),
        ("same\nsame\nsame\nalso\nlast", "duplicate_line"),
        ("a b c a b c a b c", "top_2_gram"),
        ("x y " + SENTENCE.replace("the", "of")[:60], ""),
    ],
)
def test_gopher_repetition(text: str, reason: str) -> None:
    assert first_reasons("gopher_repetition", text) == [reason]


@pytest.mark.parametrize(
    ("text", "language", "published"),
    [
        ("one\ntwo\nthree", "en", "top_2_gram"),  # each 2-gram occurs once and makes up half of the characters
        ("\nThe keeper of the house went to the sea for a walk.\n", "en", "duplicate_line"),  # two empty lines of three
        ("今天的天气很好，我们去公园里走了一走。", "zh", "top_3_gram"),
    ],
)
def test_what_occurs_once_is_no_repetition(text: str, language: str, published: str) -> None:
    assert first_reasons("gopher_repetition", text, language=language) == [""]
    assert first_reasons("gopher_repetition", text, language=language, count_single=True) == [published]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(f"{SENTENCE} {i}." for i in range(5)), ""),
        ("\n".join(f"{SENTENCE} {i}" for i in range(5)), "too_few_line_ends"),
        ("\n".join(f"Short line {i}." for i in range(5)), "too_many_short_lines"),
        ("\n".join([SENTENCE] * 2), "duplicate_lines"),
        (("\n" * 16).join(f"{SENTENCE} {i}." for i in range(9)), "too_many_newlines"),
        (" \n\u3000\n", "empty"),
    ],
)
def test_fineweb(text: str, reason: str) -> None:
    assert first_reasons("fineweb", text, line_ends="last_character", min_lines=1) == [reason]


@pytest.mark.parametrize(
    "end", ["。”", "。」", "（完。）", "……", "。 \u3000", "！』", "？》", '."', "!)", "?’ ", "...", "…"]
)
def test_marks_that_end_a_line(end: str) -> None:
    text = "\n".join(f"第{i}天我们都去图书馆里看书，到了晚上才回家{end}" for i in "一二三四五")
    assert first_reasons("fineweb", text, language="zh") == [""]


@pytest.mark.parametrize("end", ["", "：", "，", "”", "-"])
def test_lines_without_an_end(end: str) -> None:
    text = "\n".join(f"第{i}天我们都去图书馆里看书到了晚上才回家{end}" for i in "一二三四五")
    assert first_reasons("fineweb", text, language="zh") == ["too_few_line_ends"]


def test_verse_is_no_list() -> None:
    """Each line has 5 words. A list of such lines has 11 newlines in 60 words, 0.183; the bound is 0.178."""
    lines = ["风从海上来", "雨向山中去", "灯火照归人", "江水送行客"] * 3
    verse = "\n\n".join("，\n".join(lines[i : i + 4]) + "。" for i in range(0, 12, 4))
    bounds: dict[str, Any] = {"max_duplicate_char_ratio": 1.0}
    assert first_reasons("fineweb", verse, language="zh", **bounds) == [""]
    assert first_reasons("fineweb", "\n".join(lines), language="zh", min_terminal_line_ratio=0.0, **bounds) == [
        "too_many_newlines"
    ]


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("Casino! The best online casino has a jackpot for you.", "en", "gambling"),
        ("The casino by the sea was closed, and " + SENTENCE * 3, "en", ""),
        ("You have won! Call 0800 123 4567 now.", "en", "offer_with_contact"),
        ("Free gift, risk free, free shipping.", "en", "repeated_offers"),
        ("Click here. Buy now. Order now.", "en", "repeated_calls"),
        ("http://a.b http://c.d www.e.f see http://g.h", "en", "links"),
        ("watches " * 20 + SENTENCE * 2, "en", "keyword_stuffing"),
        ("澳门新葡京，真人荷官，百家乐投注", "zh", "gambling"),
        ("免费领取优惠券，加微信 abc12345", "zh", "offer_with_contact"),
        (
            "他在图书馆里读了一本关于赌场历史的书，然后回家写了一篇很长的文章，讲述那座城市的变迁与人们的生活。",
            "zh",
            "",
        ),
    ],
)
def test_spam(text: str, language: str, reason: str) -> None:
    assert first_reasons("spam", text, language=language) == [reason]


HONEST = [
    "澳门旅游局公布的报告说，去年旅客的消费不再只集中在赌场，当地政府希望减少对博彩的依赖。学者指出，转型需要时间。",
    "央行公布的数据显示，上个月新增贷款有所减少，多家银行下调了贷款利率。专家提醒，申请贷款要看清合同，不要轻信广告。",
    "The casino on the beach will be turned into a museum, and the jackpot of the last slot machine went to a school.",
    "Each toy is made by hand. Orders of more than fifty euros have free shipping, and schools have a discount code.",
    "将鸡蛋打散，加入少许盐和葱花，锅中放油烧热后倒入蛋液，小火煎至两面金黄即可。",
    "Return the value of the option, or the default if it is not set. Raises KeyError for an unknown option.",
    "Preheat the oven to 200 degrees, mix the flour with two eggs, and bake the dough for 25 minutes.",
    "甲方应当在合同签订后十日内支付首付款，逾期支付的，每日按未付金额的万分之五支付违约金。",
]
SPAM = [
    "【金鼎装饰】免费量房设计，前50名送价值3888元大礼包，咨询热线13800001234，退订回T",
    "本公司长期对外代开各类发票，税点低，先验后付款，联系王经理13900005678",
    "Congratulations! You have won a 500 pounds cash prize. To claim call 09061234567 now.",
    "Please check out my channel and subscribe, I make covers of songs",
    "代 开*各 类*发 票，点数低可验证，電話13900005678陳經理",
    "城南学区房均价9800元起，首付两成，买房送车位，售楼热线0755-1234567",
]


@pytest.mark.parametrize(("texts", "dropped"), [(HONEST, False), (SPAM, True)])
def test_spam_with_the_shipped_classifier(texts: list[str], dropped: bool) -> None:
    assert [bool(reason) for reason in first_reasons("spam", *texts, language="zh")] == [dropped] * len(texts)


def test_spam_without_a_classifier() -> None:
    assert first_reasons("spam", SPAM[3], file=None) == [""]
    assert first_reasons("spam", SPAM[3]) == ["classifier"]


def test_the_shipped_classifier_is_small_and_its_examples_are_reproducible() -> None:
    assert classifier.load(spam_examples.FILE).params == spam_examples.PARAMS
    assert spam_examples.FILE.stat().st_size < 300_000
    examples = spam_examples.written(40)
    assert examples == spam_examples.written(40)
    assert [sum(label for _, label in examples), len(examples)] == [80, 160]
    assert not any("{" in text or "#" in text for text, _ in examples)


def test_documentation_of_packages_is_honest_text() -> None:
    assert spam_honest.documentation(["no-such-package"]) == []
    texts = spam_honest.documentation(["packaging"])
    assert any(text.startswith("packaging\n=") for text in texts)  # the README as a whole
    assert any("def " in text for text in texts)  # code


def test_length() -> None:
    texts = ("ab", "a b\nc", "x" * 50)
    assert first_reasons("length", *texts) == ["", "", ""]
    bounds: dict[str, Any] = {"min_characters": 3, "max_characters": 49, "max_lines": 1}
    assert first_reasons("length", *texts, **bounds) == ["too_few_characters", "too_many_lines", "too_many_characters"]


def test_blocklist(tmp_path: Path) -> None:
    (tmp_path / "domains.txt").write_text("# bad ones\nevil.example\n", encoding="utf-8")
    texts = ("All is well.", "A forbidden\nword here", "unforbidden words", "see http://www.evil.example/x", "坏话在此")
    lists: dict[str, Any] = {"words": ("Forbidden word", "坏话"), "domain_files": (tmp_path / "domains.txt",)}
    assert first_reasons("blocklist", *texts, **lists) == ["", "listed_words", "", "listed_links", "listed_words"]
    with pytest.raises(BadParams, match="cannot be read"):
        first_reasons("blocklist", "x", word_files=(tmp_path / "none.txt",))


@pytest.mark.parametrize(
    ("url", "dropped"),
    [
        ("https://www.evil.example/a?b#c", True),
        ("http://cdn.EVIL.example:8080/", True),
        ("https://notevil.example/", False),
        ("https://evil.example.org/", False),
        ("https://fine.example/bad/page.html", True),
        ("https://www.fine.example/bad/", True),
        ("https://fine.example/bad.html", False),
        ("", False),
        (None, False),
    ],
)
def test_where_a_text_comes_from_is_listed_too(url: str | None, dropped: bool) -> None:
    changes = {"blocklist": {"domains": ["evil.example"], "urls": ["https://fine.example/bad"]}}
    filter_params = filtering.params_by_language({"en": Language(profile="en", changes=changes)}, ["blocklist"])
    texts, metadata = pa.array(["All is well."], pa.large_string()), pa.array([json.dumps({"url": url, "x": 1})])
    measured = signals.measure(texts, {"en": ()}, {})
    reason = filtering.decide(measured, filter_params, texts, metadata).reasons[0]
    assert reason == ("blocklist.listed_origin" if dropped else filtering.KEPT)


def test_c4_keeps_sentences_and_edits() -> None:
    good = [f"This is sentence number {i}." for i in range(5)]
    menu = ["Home", "Please enable Javascript to see this page.", "Two words.", "We respect your privacy policy here."]
    text = "\n".join([*menu, *good, "It was so[12] long ago[edit].", "And then ..."])
    assert first_reasons(
        "c4", text, "\n".join(menu), "\n".join([*good, "Some { code } there."]), "\n".join(good[:4])
    ) == [
        "",
        "too_few_sentences",
        "curly_bracket",
        "too_few_sentences",
    ]
    assert first_reasons("c4", "\n".join([*good, "Lorem ipsum dolor sit amet."])) == ["lorem_ipsum"]
    filter_params = filtering.params_by_language({"en": Language(profile="en")}, ["c4"])
    (edited,) = filtering.edit_texts(pa.array([text], pa.large_string()), np.array(["en"]), filter_params).to_pylist()
    assert edited == "\n".join([*good, "It was so long ago."])


def test_quality_model(tmp_path: Path) -> None:
    texts, labels = messages(0)
    judge, _ = classifier.train(texts, ~labels, classifier.Params(bits=14))
    judge.save(tmp_path / "model")
    unseen, truth = messages(1, 20)
    verdicts = first_reasons("quality_model", *unseen.to_pylist(), file=tmp_path / "model")
    assert verdicts == ["low_quality" if bad else "" for bad in truth]
    assert set(first_reasons("quality_model", *unseen.to_pylist())) == {""}


def test_perplexity(tmp_path: Path) -> None:
    """Unlike text is dropped; a text without a word and, without a model, every text is kept."""
    (tmp_path / "zh.txt").write_text("\n".join(CHINESE), encoding="utf-8")
    model = training.train_on_paths([tmp_path / "zh.txt"], "zh", ngram_model.Params(bits=14))
    model.save(tmp_path / "zh.safetensors")
    texts = (*CHINESE, "我想买一台便宜的电脑", "!", "")
    perplexities = model.perplexities(pa.array(texts, pa.large_string()))
    for keep, bound in (("head", model.bounds[0]), ("middle", model.bounds[1]), ("tail", np.inf)):
        expected = ["too_high" if value > bound else "" for value in perplexities]
        reasons = first_reasons("perplexity", *texts, language="zh", file=tmp_path / "zh.safetensors", keep=keep)
        assert reasons == expected
        assert reasons[-3:] == (["", "", ""] if keep == "tail" else ["too_high", "", ""])
    limit = float(perplexities[0])
    bounded = {"file": tmp_path / "zh.safetensors", "max_perplexity": limit}
    assert first_reasons("perplexity", *texts, language="zh", **bounded) == [
        "too_high" if value > limit else "" for value in perplexities
    ]
    assert set(first_reasons("perplexity", *texts, language="zh")) == {""}
    with pytest.raises(
        BadInput, match=r"no language model absent\. Train .*: python -m flows.language_model --language"
    ):
        first_reasons("perplexity", *texts, language="zh", file=Path("absent"))


def test_a_filter_of_bare_masks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    module = catalog.find(filtering.FILTERS, "length")
    monkeypatch.setattr(module, "drop_reasons", lambda signals, params: {"odd": signals.num_chars % 2 == 1})
    assert first_reasons("length", "ab", "abc") == ["", "odd"]


def test_the_first_reason_of_the_first_filter_wins() -> None:
    text = pa.array(["casino casino"], pa.large_string())
    for order in (["spam", "gopher_quality"], ["gopher_quality", "spam"]):
        filter_params = filtering.params_by_language({"en": Language(profile="en")}, order)
        profile = filtering.profile("en")
        measured = signals.measure(text, {"en": profile.stop_words}, profile.phrases)
        assert filtering.decide(measured, filter_params, text).reasons[0].split(".")[0] == order[0]


def test_profiles_hold_what_was_published() -> None:
    filter_params = filtering.params_by_language(
        {c: Language(profile=c) for c in ("en", "zh")}, ["gopher_quality", "gopher_repetition"]
    )
    english: Any = filter_params["en"]["gopher_quality"]
    chinese: Any = filter_params["zh"]["gopher_repetition"]
    assert (english.min_words, english.max_mean_word_length, english.min_alpha_word_ratio) == (50, 10, 0.8)
    assert (chinese.max_duplicate_line_ratio, chinese.max_duplicate_line_char_ratio) == (0.287, None)
    assert len(filtering.profile("zh").stop_words) == 22


@pytest.mark.parametrize(
    ("languages", "filters", "message"),
    [
        ({"en": {"profile": "en"}}, ["lenght"], "did you mean 'length'"),
        ({"en": {"profile": "eng"}}, ["length"], "no profile 'eng'.*available: en, zh"),
        ({"en": {"profile": "en", "changes": {"length": {"min_chars": 1}}}}, ["length"], "no 'min_chars'.*min_"),
        (
            {"en": {"profile": "en", "changes": {"length": {"min_words": -1}}}},
            ["length"],
            "min_words.*received -1",
        ),
        ({"en": {"profile": "en", "changes": {"c5": {}}}}, ["length"], "no filter 'c5'; available: blocklist"),
    ],
)
def test_mistakes_are_named(languages: dict[str, Any], filters: list[str], message: str) -> None:
    with pytest.raises(BadParams, match=message):
        filtering.params_by_language({code: Language(**section) for code, section in languages.items()}, filters)


def test_repetition_in_chinese() -> None:
    clean = (
        "镇上的图书馆收藏了许多旧书，人们在冬天的晚上围坐在窗边，一页一页地读给彼此听。没有人会问他们是为了什么而来，"
        "也没有人催他们回家。管理员是一位沉默的老人，他把每一本书的位置都记在心里，谁要找哪一本，只需说出作者的名字。"
        "春天来的时候，河水漫过了石桥，孩子们绕远路上学，顺便在图书馆里避雨，于是那里又热闹起来。"
    )
    chorus = "快来买我们的产品，质量好价格低。"
    phrase = "".join(f"{word}的时候我们" for word in "春夏秋冬雨雪风霜云雾")
    assert first_reasons("gopher_repetition", clean, language="zh") == [""]
    assert first_reasons("gopher_repetition", chorus * 12, language="zh") == ["top_3_gram"]
    assert first_reasons("gopher_repetition", phrase, language="zh") == ["top_2_gram"]
    assert first_reasons("gopher_repetition", clean + clean[:60], language="zh") == ["duplicate_5_gram"]


def languages_of(*texts: str) -> list[str]:
    stop_words = {code: filtering.profile(code).stop_words for code in ("en", "zh")}
    return [str(code) for code in signals.measure(pa.array(texts, pa.large_string()), stop_words, {}).language]


def test_a_title_in_another_script_does_not_change_the_language() -> None:
    chinese = (
        "他说《さくらのうた》是他最喜欢的歌。",
        "你聽過《ノルウェイの森》嗎？我很喜歡這本書。",
        "我在读《한국사》这本书。",
    )
    assert set(languages_of(*chinese)) == {"zh"}
    assert languages_of("彼は『三国志』を読んだ。", "오늘은 《三國志》를 읽었다.") == ["ja", "ko"]


def test_languages_in_han_characters() -> None:
    """Japanese by characters that only Japanese has, Korean by its particles; Cantonese and what is common are zh."""
    assert languages_of("図書館休館日", "駅前広場再開発計画", "気象庁発表大雨警報") == ["ja"] * 3
    assert languages_of("모든國民은法앞에平等하다", "大韓民國은民主共和國이다") == ["ko"] * 2
    assert (
        languages_of("你食咗飯未呀？", "佢哋話聽日唔返工", "大雨警報", "图书馆休馆通知", "圖書館開放時間") == ["zh"] * 5
    )
    assert languages_of("我昨天去了 Apple Store，买了 iPhone 15 Pro Max 和 AirPods Pro") == ["zh"]


MIXED = "The mill is at the end of the road. 磨坊在路的尽头。It is open to visitors. 参观的人可以进去。" * 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"en": {"length": {"max_words": 5}}}, "length.too_many_words"),  # the stricter of both languages
        ({"zh": {"language": {"mixed": "main"}}, "en": {"length": {"max_words": 5}}}, ""),  # Chinese is more than half
    ],
)
def test_text_in_two_languages_is_judged_by_both(changes: dict[str, Any], reason: str) -> None:
    languages = {code: Language(profile=code, changes=changes.get(code, {})) for code in ("en", "zh")}
    filter_params = filtering.params_by_language(languages, ["language", "length"])
    texts = pa.array([MIXED], pa.large_string())
    measured = signals.measure(texts, {code: filtering.profile(code).stop_words for code in languages}, {})
    assert filtering.decide(measured, filter_params, texts).reasons[0] == reason
    only_chinese = filtering.params_by_language({"zh": Language(profile="zh")}, ["language"])
    assert filtering.decide(measured, only_chinese, texts).reasons[0] == "language.uncertain_language"
