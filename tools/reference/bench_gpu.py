#!/usr/bin/env python3
"""What PyTorch, and packages of kernels for it, reach on this GPU, for comparison with our kernels on the same card.

bandwidth  sum of a 10 GB float32 buffer (read), and a copy of it (read and write)
matmul     f16 product with f32 accumulation, `torch.mm`, at each --shape m,n,k:  [m, k] x [n, k]^T
encode     sentence-transformers in f16: the model alone on prepared batches, and end to end from texts
train_step sentence-transformers with f16 autocast, as its trainer does it (cases only): from token ids on; --by compile with the
           transformer compiled
pair_step  end-to-end training of F4 in f32 with TF32 products, padded as the reference pads it (cases only; bench_verifiers.py)
--cases    the cases of our own benches, at their sizes (`gpu-check bench --list gpu` prints them), by PyTorch as one
           writes it (`--by torch`), compiled (`compile`), or by other packages (`peers`): flash-maxsim and
           late-interaction-kernels for MaxSim, flashlib for top-k. What does not import or does not take a size is named.

Times of device work come from CUDA events. A sample is a run of calls, captured as a graph and replayed where that works,
long enough to hide the resolution of the events; its inputs rotate through copies that together are several times larger
than the L2 cache. Every figure is the median over samples after a warm-up. `seconds_alone` is one call started on an idle
device, launch included: what one caller waits for. One JSON object per line goes to standard output, the first with the
facts of the machine. Exit status 77: there is nothing to do here, as the last line says (no PyTorch, no GPU, no package).

    bench_gpu.py --model MODEL --texts texts-20.txt --texts texts-128.txt
    bench_gpu.py --what matmul --shape 4096,384,1536
    bench_gpu.py --cases cases.jsonl --op maxsim --by peers --peers FOLDER
    bench_gpu.py --device cpu --small --what matmul        does the program run at all? (no figures worth keeping)
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

NOTHING_TO_DO = 77


def nothing_to_do(why: str) -> None:
    print(f"skipped: {why}", file=sys.stderr, flush=True)
    sys.exit(NOTHING_TO_DO)


try:
    import torch
except ImportError as missing:
    if not {"-h", "--help"} & set(sys.argv):
        nothing_to_do(str(missing))

PARTS = ["bandwidth", "matmul", "encode"]
# Products of all-MiniLM-L6-v2 over 8192 tokens, and a large square for the peak.
SHAPES = [(8192, 1152, 384), (8192, 384, 384), (8192, 1536, 384), (8192, 384, 1536), (8192, 8192, 8192)]
SAMPLE_SECONDS = 5e-3  # CUDA events resolve about half a microsecond
WARM_UP_SECONDS = 0.3  # clocks rise only under load
CALLS_IN_GRAPH = 256
CACHE_MULTIPLE = 4  # rotating copies: this many times the L2 cache


class Bench:
    """Device, sizes and clock of one run."""

    def __init__(self, device: str, small: bool, repeats: int):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.small = small
        self.repeats = repeats
        self.l2 = torch.cuda.get_device_properties(self.device).L2_cache_size if self.cuda else 1 << 20
        if self.cuda:
            # An f16 product must accumulate in f32, or the comparison is with another computation.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def copies(self, nbytes: int) -> int:
        """How many copies of an input of `nbytes` make every call find it outside the cache."""
        return max(1, -(-CACHE_MULTIPLE * self.l2 // max(1, nbytes)))

    def run(self, function, calls: int) -> float:
        """Seconds for `calls` calls of function(i) in a row."""
        if not self.cuda:
            start = time.perf_counter()
            for i in range(calls):
                function(i)
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.wait()
        begin.record()
        for i in range(calls):
            function(i)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def graph(self, function, calls: int):
        """`calls` calls as one graph; None where they cannot be captured."""
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                function(0)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for i in range(calls):
                    function(i)
            graph.replay()
            self.wait()
            return graph
        except RuntimeError:
            self.wait()
            return None

    def time(self, function, waits: bool = False) -> dict:
        """Median seconds per call of function(i), i counting the calls, in a row and alone; one that waits for its result
        cannot be part of a graph."""
        for i in range(3):
            function(i)
        estimate = self.run(function, 3) / 3
        calls = 1 if self.small else max(1, min(1000, round(SAMPLE_SECONDS / estimate)))
        warm_until = time.perf_counter() + (0.0 if self.small else WARM_UP_SECONDS)
        while time.perf_counter() < warm_until:
            self.run(function, calls)
        graph = self.graph(function, min(calls, CALLS_IN_GRAPH)) if self.cuda and not waits else None
        if graph:
            calls = min(calls, CALLS_IN_GRAPH)
            row = [self.run(lambda _: graph.replay(), 1) / calls for _ in range(self.repeats)]
        else:
            row = [self.run(function, calls) / calls for _ in range(self.repeats)]
        alone = []
        for i in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            function(i)
            self.wait()
            alone.append(time.perf_counter() - start)
        return {
            "seconds_median": statistics.median(row),
            "seconds_min": min(row),
            "seconds_max": max(row),
            "seconds_alone": statistics.median(alone),
            "method": "graph" if graph else "stream",
            "calls_per_sample": calls,
            "repeats": self.repeats,
        }


def emit(**row) -> None:
    print(json.dumps(row), flush=True)


def facts(bench: Bench) -> None:
    row = {"what": "machine", "device": str(bench.device), "torch": torch.__version__, "small": bench.small}
    if bench.cuda:
        properties = torch.cuda.get_device_properties(bench.device)
        row |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    emit(**row, date=time.strftime("%Y-%m-%d", time.gmtime()))


def bandwidth(bench: Bench, _: argparse.Namespace) -> None:
    n = (64 << 20 if bench.small else 10**10) // 4
    source = torch.ones(n, dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    result = bench.time(lambda _: source.sum())
    emit(what="read", nbytes=4 * n, gb_per_s=4e-9 * n / result["seconds_median"], **result)
    result = bench.time(lambda _: target.copy_(source))
    emit(what="copy", nbytes=8 * n, gb_per_s=8e-9 * n / result["seconds_median"], **result)
    if target[-1].item() != 1.0:
        raise SystemExit("the copy did not arrive")


def random_rows(bench: Bench, rows: int, width: int, seed: int) -> torch.Tensor:
    """Unit vectors [rows, width] in f16, made on the device in slices that keep f32 copies small."""
    generator = torch.Generator(device=bench.device).manual_seed(seed)
    out = torch.empty(rows, width, dtype=torch.float16, device=bench.device)
    for part in out.split(1 << 18):
        values = torch.randn(part.shape, generator=generator, device=bench.device)
        part.copy_(torch.nn.functional.normalize(values, dim=1))
    return out


def matmul(bench: Bench, a: argparse.Namespace) -> None:
    for m, n, k in a.shape or ([(64, 48, 96)] if bench.small else SHAPES):
        sets = bench.copies(2 * (m * k + n * k + m * n))
        left = [random_rows(bench, m, k, 2 * i) for i in range(sets)]
        right = [random_rows(bench, n, k, 2 * i + 1) for i in range(sets)]
        out = [torch.empty(m, n, dtype=torch.float16, device=bench.device) for _ in range(sets)]

        def call(i: int, left=left, right=right, out=out, sets=sets) -> None:
            torch.mm(left[i % sets], right[i % sets].T, out=out[i % sets])

        call(0)
        rows = slice(0, 64)
        exact = left[0][rows].double() @ right[0].double().T
        error = (out[0][rows].double() - exact).abs().max().item()
        # Values are at most 1: half an f16 step there is 2^-12, and the f32 sum of k products adds less than k 2^-23.
        if error > 2.0**-12 + k * 2.0**-23:
            raise SystemExit(f"torch.mm at {m},{n},{k} is off by {error:.3g}")
        result = bench.time(call)
        tflops = 2e-12 * m * n * k / result["seconds_median"]
        emit(what="matmul", m=m, n=n, k=k, dtype="f16", sets=sets, tflop_per_s=tflops, **result)
        del left, right, out


# --- the cases of our own benches ---------------------------------------------------------------------------------------
#
# A case is made of `inputs`, as many sets of tensors as rotate, and a function of one set; `exact` holds what a sample of
# its result has to be, computed in float64, and `bound` how far off it may be, where that can be said: an f16 result of
# absolute value at most 1 is off by 2^-12, and an f32 sum of n products of such size by less than n 2^-23.


class Case:
    """What to run, on what, and what must come out: `sample` picks the part of the result that `exact` is."""

    def __init__(self, function, inputs, sample, exact, bound=None):
        self.function, self.inputs, self.sample, self.exact, self.bound = function, inputs, sample, exact, bound


def noise(bench: Bench, *shape: int, seed: int, dtype=None) -> torch.Tensor:
    """Normal numbers, in f16 unless `dtype` is given."""
    generator = torch.Generator(device=bench.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=bench.device).to(dtype or torch.float16)


def unit(bench: Bench, *shape: int, seed: int) -> torch.Tensor:
    rows = random_rows(bench, shape[0] if len(shape) == 2 else torch.Size(shape[:-1]).numel(), shape[-1], seed)
    return rows.view(shape)


def case_embedding(bench: Bench, s: dict) -> Case:
    t, vocab, width = s["tokens"], s["vocab"], s["width"]
    word, position, kind = (noise(bench, n, width, seed=i) for i, n in enumerate((vocab, 512, 2)))
    places = torch.arange(t, device=bench.device) % 512
    ids = [torch.arange(t, device=bench.device).mul(7919).add(i) % vocab for i in range(bench.copies(8 * t * width))]

    def function(ids):
        embedding = torch.nn.functional.embedding
        return embedding(ids, word).float() + embedding(places, position).float() + kind[0].float()

    exact = word[ids[0][:8]].double() + position[places[:8]].double() + kind[0].double()
    return Case(function, [(i,) for i in ids], lambda out: out[:8], exact)


def case_layer_norm(bench: Bench, s: dict) -> Case:
    t, width = s["tokens"], s["width"]
    weight, bias = (noise(bench, width, seed=i, dtype=torch.float32) for i in (1, 2))
    inputs = [(noise(bench, t, width, seed=3 + i, dtype=torch.float32), noise(bench, t, width, seed=99 + i))
              for i in range(bench.copies(12 * t * width))]  # fmt: skip

    def function(x, residual):
        y = torch.nn.functional.layer_norm(x + residual, (width,), weight, bias, 1e-12)
        return y, y.half()

    x = inputs[0][0][:8].double() + inputs[0][1][:8].double()
    exact = torch.nn.functional.layer_norm(x, (width,), weight.double(), bias.double(), 1e-12)
    return Case(function, inputs, lambda out: out[0][:8], exact)


def case_matmul(bench: Bench, s: dict) -> Case:
    m, n, k = s["m"], s["n"], s["k"]
    bias = noise(bench, n, seed=1)
    inputs = [(noise(bench, m, k, seed=2 + i), unit(bench, n, k, seed=99 + i))
              for i in range(bench.copies(2 * (m * k + n * k + m * n)))]  # fmt: skip
    gelu = torch.nn.functional.gelu if s["gelu"] else lambda x: x

    def function(a, w):
        return gelu(torch.nn.functional.linear(a, w, bias))

    exact = gelu(inputs[0][0][:8].double() @ inputs[0][1].double().T + bias.double())
    return Case(function, inputs, lambda out: out[:8], exact)


def case_matmul_nn(bench: Bench, s: dict) -> Case:
    m, n, k = s["m"], s["n"], s["k"]
    beside = {"gelu": torch.float16, "residual": torch.float32}
    kind = next((dtype for name, dtype in beside.items() if s[name]), None)
    inputs = [(noise(bench, m, n, seed=2 + i), unit(bench, n, k, seed=99 + i),
               None if kind is None else noise(bench, m, k, seed=199 + i, dtype=kind))
              for i in range(bench.copies(2 * (m * n + n * k + 2 * m * k)))]  # fmt: skip

    def function(a, w, other):
        c = a @ w
        if s["gelu"]:
            return torch.ops.aten.gelu_backward(c, other)
        return c if other is None else other + c

    a, w, other = (part if part is None else part[:8 if i != 1 else None].double() for i, part in enumerate(inputs[0]))
    return Case(function, inputs, lambda out: out[:8], function(a, w, other))


def case_matmul_tn(bench: Bench, s: dict) -> Case:
    t, n, k = s["t"], s["n"], s["k"]
    inputs = [(noise(bench, t, n, seed=2 + i), noise(bench, t, k, seed=99 + i))
              for i in range(bench.copies(2 * t * (n + k)))]  # fmt: skip

    # The gradients as a linear layer under autocast makes them, in f16, and their sum with what is there in f32.
    c, sums = torch.zeros(n, k, device=bench.device), torch.zeros(n, device=bench.device)

    def function(a, b):
        c.add_(a.T @ b)
        sums.add_(a.sum(0, dtype=torch.float32))
        return c

    exact = inputs[0][0][:, :8].double().T @ inputs[0][1].double()
    return Case(function, inputs, lambda out: out[:8], exact)


def case_attention(bench: Bench, s: dict) -> Case:
    """In training, too, without dropout, so that it can be compared."""
    n, tokens, heads, dim = s["texts"], s["tokens"], s["heads"], s["head_dim"]
    inputs = [(noise(bench, n * tokens, 3 * heads * dim, seed=i),)
              for i in range(bench.copies(8 * n * tokens * heads * dim))]  # fmt: skip

    def function(qkv):
        q, k, v = qkv.view(-1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(-1, heads * dim)

    return Case(function, inputs, lambda out: out[:tokens], function(inputs[0][0][:tokens].double()))


def case_attention_backward(bench: Bench, s: dict) -> Case:
    """Of the gradient alone, the graph of its forward kept; without dropout, so that it can be compared."""
    n, tokens, heads, dim = s["texts"], s["tokens"], s["heads"], s["head_dim"]
    gradient = noise(bench, n * tokens, heads * dim, seed=1)

    def forward(qkv):
        q, k, v = qkv.view(-1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(-1, heads * dim)

    def function(out, qkv):
        return torch.autograd.grad(out, qkv, gradient[: len(out)].to(out.dtype), retain_graph=True)[0]

    inputs = []
    for i in range(bench.copies(16 * n * tokens * heads * dim)):
        qkv = noise(bench, n * tokens, 3 * heads * dim, seed=2 + i).requires_grad_()
        inputs.append((forward(qkv), qkv))
    alone = inputs[0][1].detach()[:tokens].double().requires_grad_()
    return Case(function, inputs, lambda out: out[:tokens], function(forward(alone), alone))


def case_dropout(bench: Bench, s: dict) -> Case:
    t, width = s["tokens"], s["width"]
    inputs = [(noise(bench, t, width, seed=i),) for i in range(bench.copies(4 * t * width))]
    exact = inputs[0][0][:8].double() / 0.9
    # Which elements are dropped is chance; what is compared are the others.
    return Case(lambda x: torch.nn.functional.dropout(x, 0.1), inputs,
                lambda out: torch.where(out[:8] == 0, exact, out[:8].double()), exact)  # fmt: skip


def case_pool(bench: Bench, s: dict) -> Case:
    n, tokens, width = s["texts"], s["tokens"], s["width"]
    inputs = [(noise(bench, n, tokens, width, seed=i, dtype=torch.float32),)
              for i in range(bench.copies(4 * n * tokens * width))]  # fmt: skip

    def function(h):
        return torch.nn.functional.normalize(h.mean(1), dim=1)

    return Case(function, inputs, lambda out: out[:8], function(inputs[0][0][:8].double()))


def case_cosine_topk(bench: Bench, s: dict) -> Case:
    n, width, k = s["rows"], s["width"], s["k"]
    inputs = [(unit(bench, s["queries"], width, seed=2 * i), unit(bench, n, width, seed=2 * i + 1))
              for i in range(bench.copies(2 * n * width))]  # fmt: skip

    def function(queries, documents):
        return torch.topk(queries @ documents.T, k, dim=1)

    # How good the rows are that were found; which they are may differ between rows that are level.
    queries, documents = inputs[0]
    best = torch.cat([torch.topk((queries[:1].double() @ part.double().T)[0], min(k, len(part))).values
                      for part in documents.split(1 << 20)])  # fmt: skip

    def sample(out):
        ids = out if isinstance(out, torch.Tensor) else out[1]
        found = (documents[ids.reshape(-1, k)[0].long()].double() @ queries[0].double())
        return found.sort(descending=True).values

    exact = best.sort(descending=True).values[:k]
    return Case(function, inputs, sample, exact, 2 * (2.0**-12 + width * 2.0**-23))


def listed_tokens(bench: Bench, s: dict) -> list:
    pairs, width = s["pairs"], s["width"]
    sets = bench.copies(2 * pairs * (s["query"] + s["document"]) * width)
    return [(unit(bench, pairs, s["query"], width, seed=2 * i), unit(bench, pairs, s["document"], width, seed=2 * i + 1))
            for i in range(sets)]  # fmt: skip


def case_similarity_map(bench: Bench, s: dict) -> Case:
    inputs = listed_tokens(bench, s)

    # f32 maps, as ours are; without a second pass where the product can write them.
    wide = {"out_dtype": torch.float32} if bench.cuda else {}
    try:
        torch.bmm(inputs[0][0][:1], inputs[0][1][:1].mT, **wide)
    except (TypeError, RuntimeError):
        wide = {}

    def function(queries, documents):
        return torch.bmm(queries, documents.mT, **wide).float()

    exact = inputs[0][0][:8].double() @ inputs[0][1][:8].double().mT
    return Case(function, inputs, lambda out: out[:8], exact, 2.0**-12 + s["width"] * 2.0**-23)


def case_soft_alignment(bench: Bench, s: dict) -> Case:
    inputs = listed_tokens(bench, s)
    rows = torch.arange(s["query"], device=bench.device)[:, None]
    columns = torch.arange(s["document"], device=bench.device)
    apart = (rows - columns).abs()

    def function(queries, documents):
        similar = torch.bmm(queries, documents.mT)
        similar = similar if similar.dtype == torch.float64 else similar.float()
        share = torch.softmax((similar - 0.1 * apart) / 0.1, dim=-1)
        place = (share * columns).sum(-1)
        back = torch.relu(place[:, :-1] - place[:, 1:]).square().mean(-1)
        return (share * similar).sum(-1).mean(-1) - 0.1 * back

    first = [part[:8].double() for part in inputs[0]]
    return Case(function, inputs, lambda out: out[:8], function(*first))


def case_maxsim(bench: Bench, s: dict) -> Case:
    n, documents, lq, lc, width = s["queries"], s["documents"], s["query"], s["document"], s["width"]
    sets = bench.copies(2 * documents * lc * width)
    asked = [unit(bench, n, lq, width, seed=2 * i) for i in range(sets)]
    shape = (n, documents // n, lc, width) if s["listed"] else (documents, lc, width)
    stored = [unit(bench, *shape, seed=2 * i + 1) for i in range(sets)]
    # Documents whose map of f16 numbers this holds.
    at_once = max(1, (4 << 30) // (2 * n * lq * lc))

    def function(queries, documents):
        if documents.dim() == 4:
            return (queries[:, None] @ documents.mT).amax(-1).sum(-1, dtype=torch.float32)
        flat = queries.reshape(-1, queries.shape[-1])
        parts = [torch.einsum("qd,ntd->nqt", flat, part).amax(-1) for part in documents.split(at_once)]
        best = torch.cat(parts).view(len(documents), len(queries), -1)
        return best.sum(-1, dtype=torch.float32).T

    few = stored[0][:1, :8] if s["listed"] else stored[0][:8]
    exact = torch.einsum("id,ntd->nit", asked[0][0].double(), few.double().reshape(-1, lc, width)).amax(-1).sum(-1)
    bound = lq * (2.0**-12 + (width + lq) * 2.0**-23)
    return Case(function, list(zip(asked, stored)), lambda out: out.reshape(n, -1)[0, : len(exact)], exact, bound)


def case_pair_dot(bench: Bench, s: dict) -> Case:
    n, width = s["pairs"], s["width"]
    inputs = [(unit(bench, n, width, seed=2 * i), unit(bench, n, width, seed=2 * i + 1))
              for i in range(bench.copies(4 * n * width))]  # fmt: skip
    partners = torch.arange(n - 1, -1, -1, device=bench.device)

    def function(a, b):
        return (a.float() * b[partners].float()).sum(1)

    exact = (inputs[0][0][:8].double() * inputs[0][1][partners[:8]].double()).sum(1)
    return Case(function, inputs, lambda out: out[:8], exact, width * 2.0**-23)


def case_normalize_rows(bench: Bench, s: dict) -> Case:
    inputs = [(noise(bench, s["tokens"], s["width"], seed=i, dtype=torch.float32),)
              for i in range(bench.copies(10 * s["tokens"] * s["width"]))]  # fmt: skip

    def function(x):
        rows = torch.nn.functional.normalize(x, dim=1)
        return rows, rows.half()

    exact = torch.nn.functional.normalize(inputs[0][0][:8].double(), dim=1)
    return Case(function, inputs, lambda out: out[1][:8], exact, 2.0**-12 + s["width"] * 2.0**-23)


def case_scatter_rows(bench: Bench, s: dict) -> Case:
    t, width = s["tokens"], s["width"]
    inputs = [(noise(bench, t, width, seed=i),) for i in range(bench.copies(4 * t * width))]
    # Texts of twenty tokens, the last one first.
    places = torch.cat(torch.arange(t, device=bench.device).split(20)[::-1])

    def function(x):
        return torch.empty_like(x).index_copy_(0, places, x)

    return Case(function, inputs, lambda out: out[places[:8]], inputs[0][0][:8].double(), 0.0)


def case_pool_backward(bench: Bench, s: dict) -> Case:
    n, tokens, width = s["texts"], s["tokens"], s["width"]
    inputs = [(noise(bench, n, tokens, width, seed=i, dtype=torch.float32),
               noise(bench, n, width, seed=99 + i, dtype=torch.float32))
              for i in range(bench.copies(8 * n * tokens * width))]  # fmt: skip

    def function(h, d_out):
        mean = h.mean(1)
        norm = mean.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit = mean / norm
        gradient = (d_out - unit * (unit * d_out).sum(1, keepdim=True)) / norm / tokens
        return gradient[:, None].expand(-1, tokens, -1).contiguous()

    exact = function(*(part[:8].double() for part in inputs[0]))
    return Case(function, inputs, lambda out: out[:8], exact)


def case_layer_norm_backward(bench: Bench, s: dict) -> Case:
    """From what PyTorch's forward keeps: the sum with the residual, mean and deviation."""
    t, width = s["tokens"], s["width"]
    weight, bias, d_weight, d_bias = (noise(bench, width, seed=i, dtype=torch.float32) for i in range(4))

    def kept(i):
        v, dy = (noise(bench, t, width, seed=seed + i, dtype=torch.float32) for seed in (4, 99))
        return v, *torch.native_layer_norm(v, (width,), weight, bias, 1e-12)[1:], dy

    inputs = [kept(i) for i in range(bench.copies(14 * t * width))]

    def function(v, mean, rstd, dy):
        dx, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            dy, v, (width,), mean, rstd, weight, bias, [True, True, True])  # fmt: skip
        d_weight.add_(of_weight)
        d_bias.add_(of_bias)
        return dx, dx.half()

    v, gradient = inputs[0][0][:8].double(), inputs[0][3][:8].double() * weight.double()
    deviation = v - v.mean(1, keepdim=True)
    rstd = (deviation.square().mean(1, keepdim=True) + 1e-12).rsqrt()
    z = deviation * rstd
    exact = (gradient - gradient.mean(1, keepdim=True) - z * (z * gradient).mean(1, keepdim=True)) * rstd
    return Case(function, inputs, lambda out: out[0][:8], exact)


