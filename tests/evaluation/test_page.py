import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation import funnel, page, score_table
from tasks.files import with_version, write_json
from tasks.pages import charts
from tasks.pipeline_stages import PipelineStage, read_stages
from tasks.reports import Report, Score, read_csv, write_csv
from tests.browser import CHROMIUM, browser
from tests.sources import ROOT

STAGES = read_stages(ROOT / "dvc.yaml", ROOT / "params.yaml")


class Tags(HTMLParser):
    """Collects the tags of a page and the addresses that it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    Report("ingestion", counts={"read": 1200, "kept": 1190, "quarantined": 10}, notes=["10 were <broken>"]).write(
        tmp_path
    )
    rows = [{"step": i, "loss": 5 / (i + 1), "learning_rate": 0.1, "validation_loss": None} for i in range(9)]
    Report("pretrain", scores={"loss": 0.5}, tables={"steps": rows}).write(tmp_path)
    score = Score(0.75, 0.7, 0.8, 400)
    by_model = {"sft": score, "ppo": Score(0.95, 0.9, 0.97, 400)}
    scores: dict[str, Any] = {
        "perplexity": Score(98.6, 90, 105, 200, 890, "unigram"),
        "unigram_perplexity": Score(890, 800, 950, 200),
        "bigram_perplexity": Score(117, 110, 120, 200),
        "exact_match": by_model,
        "gold": by_model,
        "gold_gain": {"ppo": Score(0.2, 0.1, 0.3, 400)},
        "gold_gain_standard_errors": {"ppo": 12.3},
        "kl": {"sft": Score(0, 0, 0, 400), "ppo": Score(0.8, 0.7, 0.9, 400)},
        "multiple_choice": {"numbers": by_model, "chance": 0.25},
        "win_rate": {"ppo_vs_sft": {"gold": {"wins": score, "ties": score, "length_controlled": score}}},
        "reward_accuracy_by_reason": {"style": score},
        "gates_checked": 3,
        "gates_failed": 0,
    }
    samples = [{"prompt": "<script>alert(1)</script>", "expected": "一", "sft": "one & only"}]
    curve = [{"step": i, "score": i, "gold": 0.5 + i / 100, "kl": i / 10} for i in range(5)]
    Report("evaluation", scores=scores, tables={"samples": samples, "over_optimization": curve}).write(tmp_path)
    return tmp_path


def test_the_page_contains_all_results_and_loads_nothing(reports: Path) -> None:
    path = reports / "evaluation" / "report.html"
    page.write(reports, path, STAGES)
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.addresses == []
    assert "script" not in tags.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "10 were &lt;broken&gt;" in text
    assert "9.0 times below the unigram model (890); bigram model: 117" in text
    assert "All 3 gates passed." in text
    assert tags.tags.count("polyline") == 3 + 1, "score, gold and kl; the loss of pretrain"


def test_a_second_stage_of_a_kind_has_its_own_section(reports: Path) -> None:
    """`mid` of the kind sft stands between pretrain and sft: in the list of stages and in the charts."""
    Report("mid", scores={"loss": 0.25}).write(reports)
    stages = [
        PipelineStage(name, kind, True, depth)
        for depth, (name, kind) in enumerate({"pretrain": "pretrain", "mid": "sft", "sft": "sft"}.items())
    ]
    page.write(reports, reports / "page.html", stages)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert text.index("<h3>pretrain</h3>") < text.index(f"<h3>mid</h3><p>{page.DESCRIPTIONS['sft']}")
    score = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    body = {"kl": {"sft": score, "new": score, "mid": score}}
    (comparison,) = page.comparisons(body, [stage.name for stage in stages], "sft")
    assert [name for name, _ in comparison.rows] == ["mid", "sft", "new"]


def test_training_and_validation_share_a_chart(tmp_path: Path) -> None:
    rows = [{"step": i, "loss": 5.0 - i, "validation_loss": 5.5 - i if i else None, "accuracy": i} for i in range(3)]
    Report("sft", tables={"steps": rows}).write(tmp_path)
    section = page.stage_section(tmp_path, PipelineStage("sft", "sft", True, 1))
    assert [title for title, _ in section.figures] == ["loss (lower is better)", "accuracy"]
    assert section.figures[0][1].count("<polyline") == 2
    assert ">validation</text>" in section.figures[0][1]


def test_equal_scores_are_one_sentence_instead_of_a_chart(reports: Path) -> None:
    score = Score(1.0, 0.9, 1.0, 40)
    Report(
        "evaluation", scores={"exact_match": {"sft": score, "dpo": score}, "gates_checked": 0, "gates_failed": 0}
    ).write(reports)
    page.write(reports, reports / "page.html", STAGES)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert "Exact match: 1 for each of sft, dpo." in text
    assert "<h3>Exact match</h3>" not in text


def test_the_funnel_counts_each_kind_of_records(tmp_path: Path) -> None:
    Report("ingestion", counts={"documents": 9, "conversations": 5, "preferences": 0}).write(tmp_path)
    counts = {
        "read": 9,
        "kept": 6,
        "conversations_read": 5,
        "conversations_kept": 4,
        "conversations_exact_duplicate": 1,
    }
    steps = [{"step": "read", "documents": 9}, {"step": "spam", "documents": 9}, {"step": "minhash", "documents": 6}]
    Report("curation", counts=counts, tables={"funnel": steps}).write(tmp_path)
    sizes = {"documents_train_num_documents": 5, "documents_test_num_documents": 1, "documents_train_num_tokens": 70}
    Report("tokenization", counts=sizes).write(tmp_path)
    documents, conversations = funnel.read(tmp_path)
    assert documents == funnel.Row("documents", 9, 6, {"train": 5, "validation": 0, "test": 1}, 70, {"minhash": 3})
    assert (conversations.kept, conversations.dropped) == (4, {"exact_duplicate": 1})
    assert funnel.read(tmp_path / "none") == []


def test_the_verdict_and_the_origin_of_a_run(reports: Path) -> None:
    verdict = page.Verdict("promotion: better", True, "Version 1", [("gold.sft", 0.5, 0.25, "better", "<p>")])
    page.write(reports, reports / "page.html", STAGES, "sft", verdict, {"commit": "c0ffee"})
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert (
        text.index("Promotion: better") < text.index("All 3 gates passed.") < text.index("Compared with the champion")
    )
    assert "<td>0.500<td>0.250<td><b>better</b><td>&lt;p&gt;" in text
    assert "commit: c0ffee" in text
    assert "<h2>Scores</h2>" in text
    assert "<th>baseline<th>champion<th>verdict" in text
    assert "<td>890 <small>unigram</small>" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_the_page_in_a_browser(reports: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It shows its charts, fits a phone, follows the dark mode, requests nothing and leaves an empty console."""
    path = reports / "page.html"
    page.write(reports, path, STAGES)
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        tab.open(path.as_uri(), "document.readyState === 'complete'")
        assert tab.run("document.querySelectorAll('svg .dot').length") == 3 + 4 * 2 + 1, (
            "perplexity, four metrics of two models, a reason"
        )
        assert tab.run("document.querySelector('svg').getBoundingClientRect().width") > 100
        assert "1 190" in tab.run("document.body.innerText").replace("\u202f", " ")
        assert tab.run("performance.getEntriesByType('resource').length") == 0
        background = "getComputedStyle(document.body).backgroundColor"
        light = tab.run(background)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert tab.run(background) != light
        tab.size(390, 844)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert tab.errors == []


