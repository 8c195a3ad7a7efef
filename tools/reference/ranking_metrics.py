"""Writes tests/golden/ranking_metrics.json: rankings, graded judgements and the values trec_eval computes for them.

    pip install pytrec-eval-terrier==0.5.11
    python tools/reference/ranking_metrics.py [--check]

The rankings are random (fixed seed) and awkward on purpose: shorter than the cut-offs, empty, or missing; relevant
documents that were never retrieved; unjudged and negatively graded documents; queries with more relevant documents
than the largest cut-off. With --check the file is compared with what would be written, and left alone.

Where trec_eval's definition differs, the value is converted here:
- trec_eval sorts by score itself and breaks ties by document id. It gets score = -rank, so there are no ties.
- Its recip_rank has no cut-off: it gets the first documents only.
- Its map_cut_k divides by R, the number of relevant documents; the value here is for the divisor min(k, R).
- It skips a query that the run lacks; here that query counts as zero.
- Binary nDCG comes from judgements in which every grade above 0 became 1; graded nDCG from the grades.
"""

import json
import math
import random
import sys
from importlib.metadata import version
from pathlib import Path

import pytrec_eval

PINNED = "0.5.11"
SEED = 20020401
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "ranking_metrics.json"
CUTS = (1, 3, 5, 10)
MEASURES = {"ndcg_cut.10", "success.1,3,5,10", "P.1,3,5,10", "recall.1,3,5,10,100", "map_cut.5,100"}
NAMES = [
    "ndcg@10",
    *(f"mrr@{k}" for k in CUTS),
    *(f"accuracy@{k}" for k in CUTS),
    *(f"precision@{k}" for k in CUTS),
    *(f"recall@{k}" for k in CUTS),
    "recall@100",
    "map@100",
    *(f"graded_ndcg@{k}" for k in CUTS),
]


def random_collection(rng, n_queries, n_documents, n_relevant, n_other, length):
    """Judgements and rankings; each of the last three arguments is a (smallest, largest) count per query."""
    documents = [f"d{i}" for i in range(n_documents)]
    qrels, run = {}, {}
    for i in range(n_queries):
        query = f"q{i}"
        relevant = rng.randint(*n_relevant)
        judged = rng.sample(documents, relevant + rng.randint(*n_other))
        grades = {d: rng.randint(1, 3) if j < relevant else rng.randint(-1, 0) for j, d in enumerate(judged)}
        if grades:
            qrels[query] = grades
        # Relevant documents get a head start that differs by query, so that all levels of quality occur.
        head_start = rng.choice([0.0, 0.3, 0.6])
        ranking = sorted(documents, key=lambda d: rng.random() - head_start * (grades.get(d, 0) > 0))
        run[query] = ranking[: rng.randint(*length)]
    return qrels, run


def trec_eval(qrels, run, measures):
    scored = {q: {d: -float(rank) for rank, d in enumerate(docs)} for q, docs in run.items() if docs}
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(scored)


def expected(name, qrels, run):
    n_relevant = {q: sum(g > 0 for g in grades.values()) for q, grades in qrels.items()}
    binary = {q: {d: int(g > 0) for d, g in grades.items()} for q, grades in qrels.items()}
    plain = trec_eval(binary, run, MEASURES)
    first = {k: trec_eval(binary, {q: docs[:k] for q, docs in run.items()}, {"recip_rank"}) for k in CUTS}
    graded = trec_eval(qrels, run, {"ndcg_cut.1,3,5,10"})

    def map_at(k, query):
        return plain[query][f"map_cut_{k}"] * n_relevant[query] / min(k, n_relevant[query])

    per_query, map_at_5 = {}, {}
    for query in sorted(q for q in qrels if n_relevant[q] > 0):
        if not run.get(query):
            per_query[query], map_at_5[query] = dict.fromkeys(NAMES, 0.0), 0.0
            continue
        p = plain[query]
        values = [
            p["ndcg_cut_10"],
            *(first[k][query]["recip_rank"] for k in CUTS),
            *(p[f"success_{k}"] for k in CUTS),
            *(p[f"P_{k}"] for k in CUTS),
            *(p[f"recall_{k}"] for k in (*CUTS, 100)),
            map_at(100, query),
            *(graded[query][f"ndcg_cut_{k}"] for k in CUTS),
        ]
        per_query[query] = dict(zip(NAMES, values, strict=True))
        map_at_5[query] = map_at(5, query)
    return {
        "name": name,
        "left_out": sorted(q for q in qrels if n_relevant[q] == 0),
        "missing_from_run": sorted(q for q in qrels if n_relevant[q] > 0 and q not in run),
        "unjudged": sorted(q for q in run if q not in qrels),
        "qrels": qrels,
        "run": run,
        "mean": {m: math.fsum(v[m] for v in per_query.values()) / len(per_query) for m in NAMES},
        "per_query": per_query,
        "map_at_5": map_at_5,
    }


def main():
    if version("pytrec-eval-terrier") != PINNED:
        sys.exit(f"pytrec-eval-terrier {PINNED} is needed, {version('pytrec-eval-terrier')} is installed")
    rng = random.Random(SEED)
    small, small_run = random_collection(rng, 40, 60, n_relevant=(0, 14), n_other=(0, 6), length=(0, 30))
    del small_run["q7"], small_run["q31"], small["q20"]
    small_run["q12"] = []
    large, large_run = random_collection(rng, 4, 200, n_relevant=(70, 140), n_other=(0, 20), length=(120, 200))
    collections = [expected("small", small, small_run), expected("many relevant", large, large_run)]

    # The awkward cases have to be there, or the file would test less than it says.
    relevant = [sum(g > 0 for g in grades.values()) for grades in large.values()]
    assert min(relevant) <= 100 < max(relevant), relevant
    assert all(collections[0][key] for key in ("left_out", "missing_from_run", "unjudged"))
    assert any(q in collections[0]["per_query"] and not docs for q, docs in small_run.items())

    header = {
        "written_by": "tools/reference/ranking_metrics.py",
        "pytrec-eval-terrier": PINNED,
        "seed": SEED,
        "collections": collections,
    }
    # A line per query keeps changes readable.
    text = json.dumps(header, separators=(",", ":")).replace('},"', '},\n"') + "\n"
    assert json.loads(text) == header and len(text) < 100_000, len(text)
    if "--check" in sys.argv[1:]:
        if GOLDEN.read_text() != text:
            sys.exit(f"{GOLDEN} differs from what this program writes")
        print(f"{GOLDEN} is up to date")
    else:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
        print(f"wrote {GOLDEN}: {len(text)} bytes")


if __name__ == "__main__":
    main()
