#!/usr/bin/env python3
"""What PyTorch reaches on this GPU, for comparison with our kernels on the same card.

bandwidth  sum of a 10 GB float32 buffer (read), and a copy of it (read and write)
matmul     f16 product with f32 accumulation, `torch.mm`, at each --shape m,n,k:  [m, k] x [n, k]^T
topk       exact top-k over 1M x 384 f16 documents: `torch.mm`, then `torch.topk`, for 1, 32 and 512 queries
maxsim     one query against stored token vectors in f16: einsum, max, sum
encode     sentence-transformers in f16: the model alone on prepared batches, and end to end from texts

Times of device work come from CUDA events. A sample is a run of calls, long enough to hide the resolution of the events;
its inputs rotate through copies that together are several times larger than the L2 cache. Every figure is the median over
samples after a warm-up. `seconds_alone` is one call started on an idle device, launch included: what one caller
waits for. One JSON object per line goes to standard output, the first with the facts of the machine.

    bench_gpu.py --model MODEL --texts texts-20.txt --texts texts-128.txt
    bench_gpu.py --what matmul --shape 4096,384,1536
    bench_gpu.py --device cpu --small --what topk          does the program run at all? (no figures worth keeping)
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch

PARTS = ["bandwidth", "matmul", "topk", "maxsim", "encode"]
# Products of all-MiniLM-L6-v2 over 8192 tokens, and a large square for the peak.
SHAPES = [(8192, 1152, 384), (8192, 384, 384), (8192, 1536, 384), (8192, 384, 1536), (8192, 8192, 8192)]
# Tokens of the query, documents, tokens of a document, width: those of the benches of `maxsim`.
MAPS = [(q, n, t, d) for d in (128, 384) for q, n, t in
        ((32, 10_000, 128), (32, 10_000, 300), (32, 1_000, 300), (1024, 1_000, 1024))]  # fmt: skip
SAMPLE_SECONDS = 5e-3  # CUDA events resolve about half a microsecond
WARM_UP_SECONDS = 0.3  # clocks rise only under load
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
        return max(2, -(-CACHE_MULTIPLE * self.l2 // nbytes))

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

    def time(self, function) -> dict:
        """Median seconds per call of function(i), i counting the calls, in a row and alone."""
        for i in range(3):
            function(i)
        estimate = self.run(function, 3) / 3
        calls = 1 if self.small else max(1, min(1000, round(SAMPLE_SECONDS / estimate)))
        warm_until = time.perf_counter() + (0.0 if self.small else WARM_UP_SECONDS)
        while time.perf_counter() < warm_until:
            self.run(function, calls)
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


def topk(bench: Bench, a: argparse.Namespace) -> None:
    n_documents, width = (10_000, 64) if bench.small else (a.documents, 384)
    # Far larger than the cache at the full size, so one copy is enough.
    documents = random_rows(bench, n_documents, width, 1)
    for n_queries in [1, 4] if bench.small else [1, 32, 512]:
        queries = random_rows(bench, n_queries, width, 2)
        scores = torch.empty(n_queries, n_documents, dtype=torch.float16, device=bench.device)
        shape = {"documents": n_documents, "width": width, "queries": n_queries, "dtype": "f16"}

        def product(_: int, queries=queries, scores=scores) -> None:
            torch.mm(queries, documents.T, out=scores)

        result = bench.time(product)
        floor = 2 * n_documents * width
        emit(what="product", **shape, corpus_gb_per_s=1e-9 * floor / result["seconds_median"], **result)
        for k in a.k:

            def search(i: int, product=product, scores=scores, k=k):
                product(i)
                return torch.topk(scores, k, dim=1)

            values, ids = search(0)
            exact = (queries.double()[:, None] * documents[ids].double()).sum(2)
            error = (values.double() - exact).abs().max().item()
            if error > 2.0**-12 + width * 2.0**-23:
                raise SystemExit(f"torch top-{k} scores are off by {error:.3g}")
            result = bench.time(search)
            emit(
                what="topk",
                k=k,
                **shape,
                queries_per_s=n_queries / result["seconds_median"],
                corpus_gb_per_s=1e-9 * floor / result["seconds_median"],
                **result,
            )


def maxsim(bench: Bench, _: argparse.Namespace) -> None:
    for query_tokens, n_documents, tokens, width in [(32, 100, 17, 64)] if bench.small else MAPS:
        nbytes = 2 * n_documents * tokens * width
        sets = bench.copies(nbytes)
        stored = [random_rows(bench, n_documents * tokens, width, i).view(n_documents, tokens, width) for i in range(sets)]
        query = random_rows(bench, query_tokens, width, sets)
        # The map of f16 numbers that this holds.
        at_once = max(1, min(n_documents, (4 << 30) // (2 * query_tokens * tokens)))

        def call(i: int, stored=stored, query=query, sets=sets, at_once=at_once) -> torch.Tensor:
            parts = [torch.einsum("qd,ntd->nqt", query, part).amax(-1).sum(-1, dtype=torch.float32)
                     for part in stored[i % sets].split(at_once)]  # fmt: skip
            return torch.cat(parts)

        exact = torch.einsum("qd,ntd->nqt", query.double(), stored[0][:10].double()).amax(-1).sum(-1)
        error = (call(0)[:10].double() - exact).abs().max().item()
        # Each of the products is rounded to f16 once, and summed in f32.
        if error > query_tokens * (2.0**-12 + (width + query_tokens) * 2.0**-23):
            raise SystemExit(f"torch MaxSim is off by {error:.3g}")
        result = bench.time(call)
        seconds = result["seconds_median"]
        emit(
            what="maxsim",
            query_tokens=query_tokens,
            documents=n_documents,
            tokens=tokens,
            width=width,
            dtype="f16",
            sets=sets,
            documents_per_s=n_documents / seconds,
            gb_per_s=1e-9 * nbytes / seconds,
            tflop_per_s=2e-12 * query_tokens * n_documents * tokens * width / seconds,
            **result,
        )
        del stored


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
    parser.add_argument("--documents", type=int, default=1_000_000, help="corpus size (topk) [1000000]")
    parser.add_argument("--k", type=int, action="append", help="results per query (topk; repeatable) [10 and 100]")
    parser.add_argument("--model", type=Path, help="model folder (encode)")
    parser.add_argument("--texts", type=Path, action="append", default=[], help="file, a text a line (encode; repeatable)")
    a = parser.parse_args()
    a.k = a.k or [10, 100]
    if a.repeats < 1 or min(a.k) < 1:
        parser.error("--repeats and --k must be at least 1")
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here; --device cpu --small makes a trial run without one")
    parts = a.what or [part for part in PARTS if part != "encode" or a.model]
    if "encode" in parts and not (a.model and a.texts):
        parser.error("encode needs --model and --texts")

    bench = Bench(a.device, a.small, a.repeats)
    facts(bench)
    for part in parts:
        {"bandwidth": bandwidth, "matmul": matmul, "topk": topk, "maxsim": maxsim, "encode": encode}[part](bench, a)
        if bench.cuda:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