def test_failed_gates_are_the_first_thing_to_read(reports: Path) -> None:
    body = {"gates_checked": 2, "gates_failed": 1, "notes": ["GATE FAILED: max_kl"]}
    write_json(reports / "evaluation.json", with_version("report", body))
    page.write(reports, reports / "page.html", STAGES)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert text.index("1 of 2 gates failed.") < text.index("GATE FAILED: max_kl") < text.index("The stages")


def test_the_weakest_skill_is_shown_beside_the_strongest(reports: Path) -> None:
    def score(value: float) -> dict[str, float]:
        return {"value": value, "low": value, "high": value, "n": 4}

    lowest = {"sft": 0.75, "ppo": 0.25}
    by_model = {name: {"lists": score(low), "units": score(0.5), "letters": score(1)} for name, low in lowest.items()}
    body = {
        "exact_match_by_skill": by_model, "exact_match_by_turn": {"ppo": {"1": score(1)}},
        "refused": {"ppo": score(1)}, "gates_checked": 0, "gates_failed": 0,
    }  # fmt: skip
    write_json(reports / "evaluation.json", with_version("report", body))
    write_csv(reports / "evaluation/wrong_answers.csv", [{"model": "ppo", "prompt": "3 <b>", "answer": "4"}])
    shown = page.assistant_scores(body, ["sft", "ppo", "evaluation"])
    assert shown is not None
    assert (shown.model, shown.weakest[0], shown.strongest[0]) == ("ppo", "lists", "letters")
    assert [title for title, _ in shown.charts] == [
        "Exact match by skill",
        "Unanswerable questions refused; others wrongly refused",
    ]
    page.write(reports, reports / "page.html", STAGES)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert "Weakest skill: lists" in text
    assert "3 &lt;b&gt;" in text
    assert page.assistant_scores({}, ["sft"]) is None


