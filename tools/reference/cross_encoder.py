#!/usr/bin/env python3
"""What a cross-encoder reaches, the usual way to tell a paraphrase from a near-miss, and what a pair costs it.

Both texts go through the encoder at once, `[CLS] a [SEP] b [SEP]`, and one linear layer over [CLS] says whether they mean the
same. Trained by binary cross-entropy on as many accepts (--paraphrases) as rejects (--pairs), half a batch each, all of one
shuffled list before any comes again; the sides are swapped in every other step. AdamW, warm-up and linear decay of the rate.

The files are CSV with columns sentence1, sentence2 and, of near-misses, category. On the test files: the area under the ROC
curve, and the share of near-misses that score below the threshold which 95 % of the test accepts reach, overall and by category
against all accepts. Milliseconds per pair are end to end, tokens included. One JSON object goes to standard output.

    cross_encoder.py --model MODEL --pairs train.csv --paraphrases train_paraphrase.csv \\
        --test-pairs test.csv --test-paraphrases test_paraphrase.csv
"""

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Pair = tuple[str, str]

ENCODER_RATE, HEAD_RATE = 5e-5, 3e-4
WEIGHT_DECAY = 0.01
WARM_UP = 0.1
# Pairs whose cost is measured, together and one by one.
COST_PAIRS, COST_BATCH, COST_SINGLE = 512, 32, 128


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train, judge and time a cross-encoder on near-misses and paraphrases.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the encoder")
    for name, what in (("pairs", "near-misses"), ("paraphrases", "paraphrases")):
        parser.add_argument(f"--{name}", type=Path, action="append", required=True, help=f"{what} to train on (repeatable)")
        parser.add_argument(f"--test-{name}", type=Path, action="append", required=True, help=f"{what} to test (repeatable)")
    parser.add_argument("--steps", type=int, default=600, help="steps of training [600]")
    parser.add_argument("--batch", type=int, default=32, help="pairs per step, half of them accepts [32]")
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a pair [64]")
    parser.add_argument("--seed", type=int, default=42, help="[42]")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU [2]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[cpu]")
    parser.add_argument("--limit", type=int, help="pairs at most of each test list, for a trial [all]")
    a = parser.parse_args()
    if a.steps < 0 or a.threads < 1 or a.batch < 2 or a.batch % 2 or a.max_length < 5:
        parser.error("--steps, --threads, --batch (even) or --max-length is too small")
    return a


def read(paths: list[Path]) -> tuple[list[Pair], list[str]]:
    """Pairs and their categories."""
    pairs, categories = [], []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                a, b = row["sentence1"].strip(), row["sentence2"].strip()
                if a and b:
                    pairs.append((a, b))
                    categories.append((row.get("category") or "unknown").strip())
    if not pairs:
        raise SystemExit(f"{', '.join(map(str, paths))}: no pairs")
    return pairs, categories


def endless(pairs: list[Pair], generator: np.random.Generator) -> Iterator[Pair]:
    while True:
        for i in generator.permutation(len(pairs)):
            yield pairs[i]


def area(accepts: np.ndarray, rejects: np.ndarray) -> float:
    """Of an accept and a reject, how often the accept scores higher; ties count half."""
    ordered = np.sort(rejects)
    below = np.searchsorted(ordered, accepts, "left") + np.searchsorted(ordered, accepts, "right")
    return float(below.mean() / 2 / len(rejects))


def judge(accepts: np.ndarray, rejects: np.ndarray, categories: list[str]) -> dict:
    threshold = np.sort(accepts)[int(0.05 * len(accepts))]
    of = np.array(categories)

    def figures(some: np.ndarray) -> dict:
        return {
            "near_misses": len(some),
            "auc": area(accepts, some),
            "rejected_at_95": float((some < threshold).mean()),
        }

    return {
        "paraphrases": len(accepts),
        "threshold_of": "test accepts",
        "true_accepts": float((accepts >= threshold).mean()),
        "overall": figures(rejects),
        "categories": {name: figures(rejects[of == name]) for name in sorted(set(categories))},
    }


def main() -> int:
    a = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(a.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    generator = np.random.default_rng(a.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
    encoder = transformers.AutoModel.from_pretrained(a.model, dtype=torch.float32, add_pooling_layer=False).to(a.device)
    head = torch.nn.Linear(encoder.config.hidden_size, 1).to(a.device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": encoder.parameters(), "lr": ENCODER_RATE}, {"params": head.parameters(), "lr": HEAD_RATE}],
        weight_decay=WEIGHT_DECAY,
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(WARM_UP * a.steps), a.steps)

    def logits(pairs: list[Pair]) -> torch.Tensor:
        first, second = zip(*pairs, strict=True)
        features = tokenizer(
            list(first), list(second), truncation=True, max_length=a.max_length, padding=True, return_tensors="pt"
        ).to(a.device)
        return head(encoder(**features).last_hidden_state[:, 0]).squeeze(1)

    def scores(pairs: list[Pair], batch: int) -> np.ndarray:
        # Of nearly equal length, so that little is padding.
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        found = np.empty(len(pairs))
        with torch.inference_mode():
            for i in range(0, len(order), batch):
                some = order[i : i + batch]
                found[some] = logits([pairs[j] for j in some]).double().cpu().numpy()
        return found

    half = a.batch // 2
    accepts, rejects = (endless(read(paths)[0], generator) for paths in (a.paraphrases, a.pairs))
    labels = torch.tensor([1.0] * half + [0.0] * half, device=a.device)
    losses = []
    encoder.train()
    start = time.perf_counter()
    for step in range(a.steps):
        batch = [next(accepts) for _ in range(half)] + [next(rejects) for _ in range(half)]
        if step % 2:
            batch = [(second, first) for first, second in batch]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(batch), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {a.steps}: loss {statistics.fmean(losses[-50:]):.4f}", file=sys.stderr)
    training = time.perf_counter() - start

    encoder.eval()
    tests, (near_misses, categories) = read(a.test_paraphrases)[0], read(a.test_pairs)
    tests, near_misses, categories = (rows[: a.limit] for rows in (tests, near_misses, categories))
    judged = judge(scores(tests, 64), scores(near_misses, 64), categories)

    cost = {}
    mixed = [pair for both in zip(tests, near_misses) for pair in both][:COST_PAIRS]
    for name, pairs, batch in (("batch", mixed, COST_BATCH), ("single", mixed[:COST_SINGLE], 1)):
        scores(pairs[:batch], batch)  # not counted
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            scores(pairs, batch)
            seconds.append((time.perf_counter() - start) / len(pairs))
        cost[f"ms_per_pair_{name}"] = 1e3 * statistics.median(seconds)
    row = {
        "what": "cross-encoder",
        "program": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "model": a.model.resolve().name,
        "device": torch.cuda.get_device_name() if a.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "seed": a.seed,
        "steps": a.steps,
        "batch": a.batch,
        "max_length": a.max_length,
        "loss_of_last_50": statistics.fmean(losses[-50:]) if losses else None,
        "training_seconds": training,
        **judged,
        "cost_pairs": len(mixed),
        "cost_batch": COST_BATCH,
        **cost,
    }
    print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
