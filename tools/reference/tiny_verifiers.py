#!/usr/bin/env python3
"""Make tests/golden/verifiers.safetensors: the learned verifiers F3 and F4 over token maps, by PyTorch in float64.

Both are written with the layers of torch.nn, over maps padded to 128 x 128, and narrow: F4 over tokens of width 64, F3 with 16
and 32 channels. The token vectors are not normalised, ragged in length, and held exactly by f16. The file has the scores of a
list of pairs, the gradient of a weighted sum of their logits in every parameter and token vector, F3's running statistics,
ten steps of training F4 on fixed token vectors, by the softmax over a batch and by binary cross-entropy, the same scores and
gradients of the scorers without parameters, and losses of given scores. Dropout is off.

All of it PyTorch also computes in float32 and under float16 autocast with a loss scale; how far these are from float64 is what an
implementation's own errors are measured by.

The best partner of every token beats the next best by a margin, so that arithmetic in f16 finds the same row and column maxima.

    tiny_verifiers.py            write the file
    tiny_verifiers.py --check    make it again and compare
"""

import argparse
import copy
import sys
import zlib
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy
import torch
from tiny_bert import FLOAT64_SLACK, GOLDEN
from torch import nn

FILE = GOLDEN / "verifiers.safetensors"

WIDTH = 64
SIDE = 128
PATCH = 8
F3_SMALL = (16, 32, 16)

# Of short texts, and of long ones that reach the last patch. Nearly all lengths end within a patch.
QUERIES = [1, 3, 7, 8, 9, 20, 31, 121]
DOCUMENTS = [2, 5, 8, 16, 17, 24, 40, 128]
# Query and document; texts occur in several pairs, and not in order.
PAIRS = [(0, 0), (6, 6), (1, 3), (4, 4), (2, 6), (5, 5), (3, 2), (2, 1), (7, 7), (5, 7)]
# Under `paper` masking F3 depends on how far the batch is padded; these pad to 31 x 40.
SHORT_PAIRS = 8
# F3's logits of one pass share most of their rounding, since all go through one average and one head: how far they are off is
# one draw or two. So many orders of its channels, which mean the same, make more.
ORDERS = 16
# Twice what rounding the normalised tokens to f16 can do to a cosine.
MARGIN = 0.002

STEPS = 10
BATCH = [(7, 9, 8), (12, 12, 12), (5, 17, 5), (20, 11, 21)]  # tokens of anchor, positive, negative
SCALE = 10.0
# As an optimizer takes them, in float32.
LEARNING_RATE = float(np.float32(1e-3))
WEIGHT_DECAY = float(np.float32(0.01))
BETAS = (float(np.float32(0.9)), float(np.float32(0.999)))
EPS = float(np.float32(1e-8))
MAX_NORM = 1.0
START_SCALE, START_BIAS = 10.0, 0.0
# Of gradients that the file has in part. Ten steps with a stride of ten have every element once.
STRIDE = 10
# The same of gradients in token vectors: odd, so that every column of them is among them.
TOKEN_STRIDE = 9

# Constants of F2 as the operator takes them, in float32.
DISTANCE = TEMPERATURE = float(np.float32(0.1))

# Rows whose losses are in the file, and what they are computed with.
LOSS_ROWS = 5
LOSS_SCALE_AND_BIAS = (3.0, -0.5)

# A power of two: scaling adds no error, and keeps small gradients off the subnormal numbers of f16.
GRADIENT_SCALE = 1024.0

# AdamW divides gradients that are zero but for rounding, as those of the keys' biases, by 1e-8.
TRAJECTORY_SLACK = 1e3 * FLOAT64_SLACK

# Errors of float32 and float16 runs depend on the order of sums, which PyTorch chooses by processor, and those of F3 on which
# of two nearly equal numbers is the larger one.
YARDSTICK_SLACK = 3.0

# Their gradient is zero in exact arithmetic, and rounding noise in float64.
KEY_BIAS = slice(WIDTH, 2 * WIDTH)  # of layer.self_attn.in_proj_bias
ZERO = 1e-11
NOTE = (
    "Zero in exact arithmetic, so that the file holds rounding noise of float64 below 1e-11: the gradients of "
    "elements D..2D (keys) of layer.self_attn.in_proj_bias, and in train mode of conv1.bias and conv2.bias of F3, "
    "whose effect batch normalisation subtracts again. In float32 AdamW makes whole steps of such noise. No loss, "
    "norm or other gradient depends on these parameters: leave them out where weights of a float32 run are compared. "
    "steps.grad.* belong to the weights of the float64 run, in which they move by less than 1e-10 beside their decay."
)


