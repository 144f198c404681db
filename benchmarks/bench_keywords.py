"""How often keywords name the intent that a cluster is about, beside BERTopic's.

The same clusters for all: k-means with as many as there are labels, and the true labels. A
cluster is hit when a content word of its commonest intent's name (``lost_or_stolen_card``: lost,
stolen, card) is among its first keywords, as it stands or without endings. ``oos`` is no intent.
Then a million short texts of random words, for time and memory alone.

    PYTHONPATH=. python benchmarks/bench_keywords.py     needs bertopic 0.17.4
    python benchmarks/bench_keywords.py --write          puts the newest result into its page
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import render
from cases import Case
from harness import FIRST_SEED, HERE, Session, call, check_cases, option_parser

COLUMNS = (
    *("hit_5", "hit_5_stem", "hit_10", "hit_10_stem", "words_5", "hit_5_words"),
    *("first_s", "again_s", "peak_mb"),
)
GROWTH_COLUMNS = ("first_s", "again_s", "peak_mb")
WAYS = ("k-means", "true labels")
GROWTH = "1,000,000 texts of 12 words"
N_TEXTS, N_WORDS, N_GROWN = 1_000_000, 12, (1_000, 100_000)
ENGLISH = {"stop_words": "english"}
BM25 = {"bm25_weighting": True, "reduce_frequent_words": True}
# by the arguments of the vectorizer and of the transformer
PEERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "BERTopic": ({}, {}),
    "BERTopic, without stop words": (ENGLISH, {}),
    "BERTopic, BM25, frequent words reduced": ({}, BM25),
    "BERTopic, without stop words, BM25, frequent words reduced": (ENGLISH, BM25),
    "BERTopic, without stop words, 1-2 words": ({**ENGLISH, "ngram_range": (1, 2)}, {}),
}
GROWTH_PEERS = ("BERTopic, without stop words", "BERTopic, without stop words, 1-2 words")
N_KEYWORDS = 10
N_EXAMPLES = 10
PAGE = HERE.parent / "docs" / "keywords.md"
MARKS = {name: f"<!-- keywords: {name} -->\n" for name in ("figures", "examples", "end")}

Namer = Callable[[Any, Any], list[list[str]]]  # from texts and their clusters


def make_clusters(out: Path, data: str, name: str, seed: int) -> dict[str, Any]:
    """Write the clusters of each way, by row of the file, and the commonest intent of each."""
    import numpy as np
    import pyarrow.parquet as pq

    import gpucluster

    labels = pq.read_table(data, columns=["label"])["label"].combine_chunks().dictionary_encode()
    truth, names = labels.indices.to_numpy(), np.array(labels.dictionary.to_pylist())
    found = np.full(len(truth), -1, np.int32)
    run = gpucluster.cluster(
        data,
        algorithm="kmeans",
        algorithm_params={"n_clusters": len(names)},
        random_state=seed,
        out=out / f"{name}-{seed}",
    )
    found[run.members["row"].to_numpy()] = run.members["cluster_index"].to_numpy()
    for way, clusters in zip(WAYS, (found, truth.astype(np.int32)), strict=True):
        counts = np.zeros((clusters.max() + 1, len(names)), np.int64)
        np.add.at(counts, (clusters[clusters >= 0], truth[clusters >= 0]), 1)
        np.save(out / f"{name}-{way}-{seed}.npy", clusters)
        np.save(out / f"{name}-{way}-{seed}-intents.npy", names[counts.argmax(axis=1)])
    return {}


def plant(out: Path, name: str, n_clusters: int, seed: int) -> dict[str, Any]:
    """Write texts of words with a heavy tail, almost half of them stop words, and clusters."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    drawn = np.random.default_rng(seed)
    letters = drawn.integers(ord("a"), ord("z") + 1, (200_000, 9), np.uint8)
    words = [bytes(each[: 3 + at % 7]).decode() for at, each in enumerate(letters)]
    stops = ["the", "a", "of", "to", "in", "is", "and"]
    shape = N_TEXTS, N_WORDS
    ranks = np.minimum(drawn.pareto(0.7, shape) * 20, len(words) - 1).astype(np.int32)
    plain = drawn.random(shape) < 0.45
    ranks[plain] = len(words) + drawn.integers(0, len(stops), int(plain.sum()))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(words + stops).take(ranks.ravel()), N_WORDS)
    texts = pc.binary_join(lists.cast(pa.list_(pa.string())), " ")
    pq.write_table(pa.table({"text": texts}), out / f"{name}.parquet")
    np.save(out / f"{name}.npy", drawn.integers(0, n_clusters, N_TEXTS).astype(np.int32))
    return {}


