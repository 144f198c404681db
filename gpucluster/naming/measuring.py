"""What naming is expected to cost, and how far its names hold."""

from __future__ import annotations

from collections.abc import Callable

from gpucluster.events import Reporter
from gpucluster.labeling.asking.asker import estimate_question, identity
from gpucluster.labeling.asking.cache import question_key
from gpucluster.labeling.asking.spending import Usage, count_tokens, known_prices
from gpucluster.labeling.confidence import confidence
from gpucluster.labeling.embedding import TEXT_LIMIT, Embedder, NotEmbeddedError
from gpucluster.labeling.question.prompts import asked_shape, make_question
from gpucluster.naming.documents import samples_as_text
from gpucluster.naming.names import Naming, says_nothing

# tokens that a reply is expected to take
LABEL_TOKENS, SUMMARY_TOKENS, KEYWORDS_TOKENS, FIELD_TOKENS = 20, 60, 30, 30


def expected_usage(
    naming: Naming, is_there: Callable[[str], bool], *, is_embedding_paid: bool
) -> Usage:
    """Return what the questions of a first round are expected to cost.

    Parameters
    ----------
    naming : Naming
    is_there : callable
        Says whether the reply under a key is there already.
    is_embedding_paid : bool
        Whether a model of the provider embeds, and not a function of the user's.
    """
    settings, evidence = naming.settings, naming.evidence
    shape, prices, who = asked_shape(settings), known_prices(settings), identity(settings)
    asked = shape.schema.get("properties", {})
    answer = LABEL_TOKENS + FIELD_TOKENS * len(shape.extra)
    answer += SUMMARY_TOKENS * ("summary" in asked)
    answer += KEYWORDS_TOKENS * ("keywords" in asked)
    total = Usage.none(prices)
    for node in range(len(evidence.names)):
        shown = naming.question(node)
        if node in naming.named or says_nothing(shown):
            continue
        question = make_question(shown, settings, shape)
        if not is_there(question_key(question, who)):
            total = total + Usage.of(estimate_question(question, settings), answer, prices)
    if is_embedding_paid:
        tokens = LABEL_TOKENS * len(evidence.names)
        tokens += count_tokens(
            text[:TEXT_LIMIT]
            for rows in evidence.held_out
            for text in samples_as_text(evidence.documents.get(rows))
        )
        total = total + Usage.of_embedding(tokens, prices)
    return total


def measure_confidence(naming: Naming, embedder: Embedder | None, reporter: Reporter) -> None:
    """Measure whether documents that nobody was shown lie nearer to their label than to others.

    Neighbours under the very same name are no others: where labels were merged there are such.
    """
    if embedder is None:
        return
    evidence, named = naming.evidence, naming.named
    nodes = range(len(evidence.names))
    for node in nodes:
        if named[node].confidence is None:
            named[node].confidence = naming.measured.get((evidence.names[node], named[node].label))

    def others(node: int) -> list[str]:
        labels = (named[other].label for other in evidence.neighbours[node])
        return [label for label in labels if label != named[node].label]

    try:
        embedder.keep(named[node].label for node in nodes)
        tested = (
            (node, list(samples_as_text(evidence.documents.get(evidence.held_out[node]))))
            for node in nodes
            if named[node].confidence is None and others(node)
        )
        for node, held_out in embedder.in_turn(tested):
            X = embedder.labels([named[node].label, *others(node)])
            named[node].confidence = confidence(held_out, X[0], X[1:])
            reporter.progress(node + 1, len(nodes), "clusters")
    except NotEmbeddedError as error:
        naming.is_open = True
        reporter.warn("confidence_not_measured", f"no confidence was measured: {error}")
