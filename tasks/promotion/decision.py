"""Whether a model may become the candidate, and whether it replaces the champion."""

from dataclasses import dataclass

from tasks.comparison import Settings, Subject, Verdict, primary, verdicts

# A champion that another one must beat does not exist before the first promotion.
FIRST = "there was no champion before it"
DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class Decision:
    """problems: what forbids any alias; verdict: the comparison with the champion on the primary metric."""

    verdict: Verdict
    problems: tuple[str, ...] = ()

    @property
    def is_candidate(self) -> bool:
        """Whether the model has a passing report."""
        return not self.problems

    @property
    def promotes(self) -> bool:
        """Whether the model replaces the champion."""
        return self.is_candidate and self.verdict.outcome == "better"

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        return "; ".join(self.problems) if self.problems else self.verdict.reason


def decide(candidate: Subject, champion: Subject | None, settings: Settings = DEFAULTS, digest: str = "") -> Decision:
    """Decide about `candidate`, whose `model` is set. digest: sha256 of the manifest of the model that is meant.

    A tie does not promote: the whole interval of the difference must be above 0, and its test must agree.
    """
    problems = tuple(obstacles(candidate, settings, digest))
    if champion is None:
        name = verdicts.measured_primary(candidate, settings.primary) or ""
        return Decision(Verdict("better", name, FIRST), problems)
    return Decision(primary(candidate, champion, settings), problems)


def obstacles(candidate: Subject, settings: Settings, digest: str = "") -> list[str]:
    """What is wrong with the report of a model, in sentences; empty for a passing report about these very bytes."""
    report, model = candidate.report, candidate.model or ""
    problems = []
    if not candidate.measured:
        problems.append("its report does not state which model was measured; run evaluation again")
    elif digest and candidate.digest_of(model) != digest:
        problems.append(
            f"its report measured another model {model} ({candidate.digest_of(model)[:12] or 'none'} instead of "
            f"{digest[:12]}): evaluation has not run, or has failed, since the model was trained"
        )
    if "gates_failed" not in report:
        problems.append("its report does not say whether its gates passed")
    elif report["gates_failed"]:
        sentences = [str(note) for note in report.get("notes", []) if str(note).startswith("GATE FAILED")]
        problems.append(f"{report['gates_failed']} gates failed: {'; '.join(sentences)}")
    if problem := verdicts.contamination(candidate):
        problems.append(problem)
    if verdicts.measured_primary(candidate, settings.primary) is None:
        problems.append(f"no primary metric was measured ({', '.join(settings.primary)})")
    return problems