def case_embedding_backward(bench: Bench, s: dict) -> Case:
    """As autograd does it: a gradient of each whole table, which is added to what is there."""
    t, vocab, width = s["tokens"], s["vocab"], s["width"]
    word, position, kind = (noise(bench, n, width, seed=i, dtype=torch.float32) for i, n in enumerate((vocab, 512, 2)))
    places = torch.arange(t, device=bench.device) % 64
    inputs = []
    for i in range(bench.copies(4 * t * width)):
        # Words as frequent as words are: the k-th at about 1 / k.
        generator = torch.Generator(device=bench.device).manual_seed(i)
        uniform = torch.rand(t, generator=generator, device=bench.device)
        inputs.append((noise(bench, t, width, seed=99 + i, dtype=torch.float32), (vocab**uniform).long() - 1))

    def function(dx, ids):
        of = torch.ops.aten.embedding_dense_backward
        of_position = of(dx, places, 512, -1, False)
        word.add_(of(dx, ids, vocab, -1, False))
        position.add_(of_position)
        kind[0].add_(dx.sum(0))
        return of_position

    exact = torch.zeros(512, width, dtype=torch.float64, device=bench.device)
    exact.index_add_(0, places, inputs[0][0].double())
    return Case(function, inputs, lambda out: out[:8], exact[:8])


