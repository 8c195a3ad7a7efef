#!/usr/bin/env python3
"""Puts the figures that tools/compare-cpu gathered side by side: medians over the rounds, and the ratio.

    compare.py FIGURES SCORES.json...

FIGURES has lines `ours|pytorch encode-TOKENS texts_per_second` and `ours|pytorch train-TOKENS tokens_per_second`; the
JSON lines are those of `cargo bench -- --json` and of bench_cpu.py, whose fields are described there.
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
        side, case, rate = line.split()
        rates[case, side].append(float(rate))
    # Queries per second, so that more is better in every row.
    for path in sys.argv[2:]:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            plain = str(row.get("shape", "")).replace(",000", "000")
            ours = re.fullmatch(r"(\d+) queries, 100000 x 384, k = (\d+)", plain)
            if row.get("op") == "cosine_topk" and ours and ours[1] == "32" and row["seconds_median"]:
                rates[f"topk-{ours[2]}", "ours"].append(32 / row["seconds_median"])
            elif row.get("what") == "topk":
                rates[f"topk-{row['k']}", row["program"].split()[0]].append(row["queries_per_s"])
            elif row.get("op") == "maxsim" and plain == "1 x 32 tokens, 10000 x 128 tokens, 128":
                rates["maxsim documents", "ours"].append(10_000 / row["seconds_median"])
            elif row.get("what") == "maxsim":
                rates["maxsim documents", f"torch, {row['way']}"].append(row["documents_per_s"])
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
