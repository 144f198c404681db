"""What each metric measures, and what is good, in a sentence; more is in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """What a metric is called, what it measures, and which values are good."""

    title: str
    about: str
    good: str = ""


_MEANINGS = {
    "silhouette_score": Meaning(
        "Silhouette",
        "How much nearer documents lie to their own cluster than to the next one, from -1 to 1.",
        "above 0.5; 0.25 to 0.5 is weak, and common for texts",
    ),
    "silhouette_score_reduced": Meaning(
        "Silhouette, where clusters were found",
        "The same in the space that the algorithm saw, such as a UMAP layout. It flatters: it "
        "says how far apart the clusters lie there, not how good they are.",
    ),
    "davies_bouldin_index": Meaning(
        "Davies-Bouldin",
        "Mean over the clusters of their worst ratio of spread to separation from another one.",
        "below 1; less is better",
    ),
    "calinski_harabasz_score": Meaning(
        "Calinski-Harabasz",
        "Variance between clusters over variance within them.",
        "more is better, among runs on the same documents",
    ),
    "mean_cosine_to_centroid": Meaning(
        "Mean cosine to centroid",
        "How similar documents are to the centroid of their cluster.",
        "above 0.5",
    ),
    "noise_ratio": Meaning(
        "Noise ratio", "Share of the documents that are in no cluster.", "below 0.4"
    ),
    "cluster_size_entropy": Meaning(
        "Size entropy",
        "How evenly documents spread over the clusters: 1 is all of one size, 0 is one cluster.",
        "above 0.3",
    ),
    "num_clipped_cosines": Meaning(
        "Clipped cosines",
        "Documents that point away from their own centroid, so that their similarity counts as 0.",
        "0, or few",
    ),
    "ami": Meaning(
        "AMI",
        "Information shared with the true classes beyond chance: 1 is the same grouping, 0 chance.",
        "near 1",
    ),
    "ari": Meaning(
        "ARI",
        "Pairs of documents that are together, or apart, in both, beyond chance. Large clusters "
        "count most.",
        "near 1",
    ),
    "nmi": Meaning(
        "NMI",
        "Information shared with the true classes; not corrected for chance, so many small "
        "clusters raise it.",
        "near 1",
    ),
    "v_measure": Meaning(
        "V-measure",
        "Harmonic mean of homogeneity and completeness; another way to the same number as NMI.",
        "near 1",
    ),
    "purity": Meaning(
        "Purity",
        "Share of the clustered documents that are of the commonest class of their cluster; "
        "throwing documents away as noise raises it.",
        "near 1",
    ),
    "purity_noise_as_error": Meaning(
        "Purity, noise as error", "The same over all documents: noise counts as wrong.", "near 1"
    ),
    "num_labelled": Meaning("Labelled", "Documents whose true class is known."),
}
_OF_LEVEL = "AMI with the clusters of level {} of the hierarchy."


def explained(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return metrics with what they mean, as JSON values; without those that judge others."""
    return [
        {"name": name, "value": value, **_meaning(name)._asdict()}
        for name, value in metrics.items()
        if name != "should_recluster"
    ]


def _meaning(name: str) -> Meaning:
    if name.startswith("ami_level_"):
        level = name.removeprefix("ami_level_")
        return Meaning(f"AMI, level {level}", _OF_LEVEL.format(level), "near 1")
    return _MEANINGS.get(name) or Meaning(name.replace("_", " ").capitalize(), "")
