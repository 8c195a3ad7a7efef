#!/usr/bin/env python3
"""How fast PyTorch trains and applies a learned verifier, for comparison on the same machine with the same threads.

train  steps of end-to-end training of F4 with its encoder, the usual way: three lists of texts of 15 to 40 tokens, each padded
       to its longest; every row scored in a verifier call of its own against all positives, and the explicit negatives in one
       more; maps padded to 128 x 128; dropout on; AdamW with a group for the encoder and one for the verifier, clipped
       separately; and the memory at its highest. `--verifier f3` has F3 instead.
score  1,000 pairs, 10 queries with 100 documents each, from token vectors in memory, padded to 128; without the encoder

Everything is in float32, on a GPU with TF32 products. Token ids and vectors are random. Every figure is the median of several
steps after one that is not counted. One JSON object per line goes to standard output; on the CPU and, where there is one, on
a GPU, unless --device says which. The memory on the CPU is that of the whole process: run `train` and `score` apart.

    bench_verifiers.py --what train --model MODEL --threads 2
    bench_verifiers.py --what score --threads 2
"""

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path

from bench_cpu import emit, spread

QUERIES, CANDIDATES = 10, 100
SHORTEST, LONGEST = 15, 40


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of learned verifiers in PyTorch.")
    parser.add_argument("--what", choices=["train", "score"], required=True)
    parser.add_argument("--verifier", choices=["f3", "f4"], default="f4", help="[f4]")
    parser.add_argument("--model", type=Path, help="folder of the encoder (train)")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU [2]")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, of which the median counts [5]")
    parser.add_argument("--batch", type=int, default=32, help="triplets per step, or pairs per verifier call [32]")
    parser.add_argument("--width", type=int, default=384, help="of the token vectors (score) [384]")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="[both, where there are both]")
    a = parser.parse_args()
    if min(a.threads, a.steps, a.batch) < 1:
        parser.error("--threads, --steps and --batch must be at least 1")
    if a.what == "train" and not a.model:
        parser.error("--what train needs --model")
    return a


def measure(a: argparse.Namespace, device: str, step) -> dict:
    """Seconds of `steps` steps after the first, and the memory at its highest."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for i in range(a.steps + 1):
        wait()
        start = time.perf_counter()
        step(i)
        wait()
        seconds.append(time.perf_counter() - start)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "verifier": a.verifier,
        "program": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "batch": a.batch,
        "peak_bytes": peak,
        **spread(seconds[1:]),
    }


def verifier_of(a: argparse.Namespace, width: int):
    from tiny_verifiers import F3, F4

    return F3() if a.verifier == "f3" else F4(width)


def training(a: argparse.Namespace, device: str) -> dict:
    """What steps of end-to-end training take."""
    import torch
    import transformers
    from tiny_verifiers import padded_channels

    torch.manual_seed(0)
    encoder = transformers.AutoModel.from_pretrained(a.model, dtype=torch.float32, add_pooling_layer=False)
    encoder = encoder.to(device).train()
    verifier = verifier_of(a, encoder.config.hidden_size).to(device).train()
    sides = list(encoder.parameters()), list(verifier.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": sides[0], "lr": 2e-5, "weight_decay": 0.001},
            {"params": sides[1], "lr": 1e-4, "weight_decay": 0.01},
        ]
    )
    # As a loader has them ready: ids and masks of the anchors, the positives, the negatives of every step.
    batches = []
    for _ in range(a.steps + 1):
        columns = []
        for _ in range(3):
            lengths = torch.randint(SHORTEST, LONGEST + 1, (a.batch,))
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
            columns.append((torch.randint(1000, encoder.config.vocab_size, mask.shape) * mask, mask))
        batches.append(columns)

    def step(i: int) -> None:
        columns = [(ids.to(device), mask.to(device)) for ids, mask in batches[i]]
        tokens = [encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state for ids, mask in columns]
        (q, p, n), (q_mask, p_mask, n_mask) = tokens, (mask for _, mask in columns)

        def scores(*sides: torch.Tensor) -> torch.Tensor:
            return verifier(*padded_channels(*sides)).tanh()

        of_row = [
            scores(q[row : row + 1].expand(a.batch, -1, -1), q_mask[row : row + 1].expand(a.batch, -1), p, p_mask)
            for row in range(a.batch)
        ]
        logits = torch.cat([torch.stack(of_row), scores(q, q_mask, n, n_mask)[:, None]], 1) / 0.1
        torch.nn.functional.cross_entropy(logits, torch.arange(a.batch, device=device)).backward()
        for side in sides:
            torch.nn.utils.clip_grad_norm_(side, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    figures = measure(a, device, step)
    # Texts are as long in one step as in another but for chance.
    tokens = statistics.fmean(sum(int(mask.sum()) for _, mask in columns) for columns in batches[1:])
    return {
        "model": a.model.resolve().name,
        "tokens_per_step": tokens,
        "tokens_per_s": tokens / figures["seconds_median"],
        **figures,
    }


def train(a: argparse.Namespace, device: str) -> None:
    emit(what="train", **training(a, device))


def score(a: argparse.Namespace, device: str) -> None:
    import torch
    from tiny_verifiers import SIDE, padded_channels

    torch.manual_seed(0)
    verifier = verifier_of(a, a.width).to(device).eval()

    def cached(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.randint(SHORTEST, LONGEST + 1, (n, 1))
        mask = torch.arange(SIDE) < lengths
        return (torch.randn(n, SIDE, a.width) * mask[..., None]).to(device), mask.to(device)

    (q, q_mask), (c, c_mask) = cached(QUERIES), cached(QUERIES * CANDIDATES)
    documents = torch.arange(QUERIES * CANDIDATES, device=device)

    @torch.inference_mode()
    def step(_: int) -> None:
        scores = []
        for d in documents.split(a.batch):
            query = d // CANDIDATES
            scores.append(verifier(*padded_channels(q[query], q_mask[query], c[d], c_mask[d])).tanh())
        torch.cat(scores).tolist()

    figures = measure(a, device, step)
    emit(what="score", pairs=len(documents), width=a.width, pairs_per_s=len(documents) / figures["seconds_median"], **figures)


def main() -> int:
    a = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(a.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch

    torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if a.device and a.device not in devices:
        raise SystemExit(f"--device {a.device}: PyTorch finds no such device here")
    for device in [a.device] if a.device else devices:
        {"train": train, "score": score}[a.what](a, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