def test_the_scores_have_baselines_and_the_champion_beside_them() -> None:
    def score(value: float, **more: Any) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9, **more}

    body = {
        "perplexity": score(9, baseline=99.0, baseline_name="unigram"),
        "gold": {"sft": score(0.5), "ppo": score(0.75)},
        "gold_gain": {"ppo": score(0.25)},
        "kl_k1": {"ppo": score(0.25)},
        "exact_match_by_skill": {"ppo": {"lists": score(0.5)}, "sft": {"lists": score(0.25)}},
        "win_rate": {"ppo_vs_sft": {"gold": {"wins": score(0.6), "ties": score(0.1)}}},
        "gates_checked": 3,
    }
    rows = score_table.rows(body, ["pretrain", "sft", "ppo"], "sft", {"gold.ppo": (0.7, "better")})
    by_name = {row.name: row for row in rows}
    baselines = {name: (row.score.baseline, row.score.baseline_name) for name, row in by_name.items()}
    assert baselines["perplexity"] == (99, "unigram")
    assert baselines["gold.ppo"] == (0.5, "sft")
    assert baselines["gold_gain.ppo"] == (0, "no difference")
    assert baselines["kl_k1.ppo"] == (0, "sft")
    assert baselines["exact_match_by_skill.ppo.lists"] == (0.25, "sft")
    assert baselines["win_rate.ppo_vs_sft.gold.wins"] == (0.5, "chance")
    assert baselines["win_rate.ppo_vs_sft.gold.ties"] == (None, "")
    assert (by_name["gold.ppo"].champion, by_name["gold.ppo"].outcome) == (0.7, "better")
    assert not by_name["gates_checked"].has_interval
    assert [row.name for row in rows if row.is_main] == ["perplexity", "gold.ppo", "gold_gain.ppo", "kl_k1.ppo"]


