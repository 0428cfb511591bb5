"""What a component or a setting is worth: small models are trained with and without it, with several seeds.

  python -m flows.ablation curation.filters.spam curation.minhash sft.learning_rate=0.001,0.003

KEY takes a component out (an entry of a list or mapping, a switch, settings that may be null), or adds it where
params.yaml is without it. KEY=VALUE,VALUE tries values. Each change is one arm; all arms share one baseline,
params.yaml as it is, its seeds, and its test set. The command can be interrupted and repeated: what is complete is in
.run/ablation. Results: data/reports/ablation and MLflow, one run with a nested run for each arm and seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from flows import pipeline
from flows.proxies import arms, changes, runs
from flows.proxies.changes import Sections
from flows.runtime import arguments, command, embedded, spool, tracking, versioning
from flows.runtime import params as settings
from tasks import comparison
from tasks.errors import BadParams, UserError
from tasks.files import write_json
from tasks.reports import Report, Score

NAME, ARM, BASELINE, REPORTS = "ablation", "arm", "baseline", Path("data/reports")
PRIMARY = ("bits_per_byte", "multiple_choice_bits_per_byte.documents", "multiple_choice_bits_per_byte.numbers")
WITHOUT_TEXT = ("reward",)  # kinds of stages whose models are measured by what is trained with them
COST = ("train_documents", "weights", "tokens", "flops", "seconds")


Measured = tuple[comparison.Subject, dict[str, Any]]  # the items of one run, and its cost


@flow(name=NAME, flow_run_name=NAME)
def ablation(
    keys: list[str], num_seeds: int, to: str | None, rungs: int, max_test: int, margin: float
) -> dict[str, Any]:
    """Train and compare all arms; return the result as JSON values. Raises BadInput, BadParams, and what stages do."""
    baseline = changes.read_sections()
    own = arms_of(keys, baseline)
    with runs.exclusive(arms.WORK, "an ablation"):
        setup = _setup(own, baseline, to, rungs, max_test)
        pipeline.pipeline(to=arms.CURATION)  # from DVC's cache, where it is not up to date
        session, result = spool.Session(NAME), dict[str, Any]()
        tags = {"arms": ", ".join(own)}
        with tracking.following(), session.closing(lambda: tags, lambda: _describe(result)):
            summary = {"arms": len(own), "seeds": num_seeds}
            with session.recording(NAME, summary, {}, arms.WORK / "steps.csv") as record:
                measured, failed = measure({BASELINE: baseline, **own}, setup, num_seeds, session)
                result |= summarize(measured, failed, setup, num_seeds, margin)
                result["arms"].sort(key=lambda arm: list(own).index(arm["change"]))
                _write(result)
            record.write("finished")
    return result


def measure(
    all_arms: Mapping[str, Sections], setup: arms.Settings, num_seeds: int, session: spool.Session
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """The items and costs of each arm by seed, and the arms that failed, with the reason; the baseline may not fail."""
    measured, failed = dict[str, list[Measured]](), dict[str, str]()
    for label, sections in all_arms.items():
        try:
            measured[label] = [_measure(label, sections, setup, seed, session) for seed in range(num_seeds)]
        except UserError as error:
            if label == BASELINE:
                raise
            failed[label] = f"the run failed: {error}"
            print(f"{label}: {failed[label]}", file=sys.stderr, flush=True)
    return measured, failed


def arms_of(keys: Sequence[str], baseline: Sections) -> dict[str, Sections]:
    """Label -> sections of each arm; a value that params.yaml has already is the baseline. Raises BadParams."""
    stages = [name for name in settings.stages() if name not in (*settings.OPTIONAL, "evaluation")]
    own = dict[str, Sections]()
    for change in (change for key in keys for change in changes.of_text(key, baseline, stages)):
        before, after = (changes.settings(change.stage, one, change.label) for one in (baseline, change.sections))
        if before == after:
            print(f"{change.label} is the baseline, because params.yaml has this value.", file=sys.stderr, flush=True)
        else:
            own[change.label] = change.sections
    if not own:
        raise BadParams(f"{' '.join(keys)}: params.yaml has these values already, so that nothing would be compared")
    return own


def _setup(own: Mapping[str, Sections], baseline: Sections, to: str | None, rungs: int, max_test: int) -> arms.Settings:
    order = versioning.stages()
    training = [stage for stage in order if settings.is_training(stage)]
    named = settings.named_stages()
    measured = [stage for stage in training if named.get(stage, stage) not in WITHOUT_TEXT]
    changed = [stage for stage in training for one in own.values() if one.get(stage) != baseline.get(stage)]
    last = to or (max(changed, key=order.index) if changed else arms.PRETRAIN)
    if last not in measured:
        raise BadParams(f"--to {last}: no stage of this name trains a model that writes text: {', '.join(measured)}")
    if arms.PRETRAIN in training and changes.settings(arms.PRETRAIN, baseline, "params.yaml").objective != "causal":
        raise BadParams("pretrain.objective: an ablation measures how well models predict the next token (causal)")
    needed = [stage for stage in versioning.stages(last) if stage in training]
    if unused := [stage for stage in dict.fromkeys(changed) if stage not in needed]:
        raise BadParams(
            f"{last} does not need the stage {unused[0]}, so that its change would have no effect. Set "
            f"--to {unused[0]}, or run one command for each of them."
        )
    metrics = {"perplexity": {"model": last, "max_tokens": 1_000_000_000, "max_baseline_tokens": 1000},
               "multiple_choice": {"num_questions": 400}}  # fmt: skip
    setup = arms.Settings(last, tuple(needed), rungs, max_test, metrics, baseline, {})
    arms.check_proxy(setup)
    code = arms.code_hashes([*arms.DATA_STAGES, *needed, "evaluation"])
    return replace(setup, code=code)


def _measure(label: str, sections: Sections, setup: arms.Settings, seed: int, session: spool.Session) -> Measured:
    """The items and the cost of one arm with one seed, as a nested run of MLflow."""
    data, facts = arms.tokens(sections, setup)
    folder, cost = arms.trained(sections, setup, seed, data)
    subject, seconds = arms.evaluated(folder, setup)
    cost["seconds"] += seconds + (facts["seconds"] if seed == 0 else 0)
    cost |= {"train_documents": facts["train_documents"], "test": facts["test"]}
    means = {name: _mean(items) for (name, _), items in subject.items.items()}
    report = Report(ARM, counts={key: int(cost[key]) for key in ("weights", "tokens", "train_documents")})
    report.scores = {name: round(value, 6) for name, value in means.items()}
    report.write(folder / "reports")
    record = session.new_record(ARM, {"change": label, "seed": seed}, {"arm": label}, folder / "checkpoints/steps.csv")
    record.copy_results(folder)
    record.write("finished")
    print(f"{label}, seed {seed}: {_brief(means)}, {cost['seconds']:.0f} s", file=sys.stderr, flush=True)
    return subject, cost


def _brief(means: Mapping[str, float]) -> str:
    """The primary scores in words, and how many there are besides."""
    shown = [name for name in PRIMARY if name in means] or list(means)[:1]
    others = [f"{len(means) - len(shown)} other scores"] if len(means) > len(shown) else []
    return ", ".join([*(f"{name} {means[name]:.4f}" for name in shown), *others])


def summarize(
    measured: Mapping[str, Sequence[Measured]], failed: Mapping[str, str], setup: arms.Settings, num_seeds: int,
    margin: float,
) -> dict[str, Any]:  # fmt: skip
    """The effects of all arms on all metrics that the baseline has measured, and their cost, as JSON values.

    failed: the arms that could not be measured, with the reason.
    """
    subjects = {label: [subject for subject, _ in own] for label, own in measured.items()}
    names = sorted({name for name, _ in subjects[BASELINE][0].items})
    preferred = PRIMARY if setup.to == arms.PRETRAIN else (*PRIMARY[1:], PRIMARY[0])
    primary = next((name for name in preferred if name in names), names[0])
    rows: dict[str, dict[str, Any]] = {
        label: {"change": label, "effects": {}, "left_out": {}, **_cost(own)} for label, own in measured.items()
    }
    ratios = dict[str, float | None]()
    for name in names:
        items = {label: [one.items.get((name, setup.to), {}) for one in own] for label, own in subjects.items()}
        ratios[name] = comparison.signal_to_noise(list(items.values()))
        baseline = items.pop(BASELINE)
        effects, left_out = comparison.effects(name, baseline, items, margin)
        for effect in effects:
            rows[effect.arm]["effects"][name] = effect.as_json()
        for label, reason in left_out.items():
            rows[label]["left_out"][name] = reason
    base = rows.pop(BASELINE)
    nothing = dict.fromkeys(COST, 0.0)
    rows |= {
        label: {"change": label, "effects": {}, "left_out": dict.fromkeys(names, reason), **nothing}
        for label, reason in failed.items()
    }
    return {
        "arms": list(rows.values()), "baseline": base, "metrics": [primary, *(n for n in names if n != primary)],
        "primary": primary, "signal_to_noise": ratios, "seeds": num_seeds, "to": setup.to,
        "test": measured[BASELINE][0][1]["test"],
        "proxy": f"a proxy of {base['weights']:,.0f} weights" if setup.rungs else "the models of params.yaml",
    }  # fmt: skip


def _cost(own: Sequence[tuple[comparison.Subject, Mapping[str, Any]]]) -> dict[str, float]:
    """Of all seeds together; weights, tokens and documents are those of one run."""
    costs = [cost for _, cost in own]
    result = {name: float(costs[0][name]) for name in ("weights", "tokens", "train_documents")}
    return result | {name: round(sum(float(cost[name]) for cost in costs), 2) for name in ("flops", "seconds")}


def _mean(items: Mapping[Any, Any]) -> float:
    return float(sum(item.score for item in items.values()) / len(items))


def _write(result: Mapping[str, Any]) -> None:
    """Write data/reports/ablation/ablation.md and .json, and the report for MLflow."""
    report, primary = Report(NAME, counts={"arms": len(result["arms"])}), result["primary"]
    for arm in result["arms"]:
        if (effect := arm["effects"].get(primary)) and effect["low"] is not None:
            score = Score(effect["difference"], effect["low"], effect["high"], effect["items"])
            report.scores.setdefault(primary, {})[arm["change"]] = score
    report.write(REPORTS)
    (REPORTS / NAME / f"{NAME}.md").write_text(comparison.effects_markdown(result), encoding="utf-8")
    write_json(REPORTS / NAME / f"{NAME}.json", result)


def _describe(result: Mapping[str, Any]) -> dict[str, Any]:
    if not result:
        return {}
    outcomes = [arm["effects"].get(result["primary"], {}).get("outcome") for arm in result["arms"]]
    counts = {name: float(outcomes.count(name)) for name in ("better", "equivalent", "worse")}
    return {"title": f"{NAME}: {len(outcomes)} arms on {result['primary']}", "metrics": counts}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.parser("flows.ablation", __doc__)
    add = parser.add_argument
    add("keys", metavar="KEY", nargs="+", help="curation.minhash, curation.filters.spam, sft.learning_rate=0.001,0.003")
    add("--seeds", type=int, choices=range(2, 21), default=3, metavar="N", help="runs of each arm (default 3)")
    add("--to", metavar="STAGE", help="train up to this stage (default: the last one that is changed, or pretrain)")
    add("--rungs", type=int, choices=range(1, 6), default=3, help="size of the proxy: this rung below the model of "
        "params.yaml, as in flows.ladder (default 3: 42 %% of its width and layers)")  # fmt: skip
    add("--full-size", action="store_true", help="train the models of params.yaml instead of a proxy")
    add(
        "--max-test",
        type=arguments.count,
        default=2000,
        metavar="N",
        help="test rows of each kind that are read (default 2000)",
    )
    add("--margin", type=arguments.margin, help="differences below it are equivalent (default: promotion.margin)")
    arguments.add_json(parser)
    parsed = parser.parse_args(argv)
    if parsed.max_test < 1:
        parser.error(f"--max-test: expected at least 1 row, not {parsed.max_test}")
    return parsed


def run(parsed: argparse.Namespace) -> None:
    """Run the ablation and print its result."""
    loaded: Any = settings.load("promotion")
    margin = loaded.margin if parsed.margin is None else parsed.margin
    result: dict[str, Any] = embedded.flow_run(
        lambda: _check(parsed.keys),
        lambda: ablation(
            parsed.keys, parsed.seeds, parsed.to, 0 if parsed.full_size else parsed.rungs, parsed.max_test, margin
        ),
    )
    print(json.dumps(result, ensure_ascii=False) if parsed.json else comparison.effects_markdown(result))


def _check(keys: Sequence[str]) -> None:
    """Raise BadParams for changes that are none, and BadInput for test sets that the measurement could not read."""
    arms_of(keys, baseline := changes.read_sections())
    if "evaluation" in baseline:
        settings.check_files("evaluation", settings.load("evaluation"))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parsed = _parse(argv)
    return command.guarded(lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
