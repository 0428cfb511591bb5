"""Positions of which the self-check, on a short text, cannot say what they are on long ones.

- Rotary positions of the kind longrope (Phi-3) are others in a text that is longer than the original context, so a text
  may not be padded or share a row with a longer one.
- Those of the kind dynamic depend on the longest text that the model has read since it was loaded. Then a text has no
  numbers of its own.
- Llama 4 scales the attention of tokens by their place in the row, from a place that `floor_scale` sets.
- ALiBi (BLOOM, MPT, Falcon) adds a multiple of the place in the row to each score. In 16 bits, that is only exact near
  the start of the row, so every text begins a row.
"""

from dataclasses import replace
from typing import Any

from tasks.causal.methods import Methods
from tasks.errors import BadModel

ALIBI_TYPES = ("bloom", "mpt")


def restricted(config: Any, methods: Methods, max_length: int | None, notes: list[str]) -> Methods:
    """`methods` without those that the positions of the model rule out for texts of `max_length` tokens (None: any).

    The reasons are added to `notes`. Raises BadModel if no method is right.
    """
    config = config.get_text_config()
    if config.model_type in ALIBI_TYPES or getattr(config, "alibi", False):
        notes.append("texts do not share rows, which is slower, because ALiBi is exact only near the start of a row")
        return replace(methods, packing="none", pairs="separate")
    scale = getattr(config, "floor_scale", None) if getattr(config, "attn_temperature_tuning", False) else None
    if scale and (max_length is None or max_length >= scale):
        notes.append(
            "texts do not share rows, which is slower, because the model scales the attention of tokens by their place "
            f"in the row, from the place {scale} on"
        )
        return replace(methods, packing="none", pairs="separate", generation="model")
    for kind, context in rotary_kinds(config):
        if max_length is not None and max_length <= context:
            continue
        if kind == "dynamic":
            length = "without a limit" if max_length is None else f"of {max_length} tokens"
            raise BadModel(
                f"the rotary positions of this model are of the kind dynamic: in texts of more than {context} tokens "
                "they depend on the other texts that the model has read, and the stage reads texts "
                f"{length}. Set the maximum length (sequence_length, max_length) to at most {context}, or choose a "
                "base with positions of the kind yarn or longrope."
            )
        if kind == "longrope":
            notes.append(
                "texts neither share rows nor are padded, which is slower, because the positions of this model "
                f"(longrope) are others in texts of more than {context} tokens"
            )
            return replace(methods, packing="none", pairs="separate", generation="model", equal_lengths=True)
    return methods


def rotary_kinds(config: Any) -> list[tuple[str, int]]:
    """The kind of each set of rotary positions, and the number of tokens up to which they are the original ones."""
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = [parameters] if "rope_type" in parameters else [one for one in parameters.values() if isinstance(one, dict)]
    keys = ("original_max_position_embeddings", "max_position_embeddings")
    context: int = next((value for key in keys if (value := getattr(config, key, None))), 0)
    return [
        (str(one.get("rope_type")), int(one.get("original_max_position_embeddings") or context))
        for one in sets
        if one.get("rope_type") in ("dynamic", "longrope")
    ]
