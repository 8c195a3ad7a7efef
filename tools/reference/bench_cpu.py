#!/usr/bin/env python3
"""How fast the usual Python stack is on this machine's CPU, for comparison on the same machine with the same threads.

encode  sentence-transformers in float32, end to end from text to embedding, texts from files (make_texts.py); and, where they
        are installed, ONNX Runtime and OpenVINO on the same encoder exported to ONNX, with its own tokenizer, texts sorted by
        length and padded per batch as sentence-transformers does it. A file of one text is one query: what it waits for
topk    exact cosine top-k: float32 product with all documents, then
        numpy: argpartition and a sort of the k;  torch: torch.topk
        where it is installed, faiss: flat float32, and flat float16 codes
train   sentence-transformers in float32: steps of training with MultipleNegativesRankingLoss, AdamW and clipping, dropout
        on, from the texts of a CSV file with columns anchor, positive, negative; and the memory at its highest
maxsim  one query of 32 tokens against 10,000 documents of 128: torch einsum, max, sum, in float32; all at once, which
        holds the whole map, 500 documents at a time, and 100 at a time with the documents' tokens as the rows of the product,
        which is the fastest order

Every figure is the median of several repeats after a warm-up. One JSON object per line goes to standard output.

    bench_cpu.py --what encode --model MODEL --texts texts-20.txt --texts texts-128.txt --threads 2
    bench_cpu.py --what train --model MODEL --triplets triplets.csv --threads 2
    bench_cpu.py --what topk --threads 2
    bench_cpu.py --what maxsim --threads 2
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of sentence-transformers, NumPy and PyTorch on the CPU.")
    parser.add_argument("--what", choices=["encode", "train", "topk", "maxsim"], required=True)
    parser.add_argument("--threads", type=int, default=2, help="threads of every library [2]")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats, of which the median counts [7]")
    parser.add_argument("--model", type=Path, help="model folder (encode, train)")
    parser.add_argument("--triplets", type=Path, help="CSV file (train)")
    parser.add_argument("--texts", type=Path, action="append", default=[], help="file, a text a line (encode; repeatable)")
    parser.add_argument("--batch", type=int, default=32, help="texts (encode) or triplets (train) per batch [32]")
    parser.add_argument("--documents", type=int, default=100_000, help="corpus size (topk) [100000]")
    parser.add_argument("--width", type=int, help="width of vectors [384 (topk), 128 (maxsim)]")
    parser.add_argument("--queries", type=int, default=32, help="queries per call (topk) [32]")
    parser.add_argument("--k", type=int, action="append", help="results per query (topk; repeatable) [10 and 100]")
    a = parser.parse_args()
    if a.threads < 1 or a.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    if a.what == "encode" and not (a.model and a.texts):
        parser.error("--what encode needs --model and --texts")
    if a.what == "train" and not (a.model and a.triplets):
        parser.error("--what train needs --model and --triplets")
    a.k = a.k or [10, 100]
    a.width = a.width or {"topk": 384, "maxsim": 128}.get(a.what)
    if max(a.k) > a.documents or min(a.k) < 1:
        parser.error("--k must lie between 1 and --documents")
    return a


def timed(function, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one call that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def emit(**row) -> None:
    print(json.dumps(row), flush=True)


def spread(seconds: list[float]) -> dict:
    return {
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "repeats": len(seconds),
    }


def encode(a: argparse.Namespace) -> None:
    import sentence_transformers
    import torch

    model = sentence_transformers.SentenceTransformer(str(a.model), device="cpu", model_kwargs={"dtype": torch.float32})
    version = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    ways = {version: lambda texts: model.encode(texts, batch_size=a.batch, show_progress_bar=False)}
    ways |= exported(a, model)
    for path in a.texts:
        texts = path.read_text(encoding="utf-8").splitlines()
        if not texts:
            raise SystemExit(f"{path}: holds no text; write one a line")
        limit = model.max_seq_length
        lengths = [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]]
        expected = ways[version](texts)
        for program, way in ways.items():
            error = float(abs(way(texts) - expected).max())
            if error > 1e-4:
                raise SystemExit(f"{program}: embeddings are off by {error:.3g}; it is another model")
            # One text is over in milliseconds.
            repeats = a.repeats if len(texts) > 1 else 100 * a.repeats
            seconds = timed(lambda way=way: way(texts), repeats)
            median = statistics.median(seconds)
            emit(
                what="encode",
                program=program,
                model=a.model.resolve().name,
                texts=path.name,
                n_texts=len(texts),
                tokens_mean=statistics.fmean(lengths),
                batch=a.batch,
                threads=torch.get_num_threads(),
                texts_per_s=len(texts) / median,
                tokens_per_s=sum(lengths) / median,
                **spread(seconds),
            )


def exported(a: argparse.Namespace, model) -> dict:
    """The encoder of `model`, mean pooled and of unit length, run by ONNX Runtime and OpenVINO; none that is not installed."""
    import tempfile

    import numpy as np
    import torch
    import transformers

    try:
        import onnxscript  # noqa: F401, what the export needs
    except ImportError:
        print("without ONNX Runtime and OpenVINO: onnxscript is not installed", file=sys.stderr)
        return {}
    bert = transformers.AutoModel.from_pretrained(str(a.model), dtype=torch.float32).eval()
    tokenizer = model.tokenizer

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, input_ids, attention_mask):
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    folder = tempfile.mkdtemp()
    path = f"{folder}/model.onnx"
    example = tokenizer(["a first text", "another one, a little longer"], padding=True, return_tensors="pt")
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    torch.onnx.export(
        Hidden(),
        (example["input_ids"], example["attention_mask"]),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_shapes={"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
        dynamo=True,
        verbose=False,
    )

    def by(run):
        def embed(texts: list[str]):
            order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
            out = np.empty((len(texts), bert.config.hidden_size), np.float32)
            for first in range(0, len(order), a.batch):
                some = order[first : first + a.batch]
                fed = tokenizer(
                    [texts[i] for i in some],
                    padding=True,
                    truncation=True,
                    max_length=model.max_seq_length,
                    return_tensors="np",
                )
                mask = fed["attention_mask"]
                hidden = run({"input_ids": fed["input_ids"].astype(np.int64), "attention_mask": mask.astype(np.int64)})
                mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
                out[some] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            return out

        return embed

    ways = {}
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = a.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ways[f"onnxruntime {onnxruntime.__version__}"] = by(lambda fed: session.run(None, fed)[0])
    except ImportError:
        print("without ONNX Runtime: it is not installed", file=sys.stderr)
    try:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": a.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        ways[f"openvino {openvino.__version__.split('-')[0]}"] = by(lambda fed: compiled(fed)[0])
    except ImportError:
        print("without OpenVINO: it is not installed", file=sys.stderr)
    return ways


def train(a: argparse.Namespace) -> None:
    import csv
    import resource

    import sentence_transformers
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = sentence_transformers.SentenceTransformer(str(a.model), device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = 128
    with a.triplets.open(encoding="utf-8", newline="") as file:
        rows = [(row["anchor"], row["positive"], row["negative"]) for row in csv.DictReader(file)]
    batches = [rows[i : i + a.batch] for i in range(0, len(rows) - a.batch + 1, a.batch)]
    if not batches:
        raise SystemExit(f"{a.triplets}: holds {len(rows)} triplets, fewer than a batch")
    loss = MultipleNegativesRankingLoss(model, scale=10.0).train()
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": 0.001}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5)
    tokens = []

    def step(batch: list[tuple[str, str, str]]) -> None:
        columns = [model.preprocess(list(column)) for column in zip(*batch, strict=True)]
        tokens.append(sum(int(column["attention_mask"].sum()) for column in columns))
        loss(columns, torch.zeros(len(batch))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(batches[0])  # not counted
    tokens.clear()
    seconds = []
    for i in range(a.repeats):
        start = time.perf_counter()
        step(batches[i % len(batches)])
        seconds.append(time.perf_counter() - start)
    emit(
        what="train",
        program=f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}",
        model=a.model.resolve().name,
        triplets=a.triplets.name,
        batch=a.batch,
        tokens_mean=sum(tokens) / (3 * a.batch * len(tokens)),
        threads=torch.get_num_threads(),
        steps_per_s=len(seconds) / sum(seconds),
        tokens_per_s=sum(tokens) / sum(seconds),
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        **spread(seconds),
    )


def topk(a: argparse.Namespace) -> None:
    import numpy as np
    import torch

    generator = np.random.default_rng(0)

    def unit_rows(n: int) -> np.ndarray:
        rows = generator.standard_normal((n, a.width), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    documents, queries = unit_rows(a.documents), unit_rows(a.queries)
    documents_t, queries_t = torch.from_numpy(documents), torch.from_numpy(queries)

    def by_numpy(k: int):
        scores = queries @ documents.T
        # The k largest in any order, then those k sorted: largest first.
        candidates = np.argpartition(scores, a.documents - k, axis=1)[:, a.documents - k :]
        values = np.take_along_axis(scores, candidates, axis=1)
        order = np.argsort(-values, axis=1)
        return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(values, order, axis=1)

    def by_torch(k: int):
        values, ids = torch.topk(queries_t @ documents_t.T, k, dim=1)
        return ids.numpy(), values.numpy()

    exact = -np.sort(-(queries.astype(np.float64) @ documents.T.astype(np.float64)), axis=1)[:, : max(a.k)]
    # Both vectors have length one, so a float32 dot product of `width` terms is off by less than width * 2^-24.
    bound = a.width * 2.0**-24
    shape = {"documents": a.documents, "width": a.width, "queries": a.queries, "threads": a.threads}
    versions = {"numpy": np.__version__, "torch": torch.__version__}
    ways = {"numpy": by_numpy, "torch": by_torch}
    bounds = {}
    try:
        import faiss

        faiss.omp_set_num_threads(a.threads)
        flat = faiss.IndexFlatIP(a.width)
        codes = faiss.IndexScalarQuantizer(a.width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        for name, index in (("faiss, float32", flat), ("faiss, float16 codes", codes)):
            if index is codes:
                index.train(documents)
            index.add(documents)
            ways[name] = lambda k, index=index: index.search(queries, k)[::-1]
            versions[name] = faiss.__version__
        # A row of unit length, rounded to f16, moves by less than 2^-11 of each element, or by half of the smallest subnormal.
        bounds["faiss, float16 codes"] = bound + 2.0**-11 + a.width**0.5 * 2.0**-25
    except ImportError:
        print("without faiss: it is not installed", file=sys.stderr)
    for program, function in ways.items():
        for k in a.k:
            error = float(np.abs(function(k)[1] - exact[:, :k]).max())
            if error > bounds.get(program, bound):
                raise SystemExit(f"{program}, k = {k}: scores are off by {error:.3g}, more than {bound:.3g}")
            seconds = timed(lambda k=k, function=function: function(k), a.repeats)
            emit(
                what="topk",
                program=f"{program} {versions[program]}",
                k=k,
                **shape,
                queries_per_s=a.queries / statistics.median(seconds),
                score_error=error,
                **spread(seconds),
            )
    seconds = timed(lambda: queries @ documents.T, a.repeats)
    gflops = 2e-9 * a.queries * a.documents * a.width / statistics.median(seconds)
    emit(what="product", program=f"numpy {np.__version__}", **shape, gflop_per_s=gflops, **spread(seconds))


def maxsim(a: argparse.Namespace) -> None:
    import torch

    n_documents, tokens, query_tokens, width = 10_000, 128, 32, a.width
    generator = torch.Generator().manual_seed(0)

    def unit_rows(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, width, generator=generator), dim=-1)

    documents, query = unit_rows(n_documents, tokens), unit_rows(query_tokens)

    def score(part: torch.Tensor) -> torch.Tensor:
        return torch.einsum("qd,ntd->nqt", query, part).max(dim=-1).values.sum(dim=-1)

    def by_documents(part: torch.Tensor) -> torch.Tensor:
        products = part.reshape(-1, width) @ query.T
        return products.view(len(part), tokens, query_tokens).amax(dim=1).sum(dim=-1)

    exact = torch.einsum("qd,ntd->nqt", query.double(), documents[:100].double()).max(-1).values.sum(-1)
    bound = query_tokens * (width + query_tokens) * 2.0**-24
    for way, at_once, of in (
        ("whole", n_documents, score),
        ("500 at a time", 500, score),
        ("100 at a time, by documents", 100, by_documents),
    ):

        def search(at_once=at_once, of=of) -> torch.Tensor:
            return torch.cat([of(part) for part in documents.split(at_once)])

        error = float((search()[:100].double() - exact).abs().max())
        if error > bound:
            raise SystemExit(f"torch, {way}: scores are off by {error:.3g}, more than {bound:.3g}")
        seconds = timed(search, a.repeats)
        emit(
            what="maxsim",
            program=f"torch {torch.__version__}",
            way=way,
            documents=n_documents,
            tokens=tokens,
            query_tokens=query_tokens,
            width=width,
            threads=torch.get_num_threads(),
            documents_per_s=n_documents / statistics.median(seconds),
            score_error=error,
            **spread(seconds),
        )


def main() -> int:
    a = arguments()
    # Read by the libraries when they are loaded, hence the late imports.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(a.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch

    torch.set_num_threads(a.threads)
    {"encode": encode, "train": train, "topk": topk, "maxsim": maxsim}[a.what](a)
    return 0


if __name__ == "__main__":
    sys.exit(main())
