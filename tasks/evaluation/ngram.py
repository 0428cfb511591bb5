"""Baselines for perplexity: a unigram and an interpolated Kneser-Ney bigram model of the training tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.tokens import Ids

LogProbs = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unigram:
    """Probabilities by frequency alone, with one added to every count (Laplace); `table` [vocab_size] in nats."""

    table: LogProbs

    @classmethod
    def fit(cls, targets: Ids, vocab_size: int) -> "Unigram":
        """Count the tokens that are predicted in training, `targets` [n]."""
        counts = np.bincount(targets, minlength=vocab_size) + 1.0
        return cls(np.log(counts / counts.sum()))

    def log_probs(self, targets: Ids) -> LogProbs:
        """ln p(target), [n]."""
        return np.asarray(self.table[targets])


@dataclass(frozen=True, slots=True)
class KneserNey:
    """Interpolated Kneser-Ney bigrams (Kneser and Ney 1995; Chen and Goodman 1999) with one discount D per order.

    With c(v w) the number of times that w follows v, and N(. w) the number of different tokens that w follows:

        p(w | v) = max(c(v w) - D, 0) / c(v .) + D N(v .) / c(v .) p(w)
        p(w)     = max(N(. w) - D', 0) / N(. .) + D' |{w : N(. w) > 0}| / N(. .) / vocab_size

    The second term of each line redistributes the discounted mass. p(w) counts distinct contexts, not occurrences: a
    token that is frequent but follows a single other one ("Francisco") is unlikely after any other token. D is
    n1 / (n1 + 2 n2), where n1 and n2 count the bigrams that occur once and twice; D' is the same of the N(. w).
    """

    vocab_size: int
    keys: IntArray  # v * vocab_size + w of every bigram (v, w) of the training tokens, sorted
    discounted: Probabilities  # max(c(v w) - D, 0) / c(v .) of each of these bigrams
    backoff: Probabilities  # [vocab_size]: the factor of p(w) after v; 1 if v never was a context
    continuation: Probabilities  # [vocab_size]: p(w)

    @classmethod
    def fit(cls, contexts: Ids, targets: Ids, vocab_size: int) -> "KneserNey":
        """Count the bigrams (context, target) of the training tokens, each [n], n > 0."""
        # One integer per bigram lets a single sort count them; int64 holds the square of any vocabulary size.
        keys, counts = np.unique(contexts.astype(np.int64) * vocab_size + targets, return_counts=True)
        first, second = np.divmod(keys, vocab_size)
        discount = _discount(counts)
        context_counts = np.bincount(first, weights=counts, minlength=vocab_size)  # c(v .)
        num_successors = np.bincount(first, minlength=vocab_size)  # N(v .)
        backoff = np.ones(vocab_size)
        np.divide(discount * num_successors, context_counts, out=backoff, where=context_counts > 0)
        discounted = (counts - discount) / context_counts[first]
        return cls(vocab_size, keys, discounted, backoff, _continuation(second, vocab_size))

    def log_probs(self, contexts: Ids, targets: Ids) -> LogProbs:
        """ln p(target | context), [n]."""
        keys = contexts.astype(np.int64) * self.vocab_size + targets
        # searchsorted returns len(keys) for a key above the last one; any valid index does, since it does not match.
        indices = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        direct = np.where(self.keys[indices] == keys, self.discounted[indices], 0.0)
        probabilities: Probabilities = direct + self.backoff[contexts] * self.continuation[targets]
        return np.log(probabilities)


def _continuation(second: IntArray, vocab_size: int) -> Probabilities:
    """p(w) [vocab_size] from the second tokens of all distinct bigrams."""
    num_contexts = np.bincount(second, minlength=vocab_size)  # N(. w)
    num_targets = np.count_nonzero(num_contexts)
    discount = _discount(num_contexts[num_contexts > 0])
    discounted: Probabilities = np.maximum(num_contexts - discount, 0) + discount * num_targets / vocab_size
    return discounted / len(second)


def _discount(counts: IntArray) -> float:
    """D = n1 / (n1 + 2 n2), kept away from 0 and 1."""
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    # D = 0 would give probability 0, and so an infinite perplexity, to every unknown bigram; D = 1 would ignore all
    # bigrams that occur once.
    return float(np.clip(once / (once + 2 * twice), 0.05, 0.95)) if once else 0.05
