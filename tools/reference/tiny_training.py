#!/usr/bin/env python3
"""Make tests/golden/training: ten steps of training of the tiny BERT models, as PyTorch takes them in float64.

The models are those of tests/golden, through sentence-transformers: token ids, truncation, pooling. Dropout is off. The loss is
the softmax over the batch with explicit negatives, AdamW has decay on matrices alone, the learning rate rises and falls, the
norm of the gradient is clipped. Batches are ragged on purpose: empty and cut texts, a positive that is its own anchor.

All ten gradients belong to one trajectory of weights, that of the float64 run. At each of its points PyTorch also computes the
gradient in float32 and under float16 autocast with a loss scale; how far these are from float64 is what an implementation's own
errors are measured by.

    tiny_training.py             write tests/golden/training
    tiny_training.py --check     make everything again and compare
"""

import argparse
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # every model here is a local folder
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import safetensors.numpy
import sentence_transformers
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim
from tiny_bert import FLOAT64_SLACK, GOLDEN, WORDS, write_json

OUT = GOLDEN / "training"

STEPS = 10
TRIPLETS = 5
SCALE = 10.0
# Numbers that float32 holds, as are the rates of all steps: an optimizer may take its settings so.
LEARNING_RATE = 2.0**-9
WARM_UP = 2
WEIGHT_DECAY = 2.0**-7
BETAS = (0.9, 0.999)
EPS = 1e-8
# A power of two: scaling adds no error, and keeps small gradients off the subnormal numbers of f16.
LOSS_SCALE = 1024.0

# As for one pass; and AdamW divides gradients that are zero but for rounding, as those of the keys' biases, by 1e-8.
TRAJECTORY_SLACK = 1e3 * FLOAT64_SLACK

# Errors of float32 and float16 runs depend on the order of sums, which PyTorch chooses by processor.
YARDSTICK_SLACK = 2.0


@dataclass(frozen=True)
class Spec:
    """A model; of which elements of its gradients the file has the values: every `stride`-th, beginning with the number of
    the step; the norm that gradients are clipped to, between the smallest and the largest on the way."""

    name: str
    seed: int
    stride: int
    max_norm: float


# Ten steps with a stride of ten have every element once.
SPECS = [Spec("tiny-bert-2x64", 1, 10, 6.0), Spec("tiny-bert-3x96", 2, 20, 6.0)]


def sentence(generator: np.random.Generator) -> str:
    """Some words; the lengths are ragged, a few beyond the limit."""
    length = int(generator.choice([1, 2, 3, 5, 8, 13, 21, 55], p=[0.1, 0.1, 0.15, 0.2, 0.2, 0.1, 0.1, 0.05]))
    return " ".join(generator.choice(WORDS, length))


def batches(spec: Spec) -> list[list[tuple[str, str, str]]]:
    """Anchors, positives and negatives of every step."""
    generator = np.random.default_rng([20260416, spec.seed])
    all_batches = []
    for step in range(STEPS):
        rows = []
        for row in range(TRIPLETS):
            anchor = sentence(generator)
            # A near-miss of the anchor, its own positive, and texts that have nothing to do with each other.
            words = anchor.split()
            positive = anchor if row == 1 else " ".join([*words[::-1], sentence(generator)])
            negative = " ".join([*words, "not"]) if row % 2 else sentence(generator)
            rows.append((anchor, positive, negative))
        if step == 3:
            rows[0] = (rows[0][0], rows[0][1], "")
        all_batches.append(rows)
    return all_batches


def open_model(name: str, dtype: torch.dtype, attention: str) -> sentence_transformers.SentenceTransformer:
    """The model, without dropout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformers.SentenceTransformer(
            str(GOLDEN / name),
            device="cpu",
            model_kwargs={"dtype": dtype, "attn_implementation": attention},
        ).eval()


def parameters(model: sentence_transformers.SentenceTransformer) -> dict[str, torch.nn.Parameter]:
    """What is trained, in the model's own order: the pooler takes no part."""
    named = model[0].auto_model.named_parameters()
    return {name: p for name, p in named if not name.startswith("pooler.")}


