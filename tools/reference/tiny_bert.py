#!/usr/bin/env python3
"""Make the two tiny BERT models of tests/golden and what PyTorch says they compute.

Each folder holds a complete sentence-transformers model with random weights, `expected.json` (texts and token ids) and
`expected.safetensors` (hidden states and embeddings). Token ids, truncation, pooling and normalisation are whatever
sentence-transformers makes of the folder; the arithmetic is float64 with eager attention, one text at a time, so that no
padding takes part. The results are rounded once, to float32, when they are stored.

The two models differ wherever a loader could have guessed instead of read:

                      tiny-bert-2x64                        tiny-bert-3x96
    layers, heads     2, one of width 64                    3, three of width 32
    d_ff              4 d_model                             1.5 d_model
    stored as         f32, `embeddings...`, unused pooler   f16, `bert.embeddings...`, unused language-model head
    form              as published in 2021                  as sentence-transformers 6 writes it
    length limit      sentence_bert_config.json             tokenizer_config.json
    tokenizer.json    truncates and pads to 16 (ignored)    neither
    special ids       0 to 4                                0 and 5 to 8
    pooling           mean, then L2 normalisation           first token, as it is

    tiny_bert.py                 write tests/golden/tiny-bert-*
    tiny_bert.py --check         make everything again in a temporary folder and compare
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # every model here is a local folder
os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # the unused language-model head is meant to be there
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import safetensors
import safetensors.numpy
import sentence_transformers
import tokenizers
import torch
import transformers

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

# Two results of the same float64 computation on different machines may differ by summation order. The hidden states are
# of order 1 to 10, so this is some thousand times the float64 rounding error of the whole network.
FLOAT64_SLACK = 1e-12

WORDS = """the a an of to and in is was not no on at for with from by it he she they we you i be are were has had
cat dog river bank house city water light paper red blue old new open close before after noon night day one two three
four five small large north south east west left right up down play read write walk run eat see say make take give find
word text page line rain snow wind tree bird song road door""".split()
SUFFIXES = "s ed ing er ly ness less ful able tion al ous y en est".split()
PUNCTUATION = list(".,!?:;'-()")


@dataclass(frozen=True)
class Spec:
    """One tiny model: sizes, the form of its folder, and the texts that are put through it."""

    name: str
    seed: int
    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    max_seq_length: int
    specials: dict[str, int]
    pooling: str
    normalize: bool
    modern: bool  # the folder form of sentence-transformers 6; else that of the first published models
    half: bool  # f16 tensors with the prefix of a language-model checkpoint; else f32 without prefix

    @property
    def max_position(self) -> int:
        return 64

    def texts(self) -> list[tuple[str, str]]:
        """Name and text of every case; the lengths are as ragged as the length limit allows."""
        long = " ".join(WORDS[(7 * i) % len(WORDS)] for i in range(70))
        return [
            ("one_word", "cat"),
            ("empty", ""),
            ("plain", "The river bank was not open before noon."),
            ("accents", "The CAFÉ in Zürich: naïve, déjà lu!"),
            ("unknown", "猫 sat on a smørbrød 🙂 [SEP] 42"),
            ("truncated", long),
            # Fills the limit exactly: nothing may be cut, and the closing [SEP] must stay.
            ("at_the_limit", " ".join(WORDS[: self.max_seq_length - 2])),
            ("long_word", "a" * 101 + " word"),
            ("white_space", " \t two\u00a0\nwords\u200b, one\u0000 line\r\n "),
        ]


SPECS = [
    Spec(
        name="tiny-bert-2x64", seed=2064, n_layers=2, d_model=64, n_heads=1, d_ff=256, max_seq_length=41,
        specials={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4},
        pooling="mean", normalize=True, modern=False, half=False,
    ),
    Spec(
        name="tiny-bert-3x96", seed=3096, n_layers=3, d_model=96, n_heads=3, d_ff=144, max_seq_length=19,
        specials={"[PAD]": 0, "[UNK]": 5, "[SEP]": 6, "[CLS]": 7, "[MASK]": 8},
        pooling="cls", normalize=False, modern=True, half=True,
    ),
]  # fmt: skip


def vocabulary(spec: Spec) -> dict[str, int]:
    """Special tokens at their ids, gaps filled with [unusedN], then letters, digits, punctuation, words and pieces."""
    by_id = {i: token for token, i in spec.specials.items()}
    tokens = [by_id.get(i, f"[unused{i}]") for i in range(max(by_id) + 1)]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    digits = [str(d) for d in range(10)]
    ordinary = [*letters, *digits, *PUNCTUATION, *WORDS]
    ordinary += ["##" + piece for piece in [*letters, *digits, *SUFFIXES]]
    tokens += dict.fromkeys(ordinary)  # "a" and "i" are letters and words
    return {token: i for i, token in enumerate(tokens)}


def weights(spec: Spec, vocab: int) -> dict[str, np.ndarray]:
    """Random tensors under their stored names and types.

    A matrix has standard deviation 1 / sqrt(fan in), so that activations neither vanish nor blow up and attention is far
    from uniform. Biases and layer norms are not the usual zeros and ones: a term that is left out must show.
    """
    d, f = spec.d_model, spec.d_ff
    prefix = "bert." if spec.half else ""
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, shape: tuple[int, ...], scale: float, mean: float = 0.0) -> None:
        # Keyed by name, so that adding a tensor leaves all the others as they are.
        generator = np.random.Generator(np.random.PCG64([spec.seed, zlib.crc32(name.encode())]))
        values = mean + scale * generator.standard_normal(shape)
        tensors[name] = values.astype(np.float16 if spec.half else np.float32)

    def linear(name: str, n_in: int, n_out: int) -> None:
        put(f"{name}.weight", (n_out, n_in), n_in**-0.5)
        put(f"{name}.bias", (n_out,), 0.1)

    def layer_norm(name: str) -> None:
        put(f"{name}.weight", (d,), 0.1, mean=1.0)
        put(f"{name}.bias", (d,), 0.1)

    put(f"{prefix}embeddings.word_embeddings.weight", (vocab, d), 1.0)
    put(f"{prefix}embeddings.position_embeddings.weight", (spec.max_position, d), 1.0)
    put(f"{prefix}embeddings.token_type_embeddings.weight", (2, d), 1.0)
    layer_norm(f"{prefix}embeddings.LayerNorm")
    for i in range(spec.n_layers):
        layer = f"{prefix}encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", d, d)
        linear(f"{layer}.attention.output.dense", d, d)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", d, f)
        linear(f"{layer}.output.dense", f, d)
        layer_norm(f"{layer}.output.LayerNorm")
    # Tensors that an encoder has no use for, and must step over.
    if spec.half:
        linear("cls.predictions.transform.dense", d, d)
        layer_norm("cls.predictions.transform.LayerNorm")
        put("cls.predictions.bias", (vocab,), 0.1)
    else:
        linear("pooler.dense", d, d)
        tensors["embeddings.position_ids"] = np.arange(spec.max_position, dtype=np.int64)[None]
    return tensors


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(spec: Spec, folder: Path) -> None:
    """Write the model folder, without the expected results."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = vocabulary(spec)
    config = {
        "architectures": ["BertForMaskedLM" if spec.half else "BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": spec.d_model,
        "initializer_range": 0.02,
        "intermediate_size": spec.d_ff,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": spec.max_position,
        "model_type": "bert",
        "num_attention_heads": spec.n_heads,
        "num_hidden_layers": spec.n_layers,
        "pad_token_id": spec.specials["[PAD]"],
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(vocab),
    }
    if spec.half:
        config["dtype"] = "float16"
    write_json(folder / "config.json", config)
    write_tokenizer(spec, vocab, folder)

    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * spec.normalize
    package = {
        "Transformer": "sentence_transformers.base.modules.transformer",
        "Pooling": "sentence_transformers.sentence_transformer.modules.pooling",
        "Normalize": "sentence_transformers.base.modules.normalize",
    }
    write_json(
        folder / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": path,
                "type": f"{package[kind] if spec.modern else 'sentence_transformers.models'}.{kind}",
            }
            for i, (kind, path) in enumerate(modules)
        ],
    )
    if spec.modern:
        write_json(
            folder / "sentence_bert_config.json",
            {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                "module_output_name": "token_embeddings",
            },
        )
        pooling = {"embedding_dimension": spec.d_model, "pooling_mode": spec.pooling, "include_prompt": True}
    else:
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": spec.max_seq_length, "do_lower_case": False},
        )
        pooling = {
            "word_embedding_dimension": spec.d_model,
            "pooling_mode_cls_token": spec.pooling == "cls",
            "pooling_mode_mean_tokens": spec.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        }
    write_json(folder / "1_Pooling" / "config.json", pooling)

    safetensors.numpy.save_file(weights(spec, len(vocab)), folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(spec: Spec, vocab: dict[str, int], folder: Path) -> None:
    """Write an uncased WordPiece tokenizer: tokenizer.json and tokenizer_config.json."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, spec.specials[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(sorted(spec.specials, key=spec.specials.__getitem__))
    if not spec.modern:
        # Some published models carry such settings; sentence-transformers goes by the length limit alone.
        tokenizer.enable_truncation(16)
        tokenizer.enable_padding(length=16, pad_id=spec.specials["[PAD]"], pad_token="[PAD]")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")

    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": spec.max_seq_length if spec.modern else 512,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    write_json(folder / "tokenizer_config.json", config)


def expected(spec: Spec, folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What sentence-transformers makes of the folder: expected.json, and the tensors with floats still in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(
            str(folder),
            device="cpu",
            model_kwargs={"dtype": torch.float64, "attn_implementation": "eager"},
        ).eval()
    transformer, *head = list(model)
    if transformer.max_seq_length != spec.max_seq_length:
        raise SystemExit(f"{folder}: the length limit was read as {transformer.max_seq_length}")

    texts = []
    token_ids: list[int] = []
    offsets = [0]
    hidden: list[list[torch.Tensor]] = [[] for _ in range(spec.n_layers + 1)]
    pooled: list[torch.Tensor] = []
    embeddings: list[torch.Tensor] = []
    for name, text in spec.texts():
        features = model.preprocess([text])
        ids = features["input_ids"][0].tolist()
        whole = transformer.tokenizer(text, truncation=False)["input_ids"]
        with torch.no_grad():
            states = transformer.auto_model(
                input_ids=features["input_ids"],
                attention_mask=features["attention_mask"],
                output_hidden_states=True,
            ).hidden_states
            result = {**features, "token_embeddings": states[-1]}
            for i, module in enumerate(head):
                result = module(result)
                if i == 0:
                    pooled.append(result["sentence_embedding"].clone())
        for per_layer, state in zip(hidden, states, strict=True):
            per_layer.append(state[0])
        embeddings.append(result["sentence_embedding"])
        token_ids += ids
        offsets.append(len(token_ids))
        texts.append(
            {
                "name": name,
                "text": text,
                "tokens": transformer.tokenizer.convert_ids_to_tokens(ids),
                "token_ids": ids,
                "truncated": len(whole) > len(ids),
            }
        )

    tensors = {
        "offsets": np.array(offsets, dtype=np.uint32),
        "token_ids": np.array(token_ids, dtype=np.uint32),
        "pooled": torch.cat(pooled).numpy(),
        "embeddings": torch.cat(embeddings).numpy(),
    }
    tensors |= {f"hidden.{i}": torch.cat(per_layer).numpy() for i, per_layer in enumerate(hidden)}
    if any(value.dtype not in (np.float64, np.uint32) for value in tensors.values()):
        raise SystemExit(f"{folder}: a result is not in float64")
    check_against_encode(model, [text for _, text in spec.texts()], tensors["embeddings"])

    summary = {
        "model": spec.name,
        "made_with": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "max_seq_length": spec.max_seq_length,
        "pooling": spec.pooling,
        "normalize": spec.normalize,
        "texts": texts,
    }
    return summary, tensors


def check_against_encode(model, texts: list[str], embeddings: np.ndarray) -> None:
    """The public `encode`, one padded batch in float64, has to agree with the text-by-text path above."""
    by_encode = model.encode(texts, batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False)
    error = np.abs(by_encode - embeddings).max()
    # A padded key gets the score -1.8e308, hence probability exactly zero: only summation order differs.
    if error > FLOAT64_SLACK:
        raise SystemExit(f"encode() and the text-by-text computation differ by {error:.3g}")


def stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors as they are written: floats rounded once, from float64 to float32."""
    return {name: t.astype(np.float32) if t.dtype == np.float64 else t for name, t in tensors.items()}


def make(spec: Spec, folder: Path) -> dict[str, np.ndarray]:
    """Write one folder, and return its expected tensors before rounding."""
    write_model(spec, folder)
    summary, tensors = expected(spec, folder)
    write_json(folder / "expected.json", summary)
    safetensors.numpy.save_file(stored(tensors), folder / "expected.safetensors")
    return tensors


def differences(spec: Spec, committed: Path, fresh: Path, exact: dict[str, np.ndarray]) -> list[str]:
    """What the committed folder and a newly made one disagree about, one line each."""
    found = []
    names = [{str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} for root in (committed, fresh)]
    found += [f"{committed / name}: should not be there" for name in sorted(names[0] - names[1])]
    found += [f"{committed / name}: is missing" for name in sorted(names[1] - names[0])]
    for name in sorted((names[0] & names[1]) - {"expected.safetensors"}):
        if (committed / name).read_bytes() != (fresh / name).read_bytes():
            found.append(f"{committed / name}: differs from what this script makes")
    if "expected.safetensors" not in names[0]:
        return found

    path = committed / "expected.safetensors"
    have = safetensors.numpy.load_file(path)
    want = stored(exact)
    if have.keys() != want.keys():
        return [*found, f"{path}: holds {sorted(have)}, expected {sorted(want)}"]
    for name, values in have.items():
        if values.shape != want[name].shape or values.dtype != want[name].dtype:
            found.append(f"{path}: {name} is {values.dtype}{values.shape}, not {want[name].dtype}{want[name].shape}")
        elif exact[name].dtype == np.float64:
            # Rounding to float32 costs at most half the distance to the next float32.
            bound = 0.5 * np.spacing(np.abs(values)).astype(np.float64) + FLOAT64_SLACK
            excess = np.abs(values.astype(np.float64) - exact[name]) / bound
            if not excess.max() <= 1.0:
                where = np.unravel_index(np.nanargmax(excess), excess.shape)
                found.append(f"{path}: {name}{list(map(int, where))} is off by {excess[where]:.3g} times its bound")
        elif not np.array_equal(values, want[name]):
            found.append(f"{path}: {name} differs")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make, or check, the tiny BERT models of tests/golden.")
    parser.add_argument("--check", action="store_true", help="compare the committed files with newly made ones")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder of the model folders [tests/golden]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one summation order

    if not arguments.check:
        for spec in SPECS:
            make(spec, arguments.out / spec.name)
            size = sum(p.stat().st_size for p in (arguments.out / spec.name).rglob("*") if p.is_file())
            print(f"{arguments.out / spec.name}: {size:,} bytes")
        return 0

    found = []
    for spec in SPECS:
        with tempfile.TemporaryDirectory() as scratch:
            exact = make(spec, Path(scratch))
            found += differences(spec, arguments.out / spec.name, Path(scratch), exact)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{', '.join(spec.name for spec in SPECS)}: as made")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