class F3(nn.Module):
    """Two convolutions over the three channels of a map."""

    def __init__(self, first: int = 128, second: int = 256, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(second)
        self.head = nn.Sequential(nn.Linear(second, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, channels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Logits of `[pairs, 3, SIDE, SIDE]`; the score is their tanh."""
        x = nn.functional.max_pool2d(self.norm1(self.conv1(channels)).relu(), 2)
        x = nn.functional.max_pool2d(self.norm2(self.conv2(x)).relu(), 2)
        return self.head(x.mean((2, 3))).squeeze(1)


class F4(nn.Module):
    """One Transformer layer over the patches of the three channels of a map."""

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__()
        n_patches = (SIDE // PATCH) ** 2
        self.patch = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(n_patches + 1, width))
        self.embedding_norm = nn.LayerNorm(width)
        self.embedding_dropout = nn.Dropout(dropout)
        self.layer = nn.TransformerEncoderLayer(
            width, 1, dim_feedforward=32, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, channels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Logits of `[pairs, 3, SIDE, SIDE]`; `valid` says which places of a map are pairs of tokens."""
        patches = self.patch(channels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(patches), 1, -1), patches], 1) + self.positions
        x = self.embedding_dropout(self.embedding_norm(x))
        some = valid.unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).any(4).any(2).flatten(1)
        masked = nn.functional.pad(~some, (1, 0), value=False)
        return self.head(self.layer(x, src_key_padding_mask=masked)[:, 0]).squeeze(1)


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """`[texts, longest, width]`, and which places are tokens."""
    values = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3.5)
    lengths = torch.tensor([len(r) for r in rows])
    return values, torch.arange(values.shape[1]) < lengths[:, None]


def channels(queries: list[torch.Tensor], documents: list[torch.Tensor], paper: bool = False):
    """As `padded_channels`, of texts of unequal length."""
    return padded_channels(*padded(queries), *padded(documents), paper)


