"""Drop advertising, by rules that need no training data: what a text asks for, how often, and whom it sends to.

The phrases are listed in the profiles, English and Chinese. A rule needs a number and a density, so that a long article
that mentions a telephone number or a casino stays. A classifier trained on labeled text (flows/classifier.py) is asked
as well where there is one.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array, Int64Array
from tasks.curation.classifier import classifier
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict


class Params(BaseModel, frozen=True, extra="forbid"):
    """Densities are per content word; a rule applies where both its number and its density are exceeded."""

    max_links: int = Field(3, ge=0)
    max_link_density: float = Field(0.1, ge=0)
    max_contacts: int = Field(0, ge=0)  # telephone numbers, chat accounts and e-mail addresses beside an offer
    max_contact_density: float = Field(0.02, ge=0)
    max_calls_to_action: int = Field(2, ge=0)
    max_call_density: float = Field(0.02, ge=0)
    max_offers: int = Field(2, ge=0)
    max_offer_density: float = Field(0.02, ge=0)
    max_gambling: int = Field(1, ge=0)
    max_gambling_density: float = Field(0.01, ge=0)
    stuffing_min_words: int = Field(50, ge=0)
    max_top_word_ratio: float = Field(0.2, ge=0, le=1)
    file: Path | None = None  # a classifier whose positive label is spam
    max_probability: float = Field(0.5, ge=0, le=1)


def needs_texts(params: Params) -> bool:
    """Whether there is a classifier to ask."""
    return params.file is not None


def look(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """The probability of each text to be spam."""
    assert params.file is not None
    return {"probability": classifier.load_cached(params.file).probabilities(texts)}


def drop_reasons(signals: Signals, params: Params, looked: Mapping[str, Float64Array] | None = None) -> Reasons:
    """The surest rule first."""
    words = np.maximum(signals.num_content_words, 1).astype(np.float64)
    contacts = signals.num_phones + signals.num_handle + signals.num_emails
    pitch = signals.num_offer + signals.num_call_to_action + signals.num_gambling

    def rule(counts: Int64Array, most: int, density: float) -> Verdict:
        return Verdict((counts > most) & (counts / words > density), counts / words, bound=density)

    contact = rule(contacts, params.max_contacts, params.max_contact_density)
    stuffed = (signals.top_word_ratio > params.max_top_word_ratio) & (words >= params.stuffing_min_words)
    probability = looked["probability"] if looked else np.zeros(len(words))
    return {
        "gambling": rule(signals.num_gambling, params.max_gambling, params.max_gambling_density),
        "offer_with_contact": Verdict(contact.dropped & (pitch > 0), contact.values, "", contact.bound),
        "repeated_offers": rule(signals.num_offer, params.max_offers, params.max_offer_density),
        "repeated_calls": rule(signals.num_call_to_action, params.max_calls_to_action, params.max_call_density),
        "links": rule(signals.num_urls, params.max_links, params.max_link_density),
        "keyword_stuffing": Verdict(stuffed, signals.top_word_ratio, "top_word_ratio", params.max_top_word_ratio),
        "classifier": Verdict(probability > params.max_probability, probability, bound=params.max_probability),
    }
