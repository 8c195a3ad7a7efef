#!/usr/bin/env python3
"""Hold what `run-study encode` makes of model folders to what sentence-transformers makes of them.

Writes a tiny random BERT in every form that transformers and sentence-transformers write or read, embeds sentences by
both sides as queries and as documents, and compares. One line per folder: the largest difference, or how our side or
theirs refuses the folder, with the expectation of this program. Fails where the two disagree, where one side refuses
what the other does, unless the folder is among those that are refused on purpose.

    folders.py --run-study target/release/run-study [--only WORDS] [--keep DIR]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
warnings.simplefilter("ignore")

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] <s> </s> the a cat dog CAT Cat cafe café Cafe Café river ##s ##ed walk see query : passage
. , ! - 中 国 中国 is not quantity""".split()
SENTENCES = [
    "the cat walks", "The CAT sees a dog.", "Café 中国", "", "  the   river, walked !", "the [MASK] is </s> not a <s> cat",
    "the cat sees the dog the dog sees the river the river is not a cat " * 3, "quantity", "cafe\u0301 CAFÉ ",
]
# float32 on both sides, in different orders, over two layers: errors are of some units in the last place of values near 1.
ALLOWED = 2e-5
D = 64


def write_json(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(value, ensure_ascii=False))


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, change(value) or value)


def base(folder: Path, modules=None, tokenizer_class="BertTokenizer", **settings) -> None:
    """A BERT, its tokenizer and its modules, saved by the libraries themselves."""
    torch.manual_seed(7)
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words.add_special_tokens(WORDS[:5])
    bare = folder.with_name(folder.name + ".bare")
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=40, **settings,
    )
    model = transformers.BertModel(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5) + (parameter.ndim == 1)
    model.save_pretrained(bare)
    words.save(str(bare / "tokenizer.json"))
    write_json(bare / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, "do_lower_case": True})
    if modules is None:
        modules = [Pooling(D, "mean"), Normalize()]
    SentenceTransformer(modules=[Transformer(str(bare)), *modules], device="cpu").save(str(folder), create_model_card=False)
    # The tokenizer as it is, whatever the library made of it.
    words.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, "do_lower_case": True})
    shutil.rmtree(bare)


def rename_tensors(folder: Path, change, dtype=None) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({change(k): v.to(dtype or v.dtype) for k, v in tensors.items()}, file, {"format": "pt"})


def shard(folder: Path, drop=False) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    where = {}
    for i in range(3):
        part, name = {k: tensors[k] for k in names[i::3]}, f"model-0000{i + 1}-of-00003.safetensors"
        save_file(part, folder / name, {"format": "pt"})
        where |= dict.fromkeys(part, name)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    file.unlink()
    if drop:
        (folder / "model-00002-of-00003.safetensors").unlink()