def case_info_nce(bench: Bench, s: dict) -> Case:
    b, m, width, scale = s["anchors"], s["candidates"], s["width"], 10.0
    inputs = [(unit(bench, b, width, seed=2 * i).float(), unit(bench, m, width, seed=2 * i + 1).float())
              for i in range(bench.copies(8 * (b + m) * width))]  # fmt: skip
    labels = torch.arange(b, device=bench.device)

    def function(anchors, candidates):
        # What cross_entropy and its backward compute.
        scores = scale * anchors @ candidates.T
        losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
        slopes = torch.softmax(scores, dim=1)
        slopes[labels, labels] -= 1.0
        slopes *= scale / b
        return losses, slopes @ candidates, slopes.T @ anchors

    exact = function(*[part.double() for part in inputs[0]])[0]
    # Scores of at most 10 with a product of `width` terms each, and as much again for the softmax.
    return Case(function, inputs, lambda out: out[0], exact, 4 * scale * (width + m) * 2.0**-23)


def case_grad_norm(bench: Bench, s: dict) -> Case:
    n = s["elements"]
    inputs = [(noise(bench, n, seed=i, dtype=torch.float32),) for i in range(bench.copies(4 * n))]
    exact = torch.linalg.vector_norm(inputs[0][0].double()).reshape(1)
    return Case(lambda g: torch.linalg.vector_norm(g), inputs, lambda out: out.reshape(1), exact)


