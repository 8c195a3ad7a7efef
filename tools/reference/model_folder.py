#!/usr/bin/env python3
"""Hold model folders that this library wrote to the ones that it read: sentence-transformers must not tell them apart.

Both folders are loaded, one text at a time is encoded by either, and the embeddings must have equal bits; the tensors of
`model.safetensors` must be the same ones, those that the encoder does not use included. How far the embeddings are from the
golden ones (float64) is printed beside it.

    NEARMISS_WRITTEN_MODELS=DIR cargo test --test golden written     leaves the folders in DIR
    model_folder.py DIR                                              compares them with tests/golden/tiny-bert-*

And a model that the library trained: sentence-transformers loads it, and its embeddings in float32 and those of the library
are about as far from the ones in float64.

    NEARMISS_TRAINED_MODELS=DIR cargo test --test training cpu::training_lowers
    model_folder.py --trained DIR
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # every model here is a local folder
os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # the unused language-model head is meant to be there
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import safetensors.numpy
import torch
from sentence_transformers import SentenceTransformer

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    """Embeddings in float32, one text at a time, so that no padding takes part."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return np.stack([model.encode(text) for text in texts])


def differences(original: Path, written: Path) -> list[str]:
    """What differs between the two folders, one line each."""
    found = []
    have, want = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (written, original))
    for name in sorted(have.keys() | want.keys()):
        if name not in have or name not in want:
            found.append(f"{written}: {name} is only in one of the two")
        elif have[name].dtype != want[name].dtype or not np.array_equal(have[name], want[name]):
            found.append(f"{written}: {name} differs")
    texts = [text["text"] for text in json.loads((original / "expected.json").read_text())["texts"]]
    ours, theirs = encode(written, texts), encode(original, texts)
    if not np.array_equal(ours, theirs):
        found.append(f"{written}: embeddings differ by {np.abs(ours - theirs).max():.3g}")
    golden = safetensors.numpy.load_file(original / "expected.safetensors")["embeddings"]
    print(f"{written.name}: {len(texts)} texts, at most {np.abs(ours - golden).max():.2g} from the golden embeddings")
    return found


def trained(folder: Path) -> list[str]:
    """What is wrong with a trained model, one line each."""
    saved = json.loads((folder / "embeddings.json").read_text())
    model = SentenceTransformer(str(folder / "model"), device="cpu", model_kwargs={"dtype": torch.float64})
    exact = np.stack([model.encode(text) for text in saved["texts"]])
    ours = np.array(saved["embeddings"]).reshape(exact.shape)
    theirs = encode(folder / "model", saved["texts"])
    error, yardstick = (np.abs(embeddings - exact).max() for embeddings in (ours, theirs))
    print(f"{folder}: embeddings are off by {error:.2g}, those of PyTorch in float32 by {yardstick:.2g}")
    # Sums are ordered otherwise; four units in the last place of the largest value besides.
    allowed = 2 * yardstick + 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    return [] if error <= allowed else [f"{folder}: more than {allowed:.2g}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare written model folders with the golden ones.")
    parser.add_argument("folder", type=Path, help="where the test left them")
    parser.add_argument("--trained", action="store_true", help="it is the folder of a training")
    arguments = parser.parse_args()
    folder = arguments.folder
    torch.set_num_threads(1)  # one summation order
    if arguments.trained:
        found = trained(folder)
        for line in found:
            print(line, file=sys.stderr)
        return 3 if found else 0
    originals = sorted(path for path in GOLDEN.glob("tiny-bert-*") if path.is_dir())
    missing = [path.name for path in originals if not (folder / path.name).is_dir()]
    if missing:
        print(f"error: {folder} has no {', '.join(missing)}; see --help for what makes them", file=sys.stderr)
        return 1
    found = [line for path in originals for line in differences(path, folder / path.name)]
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{', '.join(path.name for path in originals)}: written as read")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
