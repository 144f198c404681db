"""How good an answer is: labels of any kind of run, compared with the truth.

Runs in a process of its own, after the measured one has ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def score(out: Path, *, answer: str, data: str, reference: str | None = None) -> dict[str, Any]:
    """Return the quality of the answer in the folder `answer`; its labels go to `out`.

    Parameters
    ----------
    out : Path
        Gets ``labels.npy``.
    answer : str
        Folder of a run, or with a ``labels.npy``.
    data : str
        The Parquet file that was clustered.
    reference : str, optional
        Labels to compare with as well (``ari_reference``).
    """
    import numpy as np
    from cases import read_truth
    from sklearn.metrics import adjusted_rand_score

    from gpucluster.metrics.external import compare_with_truth

    truth = read_truth(data)
    labels, stages = _answer(Path(answer), len(truth))
    if labels.shape != (len(truth),):
        raise SystemExit(f"{len(labels)} labels for {len(truth)} rows")
    np.save(out / "labels.npy", labels)
    agreement = compare_with_truth(labels, truth)
    facts = {
        "clusters": len(np.unique(labels[labels >= 0])),
        "noise": float((labels < 0).mean()),
        "ami": agreement["ami"],
        "ari": agreement["ari"],
        "purity": agreement["purity"],
        "purity_noise_as_error": agreement["purity_noise_as_error"],
    }
    if reference is not None:
        facts["ari_reference"] = float(adjusted_rand_score(np.load(reference), labels))
    return {"values": facts, "stages": stages}


def _answer(folder: Path, n_rows: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return the label of every row of the input, and the stages of a run."""
    from dataclasses import asdict

    import numpy as np

    import gpucluster

    manifests = list(folder.glob("*/manifest.json"))
    if not manifests:
        return np.load(folder / "labels.npy"), []
    run = gpucluster.open_run(manifests[0])
    labels = np.full(n_rows, -1, np.int32)
    labels[run.members["row"].to_numpy()] = run.members["cluster_index"].to_numpy()
    return labels, [asdict(stage) for stage in run.manifest.stages]