def ours(_out: Path, **where: Any) -> dict[str, Any]:
    """Name clusters by `keyphrases`."""

    def name(texts: Any, clusters: Any) -> list[list[str]]:
        import numpy as np

        from gpucluster.labeling.keywords.keyphrases import keyphrases
        from gpucluster.labeling.keywords.terms import TermCounter

        n_clusters = int(clusters.max()) + 1
        counter = TermCounter(n_clusters)
        counter.add(texts, clusters)
        return keyphrases(counter.counts(), np.full(n_clusters, -1, np.int32), N_KEYWORDS)

    return _measured(name, **where)


def peer(_out: Path, vectorizer: dict[str, Any], transformer: dict[str, Any], **where: Any) -> Any:
    """Name clusters as BERTopic does: all texts of one are joined, then class-based TF-IDF."""
    options = vectorizer
    if "ngram_range" in options:
        options["ngram_range"] = tuple(options["ngram_range"])  # JSON has lists

    def name(texts: Any, clusters: Any) -> list[list[str]]:
        import numpy as np
        from bertopic.vectorizers import ClassTfidfTransformer
        from sklearn.feature_extraction.text import CountVectorizer

        joined: list[list[str]] = [[] for _ in range(int(clusters.max()) + 1)]
        for text, cluster in zip(texts.to_pylist(), clusters.tolist(), strict=True):
            if cluster >= 0:
                joined[cluster].append(text)
        counter = CountVectorizer(**options)
        counts = counter.fit_transform([" ".join(each) for each in joined])
        scores = ClassTfidfTransformer(**transformer).fit(counts).transform(counts)
        words = counter.get_feature_names_out()
        return [
            words[row.indices[np.lexsort((row.indices, -row.data))[:N_KEYWORDS]]].tolist()
            for row in scores
        ]

    return _measured(name, **where) | {"versions": _versions("bertopic")}


def _measured(name: Namer, data: str, clusters: str) -> dict[str, Any]:
    """Return how good keywords are, and how long they take, imports and once more."""
    import numpy as np
    import pyarrow.parquet as pq

    texts = pq.read_table(data, columns=["text"])["text"]
    found = np.load(f"{clusters}.npy")
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        keywords = name(texts, found)
        seconds.append(time.perf_counter() - begun)
    facts = {"first_s": seconds[0], "again_s": seconds[1], "no_labels": True}
    if not Path(f"{clusters}-intents.npy").exists():
        return facts
    intents = np.load(f"{clusters}-intents.npy").tolist()
    for count in (5, 10):
        facts[f"hit_{count}"] = _hits(intents, keywords, count, str)
        facts[f"hit_{count}_stem"] = _hits(intents, keywords, count, _stem)
    # a phrase has two chances: so the same for as many words as the others have
    words = [list(dict.fromkeys(" ".join(each).split(" "))) for each in keywords]
    facts["hit_5_words"] = _hits(intents, words, 5, _stem)
    facts["words_5"] = float(
        np.mean([len(set(" ".join(each[:5]).split(" "))) for each in keywords])
    )
    return facts | {"examples": _examples(intents, keywords)}


