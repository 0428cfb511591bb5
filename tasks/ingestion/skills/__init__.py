"""What the small assistant can do, one file per skill: each draws questions with their answers, and follow-ups."""

from types import ModuleType

from tasks.ingestion.skills import arithmetic, calendar_time, letters, lists, number_words, refusals, small_talk, units

SKILLS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (arithmetic, calendar_time, letters, lists, number_words, refusals, small_talk, units)
}
