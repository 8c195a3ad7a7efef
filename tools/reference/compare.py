#!/usr/bin/env python3
"""Puts the figures that tools/compare-cpu gathered side by side: medians over the rounds, and the ratio.

    compare.py FIGURES SCORES.json...

FIGURES has lines `CASE<tab>SIDE<tab>RATE`, more being better; of every case one side is `ours`, or two are: what an earlier build
did may stand beside it as `before`. The JSON lines are those of `cargo bench -- --json` and of bench_cpu.py, whose fields are
described there.
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path


def main() -> int:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        case, side, rate = line.split("\t")
        rates[case, side].append(float(rate))
    for path in sys.argv[2:]:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            # The benches' rows of this crate, or of an earlier build of it.
            side = row.get("side", "ours")
            plain = str(row.get("shape", "")).replace(",000", "000")
            topk = re.fullmatch(r"(\d+) queries, 100000 x 384, k = (\d+)", plain)
            maxsim = re.fullmatch(r"1 x 32 tokens, 10000 x 128 tokens, (\d+)", plain)
            if row.get("op") == "cosine_topk" and topk and row["seconds_median"]:
                case = f"top-k, {topk[1]} queries, k = {topk[2]}"
                rates[case, side].append(int(topk[1]) / row["seconds_median"])
            elif row.get("what") == "topk":
                case = f"top-k, {row['queries']} queries, k = {row['k']}"
                rates[case, row["program"]].append(row["queries_per_s"])
            elif row.get("op") == "maxsim" and maxsim:
                rates[f"MaxSim, width {maxsim[1]}", side].append(10_000 / row["seconds_median"])
            elif row.get("what") == "maxsim":
                rates[f"MaxSim, width {row['width']}", f"torch, {row['way']}"].append(row["documents_per_s"])
            elif row.get("op") == "encode" and "1 texts x 10 tokens, from text" in plain:
                rates["encode-query", side].append(1 / row["seconds_median"])
            elif row.get("what") == "encode":
                case = f"encode-{Path(row['texts']).stem.removeprefix('texts-')}"
                rates[case, row["program"]].append(row["texts_per_s"])
    print("| case | ours | other | rate of the other | ratio |")
    print("| --- | ---: | --- | ---: | ---: |")
    for case, side in list(rates):
        if side == "ours":
            continue
        ours, other = rates.get((case, "ours")), rates[case, side]
        if ours:
            a, b = statistics.median(ours), statistics.median(other)
            print(f"| {case} | {a:.1f} /s | {side} | {b:.1f} /s | {a / b:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
