#!/usr/bin/env python3
"""Make tests/golden/token_maps.safetensors: token maps and the scores of verifiers without parameters, by PyTorch.

Random unit token vectors, rounded to f16, of texts of unequal lengths. Everything is computed in float64 the usual way: all
queries padded to the longest, all documents too, one batched product, a mask over the padding. What the padding holds is
garbage, so a mask that is forgotten shows.

    token_maps.py                write the file
    token_maps.py --check        make it again and compare
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

FILE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "token_maps.safetensors"

WIDTH = 48
QUERIES = [1, 7, 33, 4]
DOCUMENTS = [9, 1, 40, 128, 3]
GARBAGE = 3.5

# Constants as the operator takes them, in float32.
DISTANCE = TEMPERATURE = float(np.float32(0.1))
MONOTONICITY = float(np.float32(0.01))

# Of the same float64 computation on different machines: some thousand roundings of numbers of order 10.
FLOAT64_SLACK = 1e-12


def texts(generator: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    """Unit rows in f16, one array per text."""
    rows = [generator.standard_normal((n, WIDTH)) for n in lengths]
    return [(r / np.linalg.norm(r, axis=1, keepdims=True)).astype(np.float16) for r in rows]


def padded(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """`[texts, longest, WIDTH]` in float64, and which places are tokens."""
    longest = max(len(r) for r in rows)
    values = torch.full((len(rows), longest, WIDTH), GARBAGE, dtype=torch.float64)
    valid = torch.zeros((len(rows), longest), dtype=torch.bool)
    for i, r in enumerate(rows):
        values[i, : len(r)] = torch.from_numpy(r.astype(np.float64))
        valid[i, : len(r)] = True
    return values, valid


def soft_alignment(
    maps: torch.Tensor, q: torch.Tensor, c: torch.Tensor, band: int | None, monotonicity: float
) -> torch.Tensor:
    """Scores `[queries, documents]`."""
    i = torch.arange(maps.shape[2], dtype=torch.float64)[:, None]
    j = torch.arange(maps.shape[3], dtype=torch.float64)[None, :]
    candidates = c[None, :, None, :].expand_as(maps)
    if band is not None:
        candidates = candidates & ((i - j).abs() <= band)
    some = candidates.any(-1)
    logits = ((maps - DISTANCE * (i - j).abs()) / TEMPERATURE).masked_fill(~candidates, float("-inf"))
    weights = torch.softmax(logits.masked_fill(~some[..., None], 0.0), -1) * some[..., None]
    queries = q[:, None, :].expand_as(some)
    score = ((weights * maps).sum(-1) * queries).sum(-1) / queries.sum(-1).clamp(min=1)
    if monotonicity:
        position = (weights * j).sum(-1)
        usable = queries & some
        both = usable[..., :-1] & usable[..., 1:]
        back = (position[..., :-1] - position[..., 1:]).clamp(min=0) ** 2
        score = score - monotonicity * (back * both).sum(-1) / both.sum(-1).clamp(min=1)
    return score


def make() -> dict[str, np.ndarray]:
    """The tensors of the file."""
    generator = np.random.default_rng(20260416)
    queries, documents = texts(generator, QUERIES), texts(generator, DOCUMENTS)
    q, q_valid = padded(queries)
    c, c_valid = padded(documents)
    maps = torch.einsum("qid,cjd->qcij", q, c)
    pairs = q_valid[:, None, :, None] & c_valid[None, :, None, :]
    best, winners = maps.masked_fill(~pairs, float("-inf")).max(-1)
    maxsim_sum = best.masked_fill(~q_valid[:, None, :], 0.0).sum(-1)
    lengths = q_valid.sum(-1)[:, None].clamp(min=1)
    packed = torch.cat([maps[a, b][pairs[a, b]] for a in range(len(QUERIES)) for b in range(len(DOCUMENTS))])
    won = torch.cat([winners[a, b][q_valid[a]] for a in range(len(QUERIES)) for b in range(len(DOCUMENTS))])
    result = {
        "maps": packed,
        "winners": won,
        "maxsim_sum": maxsim_sum,
        "maxsim_mean": maxsim_sum / lengths,
        "bag": maps.masked_fill(~pairs, 0.0).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1),
        "soft_alignment": soft_alignment(maps, q_valid, c_valid, None, 0.0),
        "soft_alignment_band": soft_alignment(maps, q_valid, c_valid, 5, 0.0),
        "soft_alignment_monotone": soft_alignment(maps, q_valid, c_valid, None, MONOTONICITY),
    }
    tensors = {name: value.numpy() for name, value in result.items()}
    tensors["winners"] = tensors["winners"].astype(np.uint32)
    for name, rows in (("queries", queries), ("documents", documents)):
        tensors[name] = np.concatenate(rows)
        tensors[f"{name}_offsets"] = np.cumsum([0] + [len(r) for r in rows]).astype(np.uint32)
    return tensors


def main() -> int:
    parser = argparse.ArgumentParser(description="Make, or check, tests/golden/token_maps.safetensors.")
    parser.add_argument("--check", action="store_true", help="compare the committed file with a newly made one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one summation order
    want = make()
    if not arguments.check:
        safetensors.numpy.save_file(want, FILE)
        print(f"{FILE}: {FILE.stat().st_size:,} bytes")
        return 0
    have = safetensors.numpy.load_file(FILE)
    found = [f"{name}: is missing" for name in sorted(want.keys() ^ have.keys())]
    for name in want.keys() & have.keys():
        same_kind = have[name].dtype == want[name].dtype and have[name].shape == want[name].shape
        slack = FLOAT64_SLACK if want[name].dtype == np.float64 else 0
        if not same_kind or not np.allclose(have[name], want[name], rtol=0, atol=slack):
            found.append(f"{name}: differs from what this script makes")
    for line in found:
        print(f"{FILE}: {line}", file=sys.stderr)
    if not found:
        print(f"{FILE.name}: as made")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