def loss_of(model: sentence_transformers.SentenceTransformer, rows: list[tuple[str, str, str]]) -> torch.Tensor:
    """Softmax over the positives and negatives of the batch; three forward passes, each padded to its longest text."""
    anchors, positives, negatives = (
        model(model.preprocess(list(column)))["sentence_embedding"] for column in zip(*rows, strict=True)
    )
    wide = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    scores = SCALE * cos_sim(anchors.to(wide), torch.cat([positives, negatives]).to(wide))
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(rows)))


def gradient(model, rows: list[tuple[str, str, str]], half: bool) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and its gradient, in float64."""
    tensors = parameters(model)
    for p in tensors.values():
        p.grad = None
    scale = LOSS_SCALE if half else 1.0
    with torch.autocast("cpu", dtype=torch.float16, enabled=half):
        loss = loss_of(model, rows)
    (loss * scale).backward()
    # Table rows of no text have a gradient of zero.
    return loss.item(), {n: p.grad.detach().double().numpy() / scale for n, p in tensors.items()}


def learning_rate(step: int) -> float:
    """Of the step with this number, from 0."""
    if step < WARM_UP:
        return LEARNING_RATE * step / WARM_UP
    return LEARNING_RATE * (STEPS - step) / (STEPS - WARM_UP)


def check_against_library(model, rows: list[tuple[str, str, str]]) -> None:
    """The loss is that of sentence-transformers."""
    columns = [model.preprocess(list(column)) for column in zip(*rows, strict=True)]
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    with torch.no_grad():
        error = abs(loss(columns, torch.zeros(len(rows))).item() - loss_of(model, rows).item())
    if error > FLOAT64_SLACK:
        raise SystemExit(f"the loss and that of the library differ by {error:.3g}")


def make(spec: Spec) -> tuple[dict, dict[str, np.ndarray]]:
    """The settings with what was observed on the way, and the tensors with all floats in float64."""
    truth = open_model(spec.name, torch.float64, "eager")
    usual = open_model(spec.name, torch.float32, "sdpa")
    for layer in truth[0].auto_model.encoder.layer:
        # As an operator takes it, in float32.
        attention = layer.attention.self
        attention.scaling = float(np.float32(attention.scaling))
    tensors = parameters(truth)
    decayed = [p for p in tensors.values() if p.dim() == 2]
    others = [p for p in tensors.values() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS)

    observed = []
    stored: dict[str, np.ndarray] = {}
    for step, rows in enumerate(batches(spec)):
        if step == 0:
            check_against_library(truth, rows)
        with torch.no_grad():
            for name, p in parameters(usual).items():
                p.copy_(tensors[name])
        loss_f32, single = gradient(usual, rows, half=False)
        loss_f16, half = gradient(usual, rows, half=True)
        loss, exact = gradient(truth, rows, half=False)
        sample = {n: slice(step % spec.stride, None, spec.stride) for n in exact}
        for name, values in exact.items():
            stored[f"gradient.{step}.{name}"] = values.reshape(-1)[sample[name]]
        for kind, inexact in (("f32", single), ("f16", half)):
            # Of each tensor's sampled elements, the sum of squared errors.
            errors = [
                np.square((inexact[n] - exact[n]).reshape(-1)[sample[n]]).sum() for n in exact
            ]
            stored[f"errors.{kind}.{step}"] = np.array(errors)

        rate = learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), spec.max_norm).item()
        optimizer.step()

        tokens = [truth.preprocess([text])["input_ids"][0].tolist() for column in zip(*rows, strict=True) for text in column]
        stored[f"token_ids.{step}"] = np.array([i for ids in tokens for i in ids], dtype=np.uint32)
        stored[f"offsets.{step}"] = np.cumsum([0] + [len(ids) for ids in tokens]).astype(np.uint32)
        observed.append(
            {
                "loss": loss,
                "loss_f32": loss_f32,
                "loss_f16": loss_f16,
                "gradient_norm": norm,
                "learning_rate": rate,
                "triplets": [list(row) for row in rows],
            }
        )
    for name, p in tensors.items():
        stored[f"weights.{name}"] = p.detach().numpy().reshape(-1)[:: spec.stride]
    clipped = sum(step["gradient_norm"] > spec.max_norm for step in observed)
    if not 0 < clipped < STEPS:
        raise SystemExit(f"{spec.name}: {clipped} of {STEPS} steps are clipped")
    summary = {
        "model": spec.name,
        "stride": spec.stride,
        "scale": SCALE,
        "learning_rate": LEARNING_RATE,
        "warm_up": WARM_UP,
        "weight_decay": WEIGHT_DECAY,
        "betas": BETAS,
        "eps": EPS,
        "max_norm": spec.max_norm,
        "loss_scale": LOSS_SCALE,
        "tensors": list(tensors),
        "steps": observed,
    }
    return summary, stored


def as_stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients are rounded once, to float32; weights after the last step stay as they are."""
    return {
        n: np.ascontiguousarray(t, dtype=np.float32 if n.startswith("gradient.") else None) for n, t in tensors.items()
    }


