"""Drop advertising by rules and by a trained spam classifier.

The rules count listed phrases (in the profiles, for English and Chinese), links and contacts. A rule needs a minimum
number and a minimum density, so that a long article that mentions a telephone number or a casino is kept. A classifier
for Chinese and English is shipped (`file: shipped`); flows/classifier.py trains one on your labeled text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array, Int64Array
from tasks.curation.classifier import classifier, spam_examples
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict


class Params(BaseModel, frozen=True, extra="forbid"):
    """A rule applies if its number and its density (number per content word) are both exceeded."""

    max_links: int = Field(3, ge=0, description="Greatest number of web addresses.")
    max_link_density: float = Field(0.1, ge=0, description="Greatest number of web addresses per word.")
    max_contacts: int = Field(
        0,
        ge=0,
        description="Greatest number of telephone numbers, chat accounts and e-mail addresses in a text that also "
        "contains an offer, a call to action or a gambling phrase.",
    )
    max_contact_density: float = Field(0.02, ge=0, description="Greatest number of contacts per word.")
    max_calls_to_action: int = Field(
        2, ge=0, description="Greatest number of listed calls to action, such as 'click here'."
    )
    max_call_density: float = Field(0.02, ge=0, description="Greatest number of calls to action per word.")
    max_offers: int = Field(2, ge=0, description="Greatest number of listed offers, such as 'free gift'.")
    max_offer_density: float = Field(0.05, ge=0, description="Greatest number of offers per word.")
    max_gambling: int = Field(1, ge=0, description="Greatest number of listed gambling phrases, such as 'jackpot'.")
    max_gambling_density: float = Field(0.05, ge=0, description="Greatest number of gambling phrases per word.")
    stuffing_min_words: int = Field(
        50, ge=0, description="Least number of words of a text to which `max_top_word_ratio` applies."
    )
    max_top_word_ratio: float = Field(
        0.2, ge=0, le=1, description="Greatest share of words that are the most frequent word of at least 4 letters."
    )
    file: Literal["shipped"] | Path | None = Field(
        "shipped",
        description="File of a classifier whose positive label means spam; `shipped` is the one of this project for "
        "Chinese and English; null applies only the other rules.",
    )
    max_probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Greatest probability of spam with which a document is kept. `make bench NAME=spam` measures which "
        "share of honest text the shipped classifier drops with this value.",
    )


def needs_texts(params: Params) -> bool:
    """Return whether there is a classifier, which reads the texts."""
    return params.file is not None


def measure_texts(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Return the probability that each text is spam: float64 [documents]."""
    assert params.file is not None
    if params.file == "shipped":
        return {"probability": classifier.load_cached(spam_examples.FILE).probabilities(texts)}
    return {"probability": classifier.load(params.file).probabilities(texts)}


def drop_reasons(
    signals: Signals, params: Params, text_measurements: Mapping[str, Float64Array] | None = None
) -> Reasons:
    """Return the rules, the most certain first."""
    words = np.maximum(signals.num_content_words, 1).astype(np.float64)
    contacts = signals.num_phones + signals.num_handle + signals.num_emails
    advertising = signals.num_offer + signals.num_call_to_action + signals.num_gambling

    def rule(counts: Int64Array, max_count: int, max_density: float) -> Verdict:
        return Verdict((counts > max_count) & (counts / words > max_density), counts / words, bound=max_density)

    contact = rule(contacts, params.max_contacts, params.max_contact_density)
    stuffed = (signals.top_word_ratio > params.max_top_word_ratio) & (words >= params.stuffing_min_words)
    probability = text_measurements["probability"] if text_measurements else np.zeros(len(words))
    return {
        "gambling": rule(signals.num_gambling, params.max_gambling, params.max_gambling_density),
        "offer_with_contact": Verdict(contact.dropped & (advertising > 0), contact.values, "", contact.bound),
        "repeated_offers": rule(signals.num_offer, params.max_offers, params.max_offer_density),
        "repeated_calls": rule(signals.num_call_to_action, params.max_calls_to_action, params.max_call_density),
        "links": rule(signals.num_urls, params.max_links, params.max_link_density),
        "keyword_stuffing": Verdict(stuffed, signals.top_word_ratio, "top_word_ratio", params.max_top_word_ratio),
        "classifier": Verdict(probability > params.max_probability, probability, bound=params.max_probability),
    }