def case_adamw(bench: Bench, s: dict) -> Case:
    n, rate, decay = s["elements"], 1e-4, 0.01

    def tensors(i: int):
        gradient, weights = (noise(bench, n, seed=2 * i + j, dtype=torch.float32) for j in range(2))
        first, second = torch.zeros_like(weights), torch.zeros_like(weights)
        return gradient, first, second, weights, weights.half()

    inputs = [tensors(i) for i in range(bench.copies(18 * n))]
    step, clip = (torch.ones((), device=bench.device) for _ in range(2))

    def function(gradient, first, second, weights, working):
        gradient.mul_(clip)  # as clip_grad_norm_ ends
        torch._fused_adamw_(
            [weights], [gradient], [first], [second], [], [step], lr=rate, beta1=0.9, beta2=0.999, weight_decay=decay,
            eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
        return weights, working.copy_(weights)

    gradient, _, _, weights, _ = (part[:8].double() for part in inputs[0])
    exact = weights * (1 - rate * decay) - rate * gradient / (gradient.abs() + 1e-8)
    # A few roundings of a weight below 8.
    return Case(function, inputs, lambda out: out[0][:8], exact, 8 * 2.0**-22)


CASES = {
    "embedding": case_embedding,
    "layer_norm": case_layer_norm,
    "matmul": case_matmul,
    "matmul_nn": case_matmul_nn,
    "matmul_tn": case_matmul_tn,
    "attention": case_attention,
    "attention_backward": case_attention_backward,
    "dropout": case_dropout,
    "pool": case_pool,
    "cosine_topk": case_cosine_topk,
    "similarity_map": case_similarity_map,
    "maxsim": case_maxsim,
    "soft_alignment": case_soft_alignment,
    "pair_dot": case_pair_dot,
    "normalize_rows": case_normalize_rows,
    "scatter_rows": case_scatter_rows,
    "pool_backward": case_pool_backward,
    "layer_norm_backward": case_layer_norm_backward,
    "embedding_backward": case_embedding_backward,
    "info_nce": case_info_nce,
    "grad_norm": case_grad_norm,
    "adamw": case_adamw,
}


def peers_maxsim(s: dict) -> dict:
    """Packages of MaxSim kernels, each by the entry point that its documentation names for these sizes."""

    def flash_maxsim():
        import flash_maxsim as package

        if s["listed"]:
            return package.flash_maxsim_rerank_padded
        if s["queries"] == 1:
            return lambda queries, documents: package.flash_maxsim(queries[0], documents)
        return package.flash_maxsim_batched

    def flash_maxsim_splitk():
        import flash_maxsim as package

        if s["listed"] or s["queries"] > 1 or min(s["query"], s["document"]) < 512:
            return None
        return lambda queries, documents: package.flash_maxsim(queries[0], documents, splitk=True)

    def late_interaction_kernels():
        return importlib.import_module("late_interaction_kernels").maxsim

    return {
        "flash-maxsim": flash_maxsim,
        "flash-maxsim splitk": flash_maxsim_splitk,
        "late-interaction-kernels": late_interaction_kernels,
    }


def peers_cosine_topk(s: dict) -> dict:
    def flashlib():
        # Of unit vectors the nearest are those of the largest cosine.
        knn = importlib.import_module("flashlib").flash_knn
        return lambda queries, documents: knn(queries, documents, s["k"], return_distances=False)

    return {"flashlib": flashlib}


PEERS = {"maxsim": peers_maxsim, "cosine_topk": peers_cosine_topk}


def implementations(op: str, sizes: dict, by: str) -> dict:
    """Name and maker of a function of one set of inputs, or of None where the case is not for it."""
    if by == "peers":
        return PEERS[op](sizes) if op in PEERS else {}
    return {"torch.compile" if by == "compile" else "torch": None}


def run_case(bench: Bench, op: str, shape: str, sizes: dict, by: str) -> None:
    makers = implementations(op, sizes, by)
    case = CASES[op](bench, sizes)
    for name, make in makers.items():
        row = {"op": op, "shape": shape, "by": name}
        try:
            if make:
                function = make()
            elif by == "compile":
                function = torch.compile(case.function, mode="max-autotune-no-cudagraphs", dynamic=False)
            else:
                function = case.function
            if function is None:
                continue
            with torch.inference_mode():
                got = case.sample(function(*case.inputs[0])).double()
                error = (got - case.exact).abs().max().item()
                if not error <= (case.bound if case.bound is not None else float("inf")):
                    emit(**row, error=error, note=f"off by {error:.3g}, more than its bound {case.bound:.3g}")
                    continue
                inputs = case.inputs

                def call(i, function=function, inputs=inputs):
                    return function(*inputs[i % len(inputs)])

                row |= {"error": error, "bound": case.bound, "sets": len(inputs)}
                # A package may wait within a call, and a capture that fails can spoil what comes after it.
                if make:
                    emit(**row, **bench.time(call, waits=True))
                result = bench.time(call)
            if not make or result["method"] == "graph":
                emit(**row, **result)
        except Exception as e:  # whatever a package does not take is its own row, and no end of the others
            emit(**row, note=f"{type(e).__name__}: {e}".splitlines()[0][:200])


def cases(bench: Bench, a: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in a.cases.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if not a.op or row["op"] in a.op]
    if not rows:
        raise SystemExit(f"{a.cases}: no case of {', '.join(a.op)}")
    for row in rows:
        if row["op"] == "encode":
            if a.by == "torch":
                encode_case(bench, a, row)
        elif row["op"] == "train_step":
            if row["sizes"]["part"] == "Step":
                train_step_case(bench, a, row)
        elif row["op"] == "pair_step":
            pair_step_case(bench, a, row)
        else:
            run_case(bench, row["op"], row["shape"], row["sizes"], a.by)
        if bench.cuda:
            torch.cuda.empty_cache()


def plain_texts(tokenizer, count: int, tokens: int) -> list:
    """`count` texts of exactly `tokens` tokens, of words that are one token each."""
    words = sorted(word for word in tokenizer.get_vocab() if len(word) > 1 and word.isascii() and word.isalpha() and word.islower())
    special = len(tokenizer("")["input_ids"])
    words = [word for word in words if len(tokenizer(word)["input_ids"]) == special + 1]
    size = tokens - special
    return [" ".join(words[(7919 * (size * i + j)) % len(words)] for j in range(size)) for i in range(count)]


def encode_case(bench: Bench, a: argparse.Namespace, row: dict) -> None:
    if not a.model:
        nothing_to_do("no model was given")
    try:
        import sentence_transformers
    except ImportError as e:
        nothing_to_do(str(e))
    sizes = row["sizes"]
    model = sentence_transformers.SentenceTransformer(
        str(a.model), device=str(bench.device), model_kwargs={"dtype": torch.float16}
    ).eval()
    texts = plain_texts(model.tokenizer, sizes["texts"], sizes["tokens"])
    out = {"op": "encode", "shape": row["shape"], "by": f"torch {torch.__version__}, sentence-transformers"}
    with torch.inference_mode():
        if sizes["from"] == "ids":
            features = {name: value.to(bench.device) for name, value in model.preprocess(texts).items()
                        if isinstance(value, torch.Tensor)}  # fmt: skip
            result = bench.time(lambda _: model(dict(features)), waits=True)
        else:
            batch = min(1024, len(texts))
            result = bench.time(
                lambda _: model.encode(texts, batch_size=batch, convert_to_tensor=True, show_progress_bar=False), waits=True
            )
    emit(**out, **result)


def train_step_case(bench: Bench, a: argparse.Namespace, row: dict) -> None:
    """Forward, loss, backward, clipping and AdamW on one batch of token ids, weights in f32 and products in f16, dropout on."""
    if not a.model:
        nothing_to_do("no model was given")
    try:
        import sentence_transformers
        from sentence_transformers.losses import MultipleNegativesRankingLoss
    except ImportError as e:
        nothing_to_do(str(e))
    model = sentence_transformers.SentenceTransformer(str(a.model), device=str(bench.device)).float().train()
    if a.by == "compile":
        model[0].auto_model = torch.compile(model[0].auto_model, dynamic=False)
    loss = MultipleNegativesRankingLoss(model, scale=10.0).train()
    # As there: anchors as long as questions, the others as passages, each column padded to its own longest row.
    triplets, tokens = row["sizes"]["triplets"], row["sizes"]["tokens"]
    random = torch.Generator().manual_seed(3)
    columns = []
    for first, last in [(6, 20), (20, 128), (20, 128)]:
        if tokens:
            first = last = tokens
        lengths = torch.randint(first, last + 1, (triplets,), generator=random)
        ids = torch.randint(1000, 30_000, (triplets, int(lengths.max())), generator=random)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        columns.append({"input_ids": (ids * mask).to(bench.device), "attention_mask": mask.to(bench.device)})
    groups = [[], []]
    for name, weight in model.named_parameters():
        groups[name.endswith("bias") or "LayerNorm" in name].append(weight)
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.001}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-6
    )
    scaler = torch.amp.GradScaler(bench.device.type, enabled=bench.cuda)

    def step(_):
        with torch.autocast(bench.device.type, torch.float16, enabled=bench.cuda):
            value = loss([dict(column) for column in columns], None)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    result = bench.time(step, waits=True)
    if bench.cuda:
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    by = "sentence-transformers" if a.by == "torch" else "sentence-transformers compiled"
    emit(op="train_step", shape=row["shape"], by=f"torch {torch.__version__}, {by}", **result)