def differences(spec: Spec, folder: Path) -> list[str]:
    """What the committed files and newly made ones disagree about, one line each."""
    summary, exact = make(spec)
    summary = json.loads(json.dumps(summary))
    path = folder / f"{spec.name}.json"
    committed = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for have, want in zip(committed.pop("steps"), summary.pop("steps"), strict=True):
        for name in ("loss", "gradient_norm", "learning_rate"):
            if abs(have[name] - want[name]) > TRAJECTORY_SLACK * max(1.0, abs(want[name])):
                found.append(f"{path}: {name} is {have[name]}, not {want[name]}")
        if have["triplets"] != want["triplets"]:
            found.append(f"{path}: other triplets")
    if committed != summary:
        found.append(f"{path}: other settings")

    path = folder / f"{spec.name}.safetensors"
    have = safetensors.numpy.load_file(path)
    want = as_stored(exact)
    if have.keys() != want.keys():
        return [*found, f"{path}: holds {sorted(have)}, expected {sorted(want)}"]
    for name, values in have.items():
        if values.shape != want[name].shape or values.dtype != want[name].dtype:
            found.append(f"{path}: {name} is {values.dtype}{values.shape}, not {want[name].dtype}{want[name].shape}")
        elif name.startswith("errors."):
            ratio = np.sqrt(values.sum() / want[name].sum())
            if not 1 / YARDSTICK_SLACK < ratio < YARDSTICK_SLACK:
                found.append(f"{path}: {name} is {ratio:.3g} times what this machine finds")
        elif values.dtype in (np.float32, np.float64):
            rounding = 0.5 * np.spacing(np.abs(values)).astype(np.float64) if values.dtype == np.float32 else 0.0
            if not (np.abs(values.astype(np.float64) - exact[name]) <= rounding + TRAJECTORY_SLACK).all():
                found.append(f"{path}: {name} differs from what this script makes")
        elif not np.array_equal(values, want[name]):
            found.append(f"{path}: {name} differs")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make, or check, tests/golden/training.")
    parser.add_argument("--check", action="store_true", help="compare the committed files with newly made ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one summation order

    if not arguments.check:
        for spec in SPECS:
            summary, exact = make(spec)
            write_json(OUT / f"{spec.name}.json", summary)
            path = OUT / f"{spec.name}.safetensors"
            safetensors.numpy.save_file(as_stored(exact), path)
            path.chmod(0o644)
            print(f"{path}: {path.stat().st_size:,} bytes")
        return 0

    found = [line for spec in SPECS for line in differences(spec, OUT)]
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"training of {', '.join(spec.name for spec in SPECS)}: as made")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
