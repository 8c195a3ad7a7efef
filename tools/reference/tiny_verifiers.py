#!/usr/bin/env python3
"""Make tests/golden/verifiers.safetensors: the learned verifiers F3 and F4 over token maps, by PyTorch in float64.

Both are written with the layers of torch.nn, over maps padded to 128 x 128, and narrow: F4 over tokens of width 64, F3 with 16
and 32 channels. The token vectors are not normalised, ragged in length, and held exactly by f16. The file has the scores of a
list of pairs, the gradient of a weighted sum of their logits in every parameter and token vector, F3's running statistics, and
ten steps of training F4 on fixed token vectors, by the softmax over a batch and by binary cross-entropy. Dropout is off.

The best partner of every token beats the next best by a margin, so that arithmetic in f16 finds the same row and column maxima.

    tiny_verifiers.py            write the file
    tiny_verifiers.py --check    make it again and compare
"""

import argparse
import sys
import zlib

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
# Ten steps with a stride of ten have every element once.
STRIDE = 10

# AdamW divides gradients that are zero but for rounding, as those of the keys' biases, by 1e-8.
TRAJECTORY_SLACK = 1e3 * FLOAT64_SLACK

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


def wide(rows: list[np.ndarray], learned: bool = False) -> list[torch.Tensor]:
    return [torch.from_numpy(r.astype(np.float64)).requires_grad_(learned) for r in rows]


def close(what: str, a: torch.Tensor, b: torch.Tensor) -> None:
    error = (a - b).abs().max().item()
    if not error <= FLOAT64_SLACK:
        raise SystemExit(f"{what} differ by {error:.3g}")


def gradients(module: nn.Module, prefix: str, paper: bool, n_pairs: int, out: dict[str, np.ndarray]) -> None:
    """Logits in train mode, and the gradient of their weighted sum in parameters and token vectors."""
    queries, documents = (wide(rows, learned=True) for rows in corpus())
    pairs = PAIRS[:n_pairs]
    module.train().zero_grad()
    logits = module(*channels([queries[q] for q, _ in pairs], [documents[c] for _, c in pairs], paper))
    (logits * torch.from_numpy(pair_weights()[:n_pairs])).sum().backward()
    out[f"{prefix}.logits"] = logits.detach().numpy()
    for name, p in module.named_parameters():
        out[f"{prefix}.grad.{name}"] = p.grad.numpy()
    for name, rows in (("queries", queries), ("documents", documents)):
        # A text of no pair has a gradient of zero.
        out[f"{prefix}.grad_{name}"] = np.concatenate([(torch.zeros_like(r) if r.grad is None else r.grad) for r in rows])


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
        logits = module.eval()(*channels(*of_pairs, mode == "paper")).detach()
        alone = torch.cat([module(*channels([q], [c], mode == "paper")) for q, c in zip(*of_pairs, strict=True)]).detach()
        if mode == "corrected":
            close("F3's logits of a batch and of its pairs alone", logits, alone)
        elif (logits - alone).abs().max() < 0.01:
            raise SystemExit("padding of the batch does not show in F3's logits")
        out[f"f3.{mode}.eval_logits"] = logits.numpy()
        out[f"f3.{mode}.eval_scores"] = logits.tanh().numpy()
        gradients(module, f"f3.{mode}", mode == "paper", n_pairs, out)
        for name, p in trained(module).items():
            if "running" in name:
                out[f"f3.{mode}.after.{name}"] = p.numpy().copy()


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


def optimizer_of(parameters: list[torch.Tensor]) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)


def steps(out: dict[str, np.ndarray]) -> None:
    rows = batch()
    out["steps.texts"] = np.concatenate(rows)
    out["steps.texts_offsets"] = np.cumsum([0] + [len(r) for r in rows]).astype(np.uint32)
    n = len(BATCH)
    anchors, positives, negatives = (wide(rows[i : i + n]) for i in range(0, 3 * n, n))
    # Each row in a call of its own against all positives, and one more call for the negatives.
    calls = [channels([anchor] * n, positives) for anchor in anchors] + [channels(anchors, negatives)]

    module = make_f4().train()
    optimizer = optimizer_of(list(module.parameters()))
    losses, norms, scores = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        *own, against = (module(*call).tanh() for call in calls)
        logits = SCALE * torch.cat([torch.stack(own), against[:, None]], 1)
        loss = nn.functional.cross_entropy(logits, torch.arange(n))
        loss.backward()
        for name, p in module.named_parameters():
            out[f"steps.grad.{step}.{name}"] = p.grad.numpy().reshape(-1)[step % STRIDE :: STRIDE].copy()
        norms.append(nn.utils.clip_grad_norm_(module.parameters(), MAX_NORM).item())
        losses.append(loss.item())
        scores.append(logits.detach().numpy() / SCALE)
        optimizer.step()
    out["steps.losses"], out["steps.norms"], out["steps.scores"] = map(np.array, (losses, norms, scores))
    for name, p in module.named_parameters():
        out[f"steps.weights.{name}"] = p.detach().numpy().reshape(-1)[::STRIDE].copy()
    check_zeros(out, make_f4(), module)

    module = make_f4().train()
    scale, bias = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (START_SCALE, START_BIAS))
    learned = [*module.parameters(), scale, bias]
    optimizer = optimizer_of(learned)
    labels = torch.tensor([1.0] * n + [0.0] * n, dtype=torch.float64)
    both = channels(anchors * 2, positives + negatives)
    found: dict[str, list[float]] = {"losses": [], "norms": [], "scale": [], "bias": []}
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(scale * module(*both).tanh() + bias, labels)
        loss.backward()
        for name, value in (("losses", loss), ("scale", scale), ("bias", bias)):
            found[name].append(value.item())
        found["norms"].append(nn.utils.clip_grad_norm_(learned, MAX_NORM).item())
        optimizer.step()
    found["scale"].append(scale.item())
    found["bias"].append(bias.item())
    out |= {f"bce.{name}": np.array(values) for name, values in found.items()}
    for kind in ("steps", "bce"):
        clipped = int((out[f"{kind}.norms"] > MAX_NORM).sum())
        if not 0 < clipped < STEPS:
            raise SystemExit(f"{kind}: {clipped} of {STEPS} steps are clipped")


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
    steps(out)
    return out


def as_stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters, which float32 holds, and gradients, which are rounded once, in float32; all else as it is."""
    single = (".param.", ".grad.", ".grad_")
    return {
        n: np.ascontiguousarray(t, dtype=np.float32 if any(part in n for part in single) else None)
        for n, t in tensors.items()
    }


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
        elif exact[name].dtype == np.float64:
            rounding = 0.5 * np.spacing(np.abs(values)).astype(np.float64) if values.dtype == np.float32 else 0.0
            # Gradients are sums of up to some hundred thousand products.
            slack = TRAJECTORY_SLACK if name.startswith(("steps.", "bce.")) else 10 * FLOAT64_SLACK
            slack *= max(1.0, float(np.abs(exact[name]).max(initial=0.0)))
            if not (np.abs(values.astype(np.float64) - exact[name]) <= rounding + slack).all():
                found.append(f"{name}: differs from what this script makes")
        elif not np.array_equal(values, want[name]):
            found.append(f"{name}: differs")
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