def pair_step_case(bench: Bench, a: argparse.Namespace, row: dict) -> None:
    """A step of F4 with its encoder, padded and with a pass for every row, as `bench_verifiers.py` has it."""
    if not a.model:
        nothing_to_do("no model was given")
    try:
        import bench_verifiers
        import transformers  # noqa: F401
    except ImportError as e:
        nothing_to_do(str(e))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    steps = 1 if bench.small else 3
    options = argparse.Namespace(model=a.model, verifier="f4", steps=steps, batch=row["sizes"]["triplets"])
    result = bench_verifiers.training(options, bench.device.type)
    emit(op="pair_step", shape=row["shape"], by=f"torch {torch.__version__}, padded maps", **result)


def encode(bench: Bench, a: argparse.Namespace) -> None:
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(
        str(a.model), device=str(bench.device), model_kwargs={"dtype": torch.float16}
    ).eval()
    common = {
        "program": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}",
        "model": a.model.resolve().name,
        "attention": model[0].auto_model.config._attn_implementation,
        "dtype": "f16",
    }
    for path in a.texts:
        texts = path.read_text(encoding="utf-8").splitlines()
        if not texts:
            raise SystemExit(f"{path}: holds no text; write one a line")
        limit = model.max_seq_length
        lengths = [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]]
        for batch in [4] if bench.small else [32, 256, 1024]:
            if batch > len(texts):
                print(f"{path}: {len(texts)} texts do not fill a batch of {batch}; left out", file=sys.stderr)
                continue
            features = {name: value.to(bench.device) for name, value in model.preprocess(texts[:batch]).items()
                        if isinstance(value, torch.Tensor)}  # fmt: skip
            tokens = int(features["attention_mask"].sum())
            common_row = common | {"texts": path.name, "batch": batch}
            with torch.inference_mode():
                result = bench.time(lambda _, features=features: model(dict(features)))
            seconds = result["seconds_median"]
            emit(what="forward", **common_row, texts_per_s=batch / seconds, tokens_per_s=tokens / seconds, **result)

            def whole(batch=batch, texts=texts) -> float:
                bench.wait()
                start = time.perf_counter()
                model.encode(texts, batch_size=batch, convert_to_tensor=True, show_progress_bar=False)
                bench.wait()
                return time.perf_counter() - start

            whole()
            times = [whole() for _ in range(1 if bench.small else min(7, bench.repeats))]
            median = statistics.median(times)
            emit(
                what="encode",
                **common_row,
                n_texts=len(texts),
                texts_per_s=len(texts) / median,
                tokens_per_s=sum(lengths) / median,
                seconds_median=median,
                seconds_min=min(times),
                seconds_max=max(times),
                repeats=len(times),
            )