def test_own_test_sets_are_among_the_first_numbers(reports: Path) -> None:
    score = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 40, "baseline": 0.5, "baseline_name": "majority"}
    other = {**score, "value": 0.75}
    about = {"items": 40, "items_not_used": 3_000, "params": {"type": "multiple_choice"}}
    by_group = {"sft": {"初中": score}, "ppo": {"初中": score}}
    quiz = {"accuracy": {"sft": other, "ppo": score}, "accuracy_by_group": by_group, "about": about}
    body = {"benchmarks": {"语文 quiz": quiz}, "gates_checked": 0, "gates_failed": 0, "notes": list("abcdefg")}
    write_json(reports / "evaluation.json", with_version("report", body))
    page.write(reports, reports / "page.html", STAGES)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert "<span>语文 quiz: accuracy of ppo</span><strong>0.250</strong>" in text
    assert "<p>40 of 3,040 items; 0.500 for majority</p>" in text
    assert "<tr><td>语文 quiz · accuracy · ppo<td><b>0.250</b>" in text
    assert "3 more notes" in text
    rows = page.score_rows(body, STAGES, "sft")
    assert [row.name for row in rows if row.is_main] == ["benchmarks.语文 quiz.accuracy.ppo"]


def test_long_answers_are_folded(reports: Path) -> None:
    """A line of a file that an earlier version wrote may have fewer cells than columns."""
    text = f"prompt,sft,skill\nWhy?,{'x' * 250 + 'y' * 60}\n"
    (reports / "evaluation/samples.csv").write_text(text, encoding="utf-8")
    page.write(reports, reports / "page.html", STAGES)
    text = (reports / "page.html").read_text(encoding="utf-8")
    assert f"{'x' * 250} <details><summary>60 more characters</summary>{'y' * 60}</details>" in text
    assert "</details><td></tr>" in text


def test_flat_numbers_and_scores() -> None:
    score = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    body = {"gold": {"sft": score}, "counts": {"read": 3}, "loss": 0.5, "notes": ["x"], "word": "y"}
    assert list(score_table.flat_numbers(body)) == [("gold.sft", score), ("read", 3), ("loss", 0.5)]


def test_columns_that_never_change_are_no_curves(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.0, "rate": 0.1, "gold": None},
        {"step": 2, "loss": "nan", "rate": 0.1, "gold": 0.5},
    ]
    write_csv(tmp_path / "steps.csv", [*rows, {"step": 3, "loss": 1.0, "rate": 0.1, "gold": 0.6}])
    curves = dict(page.numeric_columns(read_csv(tmp_path / "steps.csv")))
    assert curves == {"loss": [(1, 2.0), (3, 1.0)], "gold": [(2, 0.5), (3, 0.6)]}
    assert read_csv(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.0, "1"), (12345, "12\u202f345"), (1234.5, "1\u202f234"), (117.4, "117"), (98.64, "98.6"),
     (0.9876, "0.988"), (-0.25, "-0.250"), (0.00001, "1.0e-05")],
)  # fmt: skip
def test_numbers_as_a_person_reads_them(value: float, text: str) -> None:
    assert charts.format_number(value) == text


def test_charts_stay_inside_their_frame() -> None:
    score = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 10}
    flat = {"value": 0.5, "low": 0.5, "high": 0.5, "n": 10}
    for chart in (
        charts.line_chart({"loss": [(0, 1.0), (5, -3.0), (9, 2.0)], "validation": [(9, 1.5)]}),
        charts.line_chart({"loss": [(0, 1.0)]}),
        charts.interval_chart([("a", score), ("b", flat)], 0.25, "chance"),
        charts.interval_chart([("only", flat)]),
    ):
        xs = [float(x) for x in re.findall(r'(?:cx|x1|x2|x)="([-\d.]+)"', chart)]
        assert min(xs) >= 0
        assert max(xs) <= charts.WIDTH
    assert charts.line_chart({}) == charts.interval_chart([]) == ""


def test_a_chart_of_many_long_names_shows_each_name_and_interval() -> None:
    """The colors of the page repeat after four rows, and the names take as much of the width as they need."""
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    chart = charts.interval_chart([(f"number_words_{number}", score) for number in range(8)])
    assert re.findall(r'whisker (s\d)"', chart) == ["s0", "s1", "s2", "s3"] * 2
    ends = {int(x) for x in re.findall(r'class="name" x="(\d+)"', chart)}
    assert ends == {charts.CHARACTER_WIDTH * len("number words 0")}
