"""What naming is expected to cost, and how far its names hold."""

from __future__ import annotations

from collections.abc import Callable

from gpucluster.errors import ShapeError
from gpucluster.events import Reporter
from gpucluster.labeling.asking.asker import NotEmbeddedError, estimate_question, identity
from gpucluster.labeling.asking.cache import question_key
from gpucluster.labeling.asking.spending import Usage, count_tokens, known_prices
from gpucluster.labeling.confidence import TEXT_LIMIT, Embed, confidence, embedded_in_turn
from gpucluster.labeling.question.prompts import asked_shape, make_question
from gpucluster.naming.documents import samples_as_text
from gpucluster.naming.names import Naming, says_nothing

# tokens that a reply is expected to take
LABEL_TOKENS, SUMMARY_TOKENS, KEYWORDS_TOKENS, FIELD_TOKENS = 20, 60, 30, 30


def expected_usage(naming: Naming, is_there: Callable[[str], bool]) -> Usage:
    """Return what the questions of a first round are expected to cost.

    Parameters
    ----------
    naming : Naming
    is_there : callable
        Says whether the reply under a key is there already.
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
    if settings.embedding_model is not None:
        tokens = LABEL_TOKENS * len(evidence.names)
        tokens += count_tokens(
            text[:TEXT_LIMIT]
            for rows in evidence.held_out
            for text in samples_as_text(evidence.documents.get(rows))
        )
        total = total + Usage.of_embedding(tokens, prices)
    return total


def measure_confidence(
    naming: Naming, embed: Embed | None, n_threads: int, reporter: Reporter
) -> None:
    """Measure whether documents that nobody was shown lie nearer to their label than to others."""
    if embed is None:
        return
    evidence = naming.evidence
    nodes = range(len(evidence.names))
    for node in nodes:
        named = naming.named[node]
        if named.confidence is None:
            named.confidence = naming.measured.get((evidence.names[node], named.label))
    try:
        own = ((node, [naming.named[node].label]) for node in nodes)
        labels = [X[0] for _, X in embedded_in_turn(own, embed, n_threads)]
        tested = (
            (node, list(samples_as_text(evidence.documents.get(evidence.held_out[node]))))
            for node in nodes
            if naming.named[node].confidence is None
        )
        for node, held_out in embedded_in_turn(tested, embed, n_threads):
            others = [labels[other] for other in evidence.neighbours[node]]
            naming.named[node].confidence = confidence(held_out, labels[node], others)
            reporter.progress(node + 1, len(nodes), "clusters")
    except (NotEmbeddedError, ShapeError) as error:
        reporter.warn("confidence_not_measured", f"no confidence was measured: {error}")