def shape(text: str) -> tuple[int, int, int]:
    m, n, k = (int(part) for part in text.split(","))
    if min(m, n, k) < 1:
        raise ValueError
    return m, n, k


def main() -> int:
    parser = argparse.ArgumentParser(description="What PyTorch reaches on this GPU.")
    parser.add_argument("--what", choices=PARTS, action="append", help="part to run (repeatable) [all]")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes and one call per sample: a trial run")
    parser.add_argument("--repeats", type=int, default=21, help="samples, of which the median counts [21]")
    parser.add_argument("--shape", type=shape, action="append", metavar="M,N,K", help="product (matmul; repeatable)")
    parser.add_argument("--cases", type=Path, help="file of cases, one JSON object a line, in place of the parts")
    ops = [*CASES, "encode", "train_step", "pair_step"]
    parser.add_argument("--op", choices=ops, action="append", help="only the cases of this operator (repeatable) [all]")
    parser.add_argument("--by", choices=["torch", "compile", "peers"], default="torch", help="who does the cases [torch]")
    parser.add_argument("--peers", type=Path, help="folder with the packages of --by peers, if they are not installed")
    parser.add_argument("--model", type=Path, help="model folder (encode)")
    parser.add_argument("--texts", type=Path, action="append", default=[], help="file, a text a line (encode; repeatable)")
    a = parser.parse_args()
    if a.repeats < 1:
        parser.error("--repeats must be at least 1")
    if a.peers:
        sys.path.append(str(a.peers))
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        nothing_to_do("PyTorch finds no CUDA device here; --device cpu --small makes a trial run without one")
    parts = a.what or [part for part in PARTS if part != "encode" or a.model]
    if "encode" in parts and not a.cases and not (a.model and a.texts):
        parser.error("encode needs --model and --texts")

    bench = Bench(a.device, a.small, 1 if a.small else a.repeats)
    facts(bench)
    if a.cases:
        cases(bench, a)
        return 0
    for part in parts:
        {"bandwidth": bandwidth, "matmul": matmul, "encode": encode}[part](bench, a)
        if bench.cuda:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