def _hits(
    intents: Sequence[str],
    keywords: Sequence[Sequence[str]],
    count: int,
    form: Callable[[str], str],
) -> float:
    """Return the share of clusters whose first keywords have a content word of the intent."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    hits = []
    for intent, phrases in zip(intents, keywords, strict=True):
        words = {form(word) for word in intent.lower().split("_") if word not in ENGLISH_STOP_WORDS}
        if words and intent != "oos":
            said = {form(word) for phrase in phrases[:count] for word in phrase.split(" ")}
            hits.append(bool(words & said))
    return sum(hits) / len(hits)


def _stem(word: str) -> str:
    for ending in ("s", "ing", "ed", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
    return word


def _examples(intents: list[str], keywords: list[list[str]]) -> list[dict[str, Any]]:
    """Return some clusters, drawn with a fixed seed."""
    import numpy as np

    from gpucluster.labeling.keywords.keyphrases import offline_label

    five = [phrases[:5] for phrases in keywords]
    drawn = np.random.default_rng(0).choice(len(intents), N_EXAMPLES, replace=False)
    return [
        {
            "intent": intents[cluster],
            "label": offline_label(five[cluster]),
            "keywords": five[cluster],
        }
        for cluster in sorted(drawn.tolist())
    ]


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def write_page() -> None:
    """Put the newest result between the marks of the page."""
    result = json.loads(max(HERE.glob("results/keywords-*.json")).read_text(encoding="utf-8"))
    shown = [
        [row["case"], row["values"]["examples"]]
        for row in result["rows"]
        if (row["subject"], row["table"]) == ("gpucluster", WAYS[0])
    ]
    lines = [
        (case, f"`{each['intent']}`", f"**{each['label']}**", ", ".join(each["keywords"]))
        for case, examples in shown
        for each in examples
    ]
    titles = ["data", "true intent", "label", "keywords"]
    examples = render.table(titles, lines).replace("---:", "---")
    versions = {row["values"].get("versions", {}).get("bertopic") for row in result["rows"]}
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS["figures"])
    _, _, rest = rest.partition(MARKS["end"])
    between, _, rest = rest.partition(MARKS["examples"])
    _, _, after = rest.partition(MARKS["end"])
    figures = f"{render.report(result)}\n\nbertopic {', '.join(versions - {None})}.\n"
    parts = (before, MARKS["figures"], figures, MARKS["end"])
    parts += (between, MARKS["examples"], f"{examples}\n", MARKS["end"], after)
    PAGE.write_text("".join(parts), encoding="utf-8")


def main() -> None:
    """Measure ours and the variants of BERTopic on every case, or write the page."""
    parser = option_parser(__doc__, repeats=3)
    sets = ["banking77", "clinc150"]
    parser.add_argument("cases", nargs="*", default=sets, metavar="CASE", help=", ".join(sets))
    parser.add_argument("--write", action="store_true", help="write the page; measure nothing")
    chosen = parser.parse_args()
    check_cases(parser, chosen.cases)
    if chosen.write:
        return write_page()
    columns = {**dict.fromkeys(WAYS, COLUMNS), GROWTH: GROWTH_COLUMNS}
    with Session("keywords", columns, chosen) as session:
        for case in session.cases:
            data = str(session.data(case))
            for seed in range(FIRST_SEED, FIRST_SEED + chosen.repeats):
                asked = {"data": data, "name": case.name, "seed": seed}
                session.aside(make_clusters, session.scratch, **asked)
            for way in WAYS:
                where = {"data": "{data}", "clusters": f"{{scratch}}/{case.name}-{way}-{{seed}}"}
                session.measure(case, call("gpucluster", ours, **where), table=way)
                for name, (vectorizer, transformer) in PEERS.items():
                    asked = {"vectorizer": vectorizer, "transformer": transformer}
                    session.measure(case, call(name, peer, **asked, **where), table=way)
        for n_clusters in N_GROWN:
            case = Case(f"{n_clusters:,} clusters", N_TEXTS, 0, n_clusters, seed=0)
            asked = {"name": case.name, "n_clusters": n_clusters, "seed": 0}
            session.aside(plant, session.scratch, **asked)
            where = {"data": "{data}", "clusters": f"{{scratch}}/{case.name}"}
            session.measure(case, call("gpucluster", ours, **where), table=GROWTH)
            for name in GROWTH_PEERS:
                vectorizer, transformer = PEERS[name]
                asked = {"vectorizer": vectorizer, "transformer": transformer}
                session.measure(case, call(name, peer, **asked, **where), table=GROWTH)
    return None


if __name__ == "__main__":
    main()
