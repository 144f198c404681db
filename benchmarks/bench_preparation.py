"""What whitening and UMAP do for HDBSCAN, on vectors of unit length: quality first, then time."""

from __future__ import annotations

from harness import Session, cli, options

COLUMNS = (
    *("clusters", "noise", "purity", "purity_noise_as_error", "ami", "ami_range", "seconds"),
)
NEAR_FULL = ("whitening.regularization=1e-5",)
GENTLE = ("whitening.regularization=1.0", "whitening.regularization_mode=relative")
PREPARATIONS = {
    "raw": ("none", ()),
    "whitening 1e-5": ("whitening", NEAR_FULL),
    "whitening relative 1.0": ("whitening", GENTLE),
    "UMAP": ("umap", ()),
    "whitening relative 1.0 + UMAP": ("whitening,umap", GENTLE),
    "whitening 1e-5 + UMAP": ("whitening,umap", NEAR_FULL),
}
HDBSCAN = (
    *("--algorithm", "hdbscan", "--param", "min_samples=5", "--param", "min_cluster_size=50"),
    *("--random-state", "{seed}"),
)


def main() -> None:
    """Measure every preparation on every case."""
    with Session("preparation", COLUMNS, options(__doc__, repeats=3)) as session:
        for case in session.cases:
            for name, (steps, settings) in PREPARATIONS.items():
                given = [word for text in settings for word in ("--step-param", text)]
                session.measure(case, cli(name, *HDBSCAN, "--steps", steps, *given))


if __name__ == "__main__":
    main()