def padded_channels(
    q: torch.Tensor, q_valid: torch.Tensor, c: torch.Tensor, c_valid: torch.Tensor, paper: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The three channels `[pairs, 3, SIDE, SIDE]` of query i with document i, and which places are pairs of tokens.

    `paper`: the maxima go on into the padding, as far as the longest texts of the batch.
    """
    normalize = nn.functional.normalize
    maps = torch.bmm(normalize(q, dim=2, eps=1e-12), normalize(c, dim=2, eps=1e-12).transpose(1, 2))
    valid = q_valid[:, :, None] & c_valid[:, None, :]
    shown = [maps.masked_fill(~valid, 0.0)]
    for dim in (2, 1):
        best = maps.masked_fill(~valid, float("-inf")).amax(dim, keepdim=True)
        best = best.masked_fill(~valid.any(dim, keepdim=True), 0.0).expand_as(maps)
        shown.append(best if paper else best.masked_fill(~valid, 0.0))
    margins = (0, SIDE - maps.shape[2], 0, SIDE - maps.shape[1])
    return nn.functional.pad(torch.stack(shown, 1), margins), nn.functional.pad(valid, margins)


def drawn(name: str) -> np.random.Generator:
    """Keyed by name, so that adding something leaves all else as it is."""
    return np.random.Generator(np.random.PCG64([20260416, zlib.crc32(name.encode())]))


def fill(module: nn.Module, prefix: str) -> None:
    """Random parameters and statistics that float32 holds.

    Not the usual zeros and ones: a term that is left out must show. Matrices have standard deviation 1 / sqrt(fan in) times a
    gain: F4's head has so little that ten steps do not settle it.
    """
    gains = {"f3.head.0.weight": 2.0, "f4.head.0.weight": 0.5, "f4.head.3.weight": 0.25}
    with torch.no_grad():
        for name, p in module.state_dict().items():
            if not p.is_floating_point():
                continue
            generator = drawn(f"{prefix}.{name}")
            if name.endswith("running_var"):
                # As these convolutions have it.
                low, high = (0.005, 0.1) if name == "norm1.running_var" else (0.3, 3.0)
                values = generator.uniform(low, high, p.shape)
            elif name in ("cls", "positions"):
                values = generator.normal(0.0, 0.3, p.shape)
            elif "norm" in name and name.endswith("weight"):
                values = generator.normal(1.0, 0.1, p.shape)
            elif p.dim() == 1:
                values = generator.normal(0.0, 0.1, p.shape)
            else:
                gain = gains.get(f"{prefix}.{name}", 1.0)
                values = generator.normal(0.0, gain * float(np.prod(p.shape[1:])) ** -0.5, p.shape)
            p.copy_(torch.from_numpy(values.astype(np.float32)))


def trained(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and running statistics."""
    return {name: p for name, p in module.state_dict().items() if p.is_floating_point()}


def texts(name: str, lengths: list[int]) -> list[np.ndarray]:
    """Token vectors of unequal length that f16 holds."""
    generator = drawn(name)
    scale = generator.uniform(0.5, 3.0, (sum(lengths), 1))
    rows = (generator.standard_normal((sum(lengths), WIDTH)) * scale).astype(np.float16)
    return np.split(rows, np.cumsum(lengths)[:-1])


def near(generator: np.random.Generator, row: np.ndarray, noise: float) -> np.ndarray:
    """A token whose cosine with `row` is high."""
    there = noise * np.linalg.norm(row.astype(np.float64)) / WIDTH**0.5
    return (row.astype(np.float64) + there * generator.standard_normal(row.shape)).astype(np.float16)


def cosines(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    q, c = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (q, c))
    return q @ c.T


def corpus() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Queries and documents. Documents hold tokens like those of their queries, in order and not, beside others."""
    queries, documents = texts("queries", QUERIES), texts("documents", DOCUMENTS)
    generator = drawn("alike")
    for q, c in PAIRS:
        shared = min(len(queries[q]), len(documents[c])) // 2
        places = generator.permutation(len(documents[c]))[:shared]
        for i, j in enumerate(places if c % 2 else np.sort(places)):
            documents[c][j] = near(generator, queries[q][i], generator.uniform(0.2, 1.5))

    # Draws again what makes a close second.
    for _ in range(1000):
        close = None
        for q, c in PAIRS:
            maps = cosines(queries[q], documents[c])
            for rows, transposed in ((maps, False), (maps.T, True)):
                if rows.shape[1] == 1:
                    continue
                order = np.argsort(rows, axis=1)
                gaps = np.take_along_axis(rows, order[:, -1:], 1) - np.take_along_axis(rows, order[:, -2:-1], 1)
                worst = int(gaps.argmin())
                if gaps[worst, 0] < MARGIN:
                    close = (c, worst if transposed else order[worst, -2])
        if close is None:
            return queries, documents
        c, j = close
        documents[c][j] = (generator.uniform(0.5, 3.0) * generator.standard_normal(WIDTH)).astype(np.float16)
    raise SystemExit("no token vectors with clear maxima were found")


def wide(rows: list[np.ndarray], learned: bool = False, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.from_numpy(r).to(dtype).requires_grad_(learned) for r in rows]


def mean_cosine(maps, valid, q, q_valid, c, c_valid):
    """None: the cosine of mean token vectors."""
    means = ((x * some[:, :, None]).sum(1, keepdim=True) / some.sum(1)[:, None, None] for x, some in ((q, q_valid), (c, c_valid)))
    a, b = (nn.functional.normalize(x, dim=2, eps=1e-12) for x in means)
    return torch.bmm(a, b.transpose(1, 2)).flatten()


def bag_of_similarities(maps, valid, q, q_valid, c, c_valid):
    """F0: the mean of the map."""
    return maps.masked_fill(~valid, 0.0).sum((1, 2)) / valid.sum((1, 2))


def max_sim(maps, valid, q, q_valid, c, c_valid):
    """F1: the mean of the row maxima."""
    best = maps.masked_fill(~valid, float("-inf")).amax(2).masked_fill(~q_valid, 0.0)
    return best.sum(1) / q_valid.sum(1)


def soft_alignment(maps, valid, q, q_valid, c, c_valid):
    """F2: rows under a softmax that prefers near positions."""
    i, j = (torch.arange(n, dtype=torch.float64).to(maps.dtype) for n in maps.shape[1:])
    logits = (maps - DISTANCE * (i[:, None] - j[None, :]).abs()) / TEMPERATURE
    logits = logits.masked_fill(~c_valid[:, None, :], float("-inf"))
    return ((torch.softmax(logits, 2) * maps).sum(2) * q_valid).sum(1) / q_valid.sum(1)


FIXED = {"none": mean_cosine, "f0": bag_of_similarities, "f1": max_sim, "f2": soft_alignment}


class Fixed(nn.Module):
    """A scorer without parameters; its logits are its scores."""

    def __init__(self, name: str):
        super().__init__()
        self.score = FIXED[name]
        self.register_buffer("precision", torch.zeros(()), persistent=False)

    def forward(self, q: torch.Tensor, q_valid: torch.Tensor, c: torch.Tensor, c_valid: torch.Tensor) -> torch.Tensor:
        normalize = nn.functional.normalize
        maps = torch.bmm(normalize(q, dim=2, eps=1e-12), normalize(c, dim=2, eps=1e-12).transpose(1, 2))
        return self.score(maps, q_valid[:, :, None] & c_valid[:, None, :], q, q_valid, c, c_valid)


def close(what: str, a: torch.Tensor, b: torch.Tensor) -> None:
    error = (a - b).abs().max().item()
    if not error <= FLOAT64_SLACK:
        raise SystemExit(f"{what} differ by {error:.3g}")


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(p.dtype for p in (*module.parameters(), *module.buffers()))


def logits_of(module: nn.Module, queries: list[torch.Tensor], documents: list[torch.Tensor], paper: bool) -> torch.Tensor:
    if isinstance(module, Fixed):
        return module(*padded(queries), *padded(documents))
    return module(*channels(queries, documents, paper))


def one_pass(module: nn.Module, paper: bool, n_pairs: int, half: bool) -> dict[str, np.ndarray]:
    """Logits in train mode, the gradient of their weighted sum in parameters and token vectors, and running statistics after
    that, in the precision of the module, or under autocast."""
    queries, documents = (wide(rows, learned=True, dtype=dtype_of(module)) for rows in corpus())
    pairs = PAIRS[:n_pairs]
    module.train().zero_grad()
    with torch.autocast("cpu", dtype=torch.float16, enabled=half):
        logits = logits_of(module, [queries[q] for q, _ in pairs], [documents[c] for _, c in pairs], paper)
    scale = GRADIENT_SCALE if half else 1.0
    wanted = torch.from_numpy(scale * pair_weights()[:n_pairs])
    (logits.double() * wanted).sum().backward()
    out = {"logits": logits.detach().double().numpy()}
    for name, p in module.named_parameters():
        out[f"grad.{name}"] = p.grad.double().numpy() / scale
    for name, rows in (("queries", queries), ("documents", documents)):
        # A text of no pair has a gradient of zero.
        all_rows = torch.cat([(torch.zeros_like(r) if r.grad is None else r.grad) for r in rows])
        out[f"grad_{name}"] = all_rows.double().numpy() / scale
    for name, p in trained(module).items():
        if "running" in name:
            out[f"after.{name}"] = p.double().numpy().copy()
    return out


def inexact(module: nn.Module, find: Callable[[nn.Module, bool], dict[str, np.ndarray]]):
    """What `find` finds of a copy of the module in float32, and of one under autocast, with the names of these."""
    for kind in ("f32", "f16"):
        yield kind, find(copy.deepcopy(module).float(), kind == "f16")


def squared(inexact: np.ndarray, exact: np.ndarray) -> float:
    return float(np.square(inexact - exact).sum())


def gradients(module: nn.Module, prefix: str, paper: bool, n_pairs: int, out: dict[str, np.ndarray]) -> None:
    """What a pass finds, gradients in token vectors in part, and the sums of squared errors of PyTorch in lower precision, in
    all elements."""
    found = dict(inexact(module, lambda module, half: one_pass(module, paper, n_pairs, half)))
    exact = one_pass(module, paper, n_pairs, False)
    for name, values in exact.items():
        of_tokens = name.startswith("grad_")
        out[f"{prefix}.{name}"] = values.reshape(-1)[::TOKEN_STRIDE].copy() if of_tokens else values
        for kind, of_kind in found.items():
            out[f"errors.{kind}.{prefix}.{name}"] = np.array([squared(of_kind[name], values)])


def rolled(module: F3, by: int) -> F3:
    """The module with its channels in another order, each `by` places on: the same function."""
    module = copy.deepcopy(module)
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.dim() > 0:
            tensor = tensor.roll(by, 0)
        if tensor.dim() > 1 and not name.startswith("conv1"):
            tensor = tensor.roll(by, 1)
        state[name] = tensor
    module.load_state_dict(state)
    return module


def eval_logits(module: F3, prefix: str, paper: bool, n_pairs: int, out: dict[str, np.ndarray]) -> torch.Tensor:
    """Logits and scores in eval mode, and the errors as above, summed up over all orders of the channels."""

    def find(module: nn.Module, half: bool) -> dict[str, np.ndarray]:
        queries, documents = (wide(rows, dtype=dtype_of(module)) for rows in corpus())
        pairs = PAIRS[:n_pairs]
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16, enabled=half):
            logits = logits_of(module.eval(), [queries[q] for q, _ in pairs], [documents[c] for _, c in pairs], paper)
        return {"logits": logits.double().numpy()}

    exact = find(module, False)["logits"]
    for by in range(ORDERS):
        other = rolled(module, by)
        logits = find(other, False)["logits"]
        close("F3's logits with its channels in another order", torch.from_numpy(logits), torch.from_numpy(exact))
        for kind, found in inexact(other, find):
            errors = out.setdefault(f"errors.{kind}.{prefix}.eval_logits", np.zeros(1))
            errors += squared(found["logits"], exact)
    out[f"{prefix}.eval_logits"] = exact
    out[f"{prefix}.eval_scores"] = np.tanh(exact)
    return torch.from_numpy(exact)


def fixed(out: dict[str, np.ndarray]) -> None:
    for name in FIXED:
        gradients(Fixed(name).double(), name, False, len(PAIRS), out)


def losses(out: dict[str, np.ndarray]) -> None:
    """Losses of random scores and their gradients: each anchor with every positive, a row an anchor, then with its negative."""
    n = LOSS_ROWS
    drawn_scores = drawn("losses").uniform(-1.0, 1.0, n * n + n)
    out["losses.scores"] = drawn_scores
    out["losses.scale_and_bias"] = np.array(LOSS_SCALE_AND_BIAS)
    for name in ("softmax", "pairwise", "binary"):
        scores = torch.from_numpy(drawn_scores).requires_grad_()
        scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in LOSS_SCALE_AND_BIAS)
        own, against = scores[: n * n].view(n, n), scores[n * n :]
        if name == "softmax":
            logits = SCALE * torch.cat([own, against[:, None]], 1)
            rows = nn.functional.cross_entropy(logits, torch.arange(n), reduction="none")
        elif name == "pairwise":
            rows = torch.logsumexp(torch.stack([own.diagonal(), against]), 0) - own.diagonal()
        else:
            both = scale * torch.cat([own.diagonal(), against]) + bias
            labels = torch.tensor([1.0] * n + [0.0] * n, dtype=torch.float64)
            each = nn.functional.binary_cross_entropy_with_logits(both, labels, reduction="none")
            rows = each.view(2, n).mean(0)
        rows.mean().backward()
        out[f"losses.{name}"] = rows.detach().numpy()
        out[f"losses.{name}.in_scores"] = scores.grad.numpy()
        if name == "binary":
            out["losses.binary.in_scale_and_bias"] = np.array([scale.grad.item(), bias.grad.item()])


def check_zeros(out: dict[str, np.ndarray], start: F4, end: F4) -> None:
    """What the note says of gradients that are zero."""
    zeros = [out["f4.grad.layer.self_attn.in_proj_bias"][KEY_BIAS]]
    zeros += [out[f"f3.{mode}.grad.{conv}.bias"] for mode in ("corrected", "paper") for conv in ("conv1", "conv2")]
    if max(np.abs(z).max() for z in zeros) > ZERO:
        raise SystemExit("a gradient that is to be zero is not")
    decay = (1.0 - LEARNING_RATE * WEIGHT_DECAY) ** STEPS
    biases = (m.layer.self_attn.in_proj_bias.detach()[KEY_BIAS] for m in (start, end))
    moved = (next(biases) * decay - next(biases)).abs().max().item()
    if moved > 1e-10:
        raise SystemExit(f"the keys' biases moved by {moved:.3g} beside their decay")


def pair_weights() -> np.ndarray:
    values = drawn("weights").uniform(0.3, 1.0, len(PAIRS)) * np.where(np.arange(len(PAIRS)) % 3 == 1, -1.0, 1.0)
    return values.astype(np.float32).astype(np.float64)


def make_f4() -> F4:
    module = F4(WIDTH, dropout=0.0).double()
    fill(module, "f4")
    return module


def f4(out: dict[str, np.ndarray]) -> None:
    module = make_f4()
    out |= {f"f4.param.{name}": p.numpy().copy() for name, p in trained(module).items()}
    gradients(module, "f4", False, len(PAIRS), out)
    queries, documents = (wide(rows) for rows in corpus())
    of_pairs = [queries[q] for q, _ in PAIRS], [documents[c] for _, c in PAIRS]
    logits = module.eval()(*channels(*of_pairs)).detach()
    close("F4's logits in train and eval mode", logits, torch.from_numpy(out["f4.logits"]))
    alone = [module(*channels([q], [c])) for q, c in zip(*of_pairs, strict=True)]
    close("F4's logits of a batch and of its pairs alone", logits, torch.cat(alone).detach())
    out["f4.scores"] = logits.tanh().numpy()


def f3(out: dict[str, np.ndarray]) -> None:
    module = F3(*F3_SMALL, dropout=0.0).double()
    fill(module, "f3")
    start = {name: p.clone() for name, p in module.state_dict().items()}
    out |= {f"f3.param.{name}": p.numpy().copy() for name, p in trained(module).items()}
    queries, documents = (wide(rows) for rows in corpus())
    for mode, n_pairs in (("corrected", len(PAIRS)), ("paper", SHORT_PAIRS)):
        of_pairs = [queries[q] for q, _ in PAIRS[:n_pairs]], [documents[c] for _, c in PAIRS[:n_pairs]]
        module.load_state_dict(start)
        logits = eval_logits(module, f"f3.{mode}", mode == "paper", n_pairs, out)
        alone = torch.cat([module(*channels([q], [c], mode == "paper")) for q, c in zip(*of_pairs, strict=True)]).detach()
        if mode == "corrected":
            close("F3's logits of a batch and of its pairs alone", logits, alone)
        elif (logits - alone).abs().max() < 0.01:
            raise SystemExit("padding of the batch does not show in F3's logits")
        gradients(module, f"f3.{mode}", mode == "paper", n_pairs, out)


def batch() -> list[np.ndarray]:
    """Anchors, positives (the anchor's tokens in another order, and others), negatives (two of its tokens replaced)."""
    columns = [texts(f"steps.{side}", list(lengths)) for side, lengths in zip("apn", zip(*BATCH, strict=True), strict=True)]
    generator = drawn("steps.alike")
    for anchor, positive, negative in zip(*columns, strict=True):
        for j in range(len(positive)):
            if j < len(anchor):
                positive[len(positive) - 1 - j] = near(generator, anchor[j], 0.6)
        for j in range(min(len(anchor), len(negative))):
            if j not in (1, 3):
                negative[j] = near(generator, anchor[j], 0.3)
    return [text for column in columns for text in column]


def batch_loss(module: nn.Module, half: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax over the batch, and all scores `[4, 5]`."""
    rows, n = wide(batch(), dtype=dtype_of(module)), len(BATCH)
    anchors, positives, negatives = (rows[i : i + n] for i in range(0, 3 * n, n))
    with torch.autocast("cpu", dtype=torch.float16, enabled=half):
        # Each row in a call of its own against all positives, and one more call for the negatives.
        calls = [channels([anchor] * n, positives) for anchor in anchors] + [channels(anchors, negatives)]
        logits = [module(*call) for call in calls]
    *own, against = (call.to(dtype_of(module)).tanh() for call in logits)
    scores = torch.cat([torch.stack(own), against[:, None]], 1)
    return nn.functional.cross_entropy(SCALE * scores, torch.arange(n)), scores


class Scaled(nn.Module):
    """F4 with scale and bias of its scores."""

    def __init__(self, scorer: F4):
        super().__init__()
        self.scorer = scorer
        self.scale, self.bias = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (START_SCALE, START_BIAS))


def binary_loss(module: Scaled, half: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy, a mean over four positives and four negatives."""
    rows, n = wide(batch(), dtype=dtype_of(module)), len(BATCH)
    labels = torch.tensor([1.0] * n + [0.0] * n, dtype=dtype_of(module))
    with torch.autocast("cpu", dtype=torch.float16, enabled=half):
        logits = module.scorer(*channels(rows[:n] * 2, rows[n:]))
    scores = logits.to(dtype_of(module)).tanh()
    return nn.functional.binary_cross_entropy_with_logits(module.scale * scores + module.bias, labels), scores


def gradient_of(module: nn.Module, loss_of, half: bool) -> dict[str, np.ndarray]:
    """In every parameter, and the loss as `loss`."""
    module.zero_grad()
    scale = GRADIENT_SCALE if half else 1.0
    loss, _ = loss_of(module, half)
    (scale * loss).backward()
    found = {name: p.grad.double().numpy() / scale for name, p in module.named_parameters()}
    return found | {"loss": np.array(loss.item())}


def follow(module: nn.Module, loss_of, prefix: str, out: dict[str, np.ndarray]):
    """Ten steps: losses, norms and the errors of gradients in lower precision. Yields the number of each step, with gradients
    that are not clipped yet, and the scores."""
    module.train()
    parameters = dict(module.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    losses, norms = [], []
    for step in range(STEPS):
        found = dict(inexact(module, lambda module, half: gradient_of(module, loss_of, half)))
        optimizer.zero_grad()
        loss, scores = loss_of(module, False)
        loss.backward()
        for kind, inexact_ones in found.items():
            errors = {"losses": squared(inexact_ones["loss"], np.array(loss.item()))}
            for name, p in parameters.items():
                errors[f"grad.{name.removeprefix('scorer.')}"] = squared(inexact_ones[name], p.grad.numpy())
            for name, error in errors.items():
                out.setdefault(f"errors.{kind}.{prefix}.{name}", np.zeros(STEPS))[step] = error
        yield step, scores.detach().numpy()
        norms.append(nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM).item())
        losses.append(loss.item())
        optimizer.step()
    out[f"{prefix}.losses"], out[f"{prefix}.norms"] = np.array(losses), np.array(norms)
    clipped = int((out[f"{prefix}.norms"] > MAX_NORM).sum())
    if not 0 < clipped < STEPS:
        raise SystemExit(f"{prefix}: {clipped} of {STEPS} steps are clipped")


def steps(out: dict[str, np.ndarray]) -> None:
    rows = batch()
    out["steps.texts"] = np.concatenate(rows)
    out["steps.texts_offsets"] = np.cumsum([0] + [len(r) for r in rows]).astype(np.uint32)

    module = make_f4()
    all_scores = []
    for step, scores in follow(module, batch_loss, "steps", out):
        all_scores.append(scores)
        for name, p in module.named_parameters():
            out[f"steps.grad.{step}.{name}"] = p.grad.numpy().reshape(-1)[step % STRIDE :: STRIDE].copy()
    out["steps.scores"] = np.array(all_scores)
    for name, p in module.named_parameters():
        out[f"steps.weights.{name}"] = p.detach().numpy().reshape(-1)[::STRIDE].copy()
    check_zeros(out, make_f4(), module)

    scaled = Scaled(make_f4())
    found: dict[str, list[float]] = {"scale": [], "bias": []}
    for _ in follow(scaled, binary_loss, "bce", out):
        found["scale"].append(scaled.scale.item())
        found["bias"].append(scaled.bias.item())
    found["scale"].append(scaled.scale.item())
    found["bias"].append(scaled.bias.item())
    out |= {f"bce.{name}": np.array(values) for name, values in found.items()}


def check_sizes() -> None:
    """The parameters of the verifiers as they are used."""
    for module, want in ((F3(), 332_545), (F4(384), 940_065), (F4(768), 3_354_657)):
        have = sum(p.numel() for p in module.parameters())
        if have != want:
            raise SystemExit(f"{type(module).__name__} has {have} parameters, not {want}")


def make() -> dict[str, np.ndarray]:
    """The tensors of the file, all that is computed in float64."""
    check_sizes()
    queries, documents = corpus()
    out = {
        "pairs": np.array(PAIRS, dtype=np.uint32),
        "weights": pair_weights(),
        "steps.learning_rate": np.array([LEARNING_RATE]),
        "steps.weight_decay": np.array([WEIGHT_DECAY]),
        "steps.betas": np.array(BETAS),
        "steps.eps": np.array([EPS]),
        "steps.scale": np.array([SCALE]),
        "steps.max_norm": np.array([MAX_NORM]),
    }
    for name, rows in (("queries", queries), ("documents", documents)):
        out[name] = np.concatenate(rows)
        out[f"{name}_offsets"] = np.cumsum([0] + [len(r) for r in rows]).astype(np.uint32)
    f4(out)
    f3(out)
    fixed(out)
    losses(out)
    steps(out)
    return out


def as_stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters, which float32 holds, and gradients, which are rounded once, in float32; all else as it is."""

    def single(name: str) -> bool:
        return not name.startswith("errors.") and any(part in name for part in (".param.", ".grad.", ".grad_"))

    return {n: np.ascontiguousarray(t, dtype=np.float32 if single(n) else None) for n, t in tensors.items()}


def differences(exact: dict[str, np.ndarray]) -> list[str]:
    """What the committed file and a newly made one disagree about, one line each."""
    want, have = as_stored(exact), safetensors.numpy.load_file(FILE)
    found = [f"{name}: is missing here or there" for name in sorted(want.keys() ^ have.keys())]
    with safetensors.safe_open(FILE, "numpy") as file:
        if file.metadata() != {"note": NOTE}:
            found.append("other metadata")
    for name in sorted(want.keys() & have.keys()):
        values = have[name]
        if values.shape != want[name].shape or values.dtype != want[name].dtype:
            found.append(f"{name}: is {values.dtype}{values.shape}, not {want[name].dtype}{want[name].shape}")
        elif name.startswith("errors."):
            continue
        elif exact[name].dtype == np.float64:
            rounding = 0.5 * np.spacing(np.abs(values)).astype(np.float64) if values.dtype == np.float32 else 0.0
            # Gradients are sums of up to some hundred thousand products.
            slack = TRAJECTORY_SLACK if name.startswith(("steps.", "bce.")) else 10 * FLOAT64_SLACK
            slack *= max(1.0, float(np.abs(exact[name]).max(initial=0.0)))
            if not (np.abs(values.astype(np.float64) - exact[name]) <= rounding + slack).all():
                found.append(f"{name}: differs from what this script makes")
        elif not np.array_equal(values, want[name]):
            found.append(f"{name}: differs")
    # Errors of what belongs together.
    sums: dict[str, list[float]] = {}
    for name in sorted(want.keys() & have.keys()):
        if name.startswith("errors."):
            both = sums.setdefault(name.partition(".grad")[0], [0.0, 0.0])
            both[0] += have[name].sum()
            both[1] += want[name].sum()
    for name, (stored, here) in sums.items():
        ratio = (stored / here) ** 0.5
        if not 1 / YARDSTICK_SLACK < ratio < YARDSTICK_SLACK:
            found.append(f"{name}: is {ratio:.3g} times what this machine finds")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make, or check, tests/golden/verifiers.safetensors.")
    parser.add_argument("--check", action="store_true", help="compare the committed file with a newly made one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one summation order
    torch.backends.mha.set_fastpath_enabled(False)  # the layer as it is written, in eval mode too
    exact = make()
    if not arguments.check:
        safetensors.numpy.save_file(as_stored(exact), FILE, metadata={"note": NOTE})
        FILE.chmod(0o644)
        print(f"{FILE}: {FILE.stat().st_size:,} bytes")
        return 0
    found = differences(exact)
    for line in found:
        print(f"{FILE}: {line}", file=sys.stderr)
    if not found:
        print(f"{FILE.name}: as made")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
