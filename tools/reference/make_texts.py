#!/usr/bin/env python3
"""Write texts of a wanted token length, one a line, for speed comparisons.

Words are drawn from the model's own vocabulary, frequent ones more often; about one in seven is two words written
together, which WordPiece has to take apart as it does rare words. Special tokens count. Every text has exactly the wanted length
unless --spread is given, so that padding costs the programs that pad nothing.

The same arguments give the same file everywhere; --seed gives another one.

    make_texts.py --tokenizer MODEL --tokens 128 --count 2048 --out texts-128.txt
"""

import argparse
import bisect
import itertools
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

COMPOUND_SHARE = 0.15
RANK_OFFSET = 20  # flattens the head of the 1 / (rank + offset) law: no word makes up more than a few percent


class Words:
    """Draws words of a vocabulary together with the number of tokens that each takes."""

    def __init__(self, tokenizer: Tokenizer, source: random.Random):
        self.tokenizer = tokenizer
        self.random = source
        by_id = sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        self.words = [w for w, _ in by_id if len(w) >= 2 and w.isascii() and w.isalpha() and self.count(w) == 1]
        if len(self.words) < 20:
            raise SystemExit(f"the vocabulary has {len(self.words)} plain words; at least 20 are needed")
        self.cumulative = list(itertools.accumulate(1.0 / (rank + RANK_OFFSET) for rank in range(len(self.words))))

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def one(self) -> str:
        # random() is the one method whose sequence Python promises to keep.
        return self.words[bisect.bisect(self.cumulative, self.random.random() * self.cumulative[-1])]

    def text(self, tokens: int) -> str:
        """A text of `tokens` tokens, special tokens not counted."""
        parts: list[str] = []
        left = tokens
        while left > 0:
            word, cost = self.one(), 1
            if self.random.random() < COMPOUND_SHARE:
                compound = word + self.one()
                n = self.count(compound)
                if n <= left:
                    word, cost = compound, n
            parts.append(word)
            left -= cost
        return " ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write texts of a wanted token length, one a line.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="model folder with tokenizer.json")
    parser.add_argument("--tokens", type=int, required=True, help="tokens per text, special tokens included")
    parser.add_argument("--spread", type=int, default=0, help="draw lengths from tokens - SPREAD to tokens + SPREAD [0]")
    parser.add_argument("--count", type=int, default=1024, help="number of texts [1024]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write [standard output]")
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    source = random.Random(arguments.seed)
    words = Words(tokenizer, source)
    special = len(tokenizer.encode("").ids)
    if arguments.spread < 0 or arguments.tokens - arguments.spread <= special:
        parser.error(f"--tokens minus --spread must be above {special} (special tokens), and --spread not negative")

    lines = []
    for _ in range(arguments.count):
        wanted = arguments.tokens - arguments.spread + int(source.random() * (2 * arguments.spread + 1))
        text = words.text(wanted - special)
        if len(tokenizer.encode(text).ids) != wanted:
            raise SystemExit(f"token counts do not add up in {text!r}: this tokenizer does not split at white space")
        lines.append(text)
    data = "".join(line + "\n" for line in lines)
    if arguments.out:
        arguments.out.write_text(data, encoding="utf-8")
    else:
        sys.stdout.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