def old_names(name: str) -> str:
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def twice_named(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["embeddings.LayerNorm.gamma"] = 2 * tensors["embeddings.LayerNorm.weight"]
    save_file(tensors, file, {"format": "pt"})


def in_its_own_folder(folder):
    """As older releases of sentence-transformers wrote it."""
    (folder / "0_Transformer").mkdir()
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", SB]:
        (folder / file).rename(folder / "0_Transformer" / file)
    edit(folder / "modules.json", lambda v: v[0].update(path="0_Transformer"))


def with_json(file: str, **keys):
    def change(value):
        value.update(keys)
    return lambda folder: edit(folder / file, change)


def tokenizer(json_change=None, replace=False, remove=(), **keys):
    def apply(folder):
        if json_change:
            edit(folder / "tokenizer.json", json_change)
        if replace:
            write_json(folder / "tokenizer_config.json", keys)
        else:
            with_json("tokenizer_config.json", **keys)(folder)
        for name in remove:
            (folder / name).unlink()
    return apply


def parts(**keys):
    """Parts of `tokenizer.json`."""
    return with_json("tokenizer.json", **keys)


def whole(content, **flags):
    """A token that is taken whole, with its flags."""
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


def second_type(value):
    for part in value["post_processor"]["single"]:
        part.get("Sequence", {}).update(type_id=1)


def normalizer(**keys):
    return lambda value: value["normalizer"].update(keys)


def words_alone(**keys):
    def apply(folder):
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        write_json(folder / "tokenizer_config.json", keys)
    return apply


def modules(*kinds):
    """`modules.json` of these kinds, in the order given; each module has the folder that it was saved in."""
    def apply(folder):
        known = {m["type"].rsplit(".")[-1]: m for m in json.loads((folder / "modules.json").read_text())}
        new = [dict(known.get(kind) or {"type": f"sentence_transformers.models.{kind}", "path": f"9_{kind}"},
                    idx=i, name=str(i)) for i, kind in enumerate(kinds)]
        write_json(folder / "modules.json", new)
    return apply


def no_modules(folder):
    (folder / "modules.json").unlink()


def legacy_pooling(**keys):
    return lambda folder: write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": D, **keys})


def rename(a, b):
    return lambda folder: (folder / a).rename(folder / b)


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


def retruncate(direction):
    return lambda value: value.update(truncation={"direction": direction, "max_length": 9, "strategy": "LongestFirst", "stride": 0})


def add_word(value):
    value["added_tokens"].append({"id": len(WORDS), "content": "the river", "single_word": False, "lstrip": False,
                                  "rstrip": False, "normalized": True, "special": False})


def grow(folder, vocab_size):
    """Cuts the word table to this many rows."""
    with_json("config.json", vocab_size=vocab_size)(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:vocab_size].clone()
    save_file(tensors, file, {"format": "pt"})


def sentence_pieces(folder):
    """The tokenizer of multilingual BERTs distilled from XLM-R."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + w, -2.0 - i / 9) for i, w in enumerate("the cat dog is not a river walk see query passage".split())]
    pieces += [(w, -5.0 - i / 9) for i, w in enumerate(["▁", "s", ":", ".", ",", "!", "C", "A", "T", "中"])] + [("<mask>", 0.0)]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    transformers.XLMRobertaTokenizer(vocab=pieces).save_pretrained(folder)


PROMPTS = {"query": "query: ", "passage": "passage: "}
P = Pooling
ST = "config_sentence_transformers.json"
SB = "sentence_bert_config.json"
# Name, what is done to a folder, modules. A name that ends in ! is refused on purpose.
CASES = [
    ("as saved", None, None),
    ("old names of norms, prefix", lambda f: rename_tensors(f, old_names), None),
    ("old names of norms", lambda f: rename_tensors(f, lambda n: old_names(n)[5:]), None),
    ("bf16", lambda f: rename_tensors(f, str, torch.bfloat16), None),
    ("f16", lambda f: rename_tensors(f, str, torch.float16), None),
    ("f64", lambda f: rename_tensors(f, str, torch.float64), None),
    ("old and new name of a norm !", twice_named, None),
    ("shards", shard, None),
    ("a shard is missing !", lambda f: shard(f, True), None),
    ("no modules", no_modules, None),
    ("no modules, but prompts and limits", both(no_modules, with_json(ST, prompts=PROMPTS | {"document": "passage: "}), with_json(SB, max_seq_length=5)), None),
    ("no modules, causal", both(no_modules, with_json("config.json", architectures=["BertForCausalLM"])), None),
    *((f"pooling {mode}", None, [P(D, mode), Normalize()]) for mode in P.POOLING_MODES),
    ("pooling all", None, [P(D, list(P.POOLING_MODES)), Normalize()]),
    ("pooling mean cls", None, [P(D, ["mean", "cls"])]),
    ("legacy flags mean cls max", legacy_pooling(pooling_mode_mean_tokens=True, pooling_mode_cls_token=True, pooling_mode_max_tokens=True), None),
    ("legacy flags none", legacy_pooling(pooling_mode_mean_tokens=False), None),
    ("legacy flags and mode", legacy_pooling(pooling_mode_mean_tokens=True, pooling_mode="cls"), None),
    ("unknown pooling key !", legacy_pooling(pooling_mode_median=True), None),
    ("include_prompt without prompts", legacy_pooling(include_prompt=False), None),
    ("include_prompt with prompts !", both(legacy_pooling(include_prompt=False), with_json(ST, prompts=PROMPTS)), None),
    ("include_prompt null with prompts !", both(legacy_pooling(include_prompt=None), with_json(ST, prompts=PROMPTS)), None),
    ("dense tanh", None, [P(D, "mean"), Dense(D, 32)]),
    ("dense identity, normalised", None, [P(D, "cls"), Dense(D, 96, bias=False, activation_function=torch.nn.Identity()), Normalize()]),
    *((f"dense {a.__name__}", None, [P(D, "mean"), Normalize(), Dense(D, 32, activation_function=a())])
      for a in [torch.nn.ReLU, torch.nn.GELU, torch.nn.Sigmoid, torch.nn.SiLU]),
    ("dense Softplus !", None, [P(D, "mean"), Dense(D, 32, activation_function=torch.nn.Softplus())]),
    ("dense residual", None, [P(D, "mean"), Dense(D, D, use_residual=True), Dense(D, 40, use_residual=True)]),
    ("dense of two poolings", None, [P(D, ["mean", "max"]), Dense(2 * D, D), Normalize()]),
    ("dense of token vectors !", None, [Dense(D, D, module_input_name="token_embeddings"), P(D, "mean")]),
    ("layer norm, dropout", None, [P(D, "mean"), LayerNorm(D), Dropout(0.5), Normalize()]),
    ("normalised twice", None, [P(D, "mean"), Normalize(), Normalize()]),
    ("two poolings", None, [P(D, "mean"), Normalize(), P(D, "cls")]),
    ("normalised before pooling", modules("Transformer", "Normalize", "Pooling"), None),
    ("pooling alone !", modules("Pooling"), None),
    ("no pooling !", modules("Transformer", "Normalize"), None),
    ("dense before pooling !", modules("Transformer", "Dense", "Pooling"), [P(D, "mean"), Dense(D, 32)]),
    ("unknown module !", modules("Transformer", "Pooling", "CNN"), None),
    ("module of another package !", lambda f: edit(f / "modules.json", lambda v: v[1].update(type="sentence_transformers.foo.Pooling")), None),
    ("path with a dot", lambda f: edit(f / "modules.json", lambda v: v[1].update(path="./" + v[1]["path"])), None),
    ("encoder in a folder of its own !", in_its_own_folder, None),
    ("adapter !", lambda f: write_json(f / "adapter_config.json", {"peft_type": "LORA", "r": 4}), None),
    ("truncate_dim", with_json(ST, truncate_dim=24), None),
    ("truncate_dim after dense", with_json(ST, truncate_dim=16), [P(D, "mean"), Dense(D, 32), Normalize()]),
    ("truncate_dim of more", with_json(ST, truncate_dim=128), None),
    ("prompts", with_json(ST, prompts={"query": "query: ", "document": "passage: "}), None),
    ("prompts of passages", with_json(ST, prompts=PROMPTS), None),
    ("default prompt", with_json(ST, prompts={"x": "query: "}, default_prompt_name="x"), None),
    ("default prompt is none !", with_json(ST, default_prompt_name="x"), None),
    ("default prompt query", with_json(ST, prompts=PROMPTS, default_prompt_name="query"), None),
    ("similarity dot", with_json(ST, similarity_fn_name="dot"), None),
    ("model_type !", with_json(ST, model_type="SparseEncoder"), None),
    ("limit", with_json(SB, max_seq_length=6), None),
    ("limit null", both(with_json(SB, max_seq_length=None), tokenizer(model_max_length=7)), None),
    ("limit huge", tokenizer(model_max_length=10**30), None),
    ("limit max_len", tokenizer(max_len=8), None),
    ("limit in processor_kwargs", with_json(SB, max_seq_length=6, processor_kwargs={"model_max_length": 9}), None),
    ("limit in the older kwargs", with_json(SB, tokenizer_args={"model_max_length": 7}, processor_kwargs={}), None),
    ("no lower case in processor_kwargs !", with_json(SB, processor_kwargs={"do_lower_case": False}), None),
    ("accents in tokenizer_args !", with_json(SB, tokenizer_args={"strip_accents": False}), None),
    ("no layers in config_kwargs !", with_json(SB, config_kwargs={"num_hidden_layers": 0}), None),
    ("other name of the sentence configuration", both(with_json(SB, max_seq_length=6), rename(SB, "sentence_distilbert_config.json")), None),
    ("two names", both(with_json(SB, max_seq_length=6), with_json("sentence_roberta_config.json", max_seq_length=4)), None),
    ("unknown key of the sentence configuration !", with_json(SB, pad_to=8), None),
    ("query_length !", with_json(SB, query_length=4), None),
    ("sentence lower-case, cased tokenizer", both(with_json(SB, do_lower_case=True), tokenizer(do_lower_case=False)), None),
    ("sentence lower-case, generic class", both(with_json(SB, do_lower_case=True), tokenizer(normalizer(lowercase=False), tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]")), None),
    ("cased by config", tokenizer(do_lower_case=False), None),
    ("cased by tokenizer.json alone", tokenizer(normalizer(lowercase=False), replace=True, tokenizer_class="BertTokenizer"), None),
    ("cased, generic class", tokenizer(normalizer(lowercase=False), tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]"), None),
    ("cased, no class", tokenizer(normalizer(lowercase=False), replace=True), None),
    ("cased, no tokenizer_config", tokenizer(normalizer(lowercase=False), remove=["tokenizer_config.json"]), None),
    ("class in config.json", both(tokenizer(normalizer(lowercase=False), replace=True, pad_token="[PAD]"), with_json("config.json", tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]")), None),
    ("accents kept", tokenizer(strip_accents=False), None),
    ("accents kept by tokenizer.json", tokenizer(normalizer(strip_accents=False)), None),
    ("cased, accents gone", tokenizer(strip_accents=True, do_lower_case=False), None),
    ("chinese words", tokenizer(tokenize_chinese_chars=False), None),
    ("other cls and sep", tokenizer(cls_token="<s>", sep_token="</s>"), None),
    ("other cls in a map", lambda f: write_json(f / "special_tokens_map.json", {"cls_token": "<s>", "sep_token": {"content": "</s>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}}), None),
    ("map beside added_tokens_decoder", both(tokenizer(added_tokens_decoder={"5": {"content": "<s>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}}), lambda f: write_json(f / "special_tokens_map.json", {"cls_token": "<s>"})), None),
    ("cls that is a new word", tokenizer(cls_token="<new>"), None),
    ("cls beyond the word table !", both(tokenizer(cls_token="<new>"), lambda f: grow(f, len(WORDS))), None),
    ("sentence pieces", sentence_pieces, None),
    ("sentence pieces, split elsewhere", both(sentence_pieces, parts(pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True})), None),
    ("sentence pieces, lower-cased", both(sentence_pieces, parts(normalizer={"type": "Lowercase"})), None),
    ("sentence pieces, no space before", both(sentence_pieces, tokenizer(add_prefix_space=False)), None),
    ("sentence pieces, another token before", both(sentence_pieces, tokenizer(bos_token="▁the")), None),
    ("sentence pieces, another unknown !", both(sentence_pieces, lambda f: edit(f / "tokenizer.json", lambda v: v["model"].update(unk_id=0))), None),
    ("other unk", tokenizer(unk_token="the"), None),
    ("bos and eos", tokenizer(bos_token="<s>", eos_token="</s>"), None),
    ("eos of generic class", tokenizer(tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>", pad_token="[PAD]"), None),
    ("additional tokens", tokenizer(additional_special_tokens=["<s>"]), None),
    ("further tokens", tokenizer(additional_special_tokens=["<s>"], extra_special_tokens=["</s>"]), None),
    ("further tokens with names", tokenizer(extra_special_tokens={"x_token": "<s>"}), None),
    ("tokens of the model", tokenizer(model_specific_special_tokens={"x": "<s>"}), None),
    ("a token of another name", tokenizer(x_token="<s>"), None),
    ("a token of another name in a map", lambda f: write_json(f / "special_tokens_map.json", {"x_token": "<s>"}), None),
    ("flags of a numbered token", tokenizer(added_tokens_decoder={"24": whole("quantity", single_word=True), "4": whole("[MASK]", normalized=True)}), None),
    ("spaces as a token", tokenizer(lambda v: v["added_tokens"].append({"id": len(WORDS), **whole("  ")}) or None), None),
    ("added word", tokenizer(add_word), None),
    ("added_tokens.json", lambda f: write_json(f / "added_tokens.json", {"<s>": 5, "quantity of": len(WORDS)}), None),
    ("special tokens cut up", tokenizer(split_special_tokens=True), None),
    ("cut on the left", tokenizer(truncation_side="left", model_max_length=8), None),
    ("cut on the left by tokenizer.json", tokenizer(retruncate("Left"), model_max_length=8), None),
    ("do_lower_case null !", tokenizer(do_lower_case=None), None),
    ("words alone", words_alone(tokenizer_class="BertTokenizer", model_max_length=12), None),
    ("words alone, cased", words_alone(do_lower_case=False), None),
    ("words alone, generic class !", words_alone(tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]"), None),
    *((f"class {c}", tokenizer(normalizer(lowercase=False), tokenizer_class=c, pad_token="[PAD]"), None)
      for c in ["DistilBertTokenizerFast", "ElectraTokenizer", "ConvBertTokenizer", "RetriBertTokenizer", "NoSuchTokenizer",
                "DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer"]),
    ("class Qwen2Tokenizer !", tokenizer(tokenizer_class="Qwen2TokenizerFast"), None),
    ("second token type !", tokenizer(second_type, tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]), None),
    ("second token type that nobody is told", tokenizer(second_type, tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"]), None),
    ("no attention mask !", tokenizer(model_input_names=["input_ids"]), None),
    ("class MPNetTokenizer !", tokenizer(tokenizer_class="MPNetTokenizer"), None),
    ("gelu_python", with_json("config.json", hidden_act="gelu_python"), None),
    ("relu !", with_json("config.json", hidden_act="relu"), None),
    ("gelu_new !", with_json("config.json", hidden_act="gelu_new"), None),
    ("decoder !", with_json("config.json", is_decoder=True), None),
    ("model with code of its own !", with_json("config.json", auto_map={"AutoModel": "modeling.Model"}), None),
    ("module with code of its own !", lambda f: edit(f / "modules.json", lambda v: v[1].update(type="mine.Pooling")), None),
    ("one token type", None, None, {"type_vocab_size": 1}),
    ("other epsilon", None, None, {"layer_norm_eps": 0.1}),
    ("unknown key of config.json", with_json("config.json", favourite_colour="blue"), None),
]


def theirs(folder: Path):
    try:
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        return [np.atleast_2d(f(SENTENCES)) for f in (model.encode_query, model.encode_document)], None
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:110] if str(error).strip() else ''}"


def ours(program: str, folder: Path, scratch: Path):
    texts, out = scratch / "texts.txt", scratch / "out.npy"
    texts.write_text("".join(s + "\n" for s in SENTENCES))
    found, notes = [], []
    for kind in ("query", "document"):
        out.unlink(missing_ok=True)
        done = subprocess.run(
            [program, "encode", "--backbone", str(folder), "--device", "cpu", "--texts", str(texts), "--kind", kind, "--output", str(out)],
            capture_output=True, text=True,
        )
        notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
        if done.returncode:
            return None, done.stderr.strip().splitlines()[-1], notes
        found.append(np.load(out))
    return found, None, notes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-study", default="target/release/run-study")
    parser.add_argument("--only", default="", help="only folders whose names have these words")
    parser.add_argument("--keep", type=Path, help="leave the folders there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        root = options.keep or scratch
        root.mkdir(exist_ok=True, parents=True)
        for i, (name, change, kinds, *settings) in enumerate(CASES):
            if options.only not in name:
                continue
            folder = root / f"{i:03}"
            shutil.rmtree(folder, ignore_errors=True)
            base(folder, kinds, **(settings[0] if settings else {}))
            if change:
                change(folder)
            want, why = theirs(folder)
            got, refusal, notes = ours(options.run_study, folder, scratch)
            on_purpose = name.endswith("!")
            if got is None:
                verdict = "refused" if on_purpose else "REFUSED"
                print(f"{verdict:8} {name}: {refusal}\n{'':9}theirs: {why or 'does it'}")
                faults += not on_purpose
                continue
            if want is None:
                print(f"ALONE    {name}: theirs refuses it: {why}")
                faults += 1
                continue
            if [g.shape for g in got] != [w.shape for w in want]:
                print(f"DIFFERS  {name}: shapes {[g.shape for g in got]}, theirs {[w.shape for w in want]}")
                faults += 1
                continue
            error = max(np.abs(g - w).max() / max(1, np.abs(w).max()) for g, w in zip(got, want))
            wrong = error > ALLOWED or on_purpose
            faults += bool(wrong)
            rows = [j for j in range(len(SENTENCES)) if any(np.abs(g[j] - w[j]).max() > ALLOWED for g, w in zip(got, want))]
            print(f"{'DIFFERS' if wrong else 'equal':8} {name}: {error:.1e}{f' in sentences {rows}' if wrong else ''}{''.join(chr(10) + ' ' * 9 + n for n in notes)}")
            sys.stdout.flush()
    print(f"{faults} faults" if faults else "no faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
