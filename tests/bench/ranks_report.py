#!/usr/bin/env python3
"""Turns the raw measurements of ranks.sh into tables and ranks-result.json.

    ranks_report.py RAW.jsonl RESULT.json

Step times are medians over rounds of each round's median step. A ratio is the median over rounds of each round's pair.
A target that is missed is marked as such; the exit code tells errors only. A line that compares with a noisy one (its
median over 1.2 times its fastest step) says so: it is no result.
"""

import argparse
import json
import statistics
import sys

from report import is_noisy, median, number

MIN_RANKS = 0.95  # of one rank's throughput, bubble left out
MAX_TORCH = 0.9  # of PyTorch's step time
MAX_STEP_ERROR, MAX_MEMORY_ERROR = 0.15, 0.10  # of predictions
MIN_POINTS = 12


class Side:
    """All rounds of one layout of ours or PyTorch's."""

    def __init__(self, rows):
        self.rows = rows
        self.ms = median(rows, "median_ms")
        self.min_ms = min(r["min_ms"] for r in rows)
        self.by_round = {r["round"]: r["median_ms"] for r in rows}
        self.noisy = is_noisy({"median_ms": self.ms, "min_ms": self.min_ms})

    def get(self, key):
        return median(self.rows, key)


def ratios(above, below):
    """Of rounds: above / below."""
    return [above.by_round[i] / below.by_round[i] for i in above.by_round if i in below.by_round]


def collect(rows, model, who):
    mine = [r for r in rows if r["model"] == model and r["who"] == who and "error" not in r]
    return {layout: Side([r for r in mine if r["layout"] == layout]) for layout in {r["layout"]: 0 for r in mine}}


def fastest(sides, wanted):
    """(name, side) of the fastest layout whose name passes, or None."""
    found = [(name, side) for name, side in sides.items() if wanted(name)]
    return min(found, key=lambda x: x[1].ms) if found else None


def target(what, values, at_least=None, at_most=None, sides=()):
    """A line of the table of targets; values are of rounds."""
    value = statistics.median(values)
    return {
        "what": what,
        "value": round(value, 4),
        "rounds": [round(v, 4) for v in values],
        "wanted": f">= {at_least}" if at_most is None else f"<= {at_most}",
        "met": value >= at_least if at_most is None else value <= at_most,
        "noisy": any(s.noisy for s in sides),
    }


def speed_targets(ours, torch):
    """What one model must reach; what was not measured is left out."""
    one, lines = ours.get("one"), []
    if one and "R2" in ours:
        pair = one, ours["R2"]
        lines.append(target("R=2: throughput / 1 rank x 2 threads", ratios(*pair), MIN_RANKS, None, pair))
    for name, side in ours.items():
        bubble = side.get("bubble")
        if not name.startswith("K2-") or bubble is None:
            continue
        same_m = ours.get("one-" + name.split("-")[1])
        for what, reference in (("what its bubble leaves", one), ("that, one rank with as many M", same_m)):
            if reference:
                left = [r / (1 - bubble) for r in ratios(reference, side)]
                lines.append(target(f"{name}: throughput / {what}", left, MIN_RANKS, None, (reference, side)))
    if "R2" in ours and "R2" in torch:
        pair = ours["R2"], torch["R2"]
        lines.append(target("R=2: step / DistributedDataParallel's", ratios(*pair), None, MAX_TORCH, pair))
    for prefix, label in (("K2-M4-", "K=2, M=4"), ("K2-M8-", "K=2, M=8"), ("K2-", "K=2, any M")):
        a, b = fastest(ours, lambda n: n.startswith(prefix)), fastest(torch, lambda n: n.startswith(prefix))
        if a and b:
            what = f"{label}: step / pipelining's, {a[0].removeprefix(prefix)} / {b[0].removeprefix(prefix)}"
            lines.append(target(what, ratios(a[1], b[1]), None, MAX_TORCH, (a[1], b[1])))
    return lines


def bubble_lines(ours):
    """zb-h1 against 1f1b, where both were measured and the simulator says that zb-h1's bubble is smaller."""
    lines = []
    for name, zb in ours.items():
        plain = ours.get(name.replace("zb-h1", "1f1b"))
        if "zb-h1" not in name or not plain or zb.get("bubble") is None or plain.get("bubble") is None:
            continue
        lines.append(
            {
                "what": f"{name}: bubble, 1f1b's in brackets",
                "predicted": zb.get("predicted_bubble"),
                "predicted_1f1b": plain.get("predicted_bubble"),
                "measured": zb.get("bubble"),
                "measured_1f1b": plain.get("bubble"),
                "expected": zb.get("predicted_bubble") < plain.get("predicted_bubble"),
                "met": zb.get("bubble") < plain.get("bubble"),
                "noisy": zb.noisy or plain.noisy,
            }
        )
    return lines


def predictions(model, ours):
    points = []
    for name, side in ours.items():
        predicted = side.get("predicted_ms")
        if predicted is None:
            continue
        planned, real = side.get("peak_predicted_mib"), side.get("peak_real_mib")
        points.append(
            {
                "model": model,
                "stages": side.get("stages"),
                "replicas": side.get("replicas"),
                "micro_batches": side.get("micro_batches"),
                "schedule": side.rows[0].get("schedule"),
                "predicted_ms": predicted,
                "measured_ms": side.ms,
                "step_error": predicted / side.ms - 1,
                "predicted_mib": planned,
                "measured_mib": real,
                "memory_error": planned / real - 1,
                "noisy": side.noisy,
            }
        )
    return points


def marks(line, met):
    return ("" if met else "  missed") + ("  (noisy)" if line["noisy"] else "")


def show_sides(ours, torch):
    print(f"  {'':22} {'step ms':>9} {'min':>9} {'bubble':>7} {'simulated':>9} {'MiB':>6}  rounds")
    for who, sides in (("ptc", ours), ("PyTorch", torch)):
        for name, s in sides.items():
            mib = s.get("peak_real_mib") if who == "ptc" else s.get("peak_mib")
            print(
                f"  {who + ' ' + name:22} {s.ms:9.1f} {s.min_ms:9.1f} {number(s.get('bubble'), '.1%'):>7}"
                f" {number(s.get('predicted_bubble'), '.1%'):>9} {number(mib, '.0f'):>6}"
                f"  {[round(v, 1) for v in s.by_round.values()]}{'  noisy' if s.noisy else ''}"
            )


def show_targets(result):
    print("\ntargets")
    for model, r in result["models"].items():
        for line in r["targets"]:
            print(
                f"  {model:5} {line['what']:56} {line['value']:6.3f}  {line['wanted']:7}{marks(line, line['met'])}"
                f"  {line['rounds']}"
            )
        for line in r["bubbles"]:
            met = line["met"] or not line["expected"]
            print(
                f"  {model:5} {line['what']:56} {line['measured']:6.1%} ({line['measured_1f1b']:.1%}), simulated"
                f" {line['predicted']:.1%} ({line['predicted_1f1b']:.1%}){marks(line, met)}"
            )


def show_predictions(points):
    print("\npredictions")
    print(
        f"  {'model':5} {'K':>2} {'R':>2} {'M':>2} {'schedule':8} {'step ms':>9} {'predicted':>9} {'':>7}"
        f" {'MiB':>7} {'predicted':>9}"
    )
    for p in points:
        met = abs(p["step_error"]) <= MAX_STEP_ERROR and abs(p["memory_error"]) <= MAX_MEMORY_ERROR
        print(
            f"  {p['model']:5} {p['stages']:2} {p['replicas']:2} {p['micro_batches']:2} {p['schedule']:8}"
            f" {p['measured_ms']:9.1f} {p['predicted_ms']:9.1f} {p['step_error']:+7.1%}"
            f" {p['measured_mib']:7.1f} {p['predicted_mib']:9.1f} {p['memory_error']:+7.1%}{marks(p, met)}"
        )
    for name, limit in (("step_error", MAX_STEP_ERROR), ("memory_error", MAX_MEMORY_ERROR)):
        n = sum(abs(p[name]) <= limit for p in points)
        worst = max((abs(p[name]) for p in points), default=0)
        text = f"  {name.replace('_', ' ')}: {n} of {len(points)} points within {limit:.0%}, the largest {worst:.1%}"
        print(text + ("" if n == len(points) >= MIN_POINTS else f"  missed (all of at least {MIN_POINTS} points)"))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("raw")
    args.add_argument("result")
    opt = args.parse_args()

    with open(opt.raw) as f:
        rows = [json.loads(text) for text in f]
    for r in rows:
        if "error" in r:
            print(f"PyTorch {r['model']} {r['form']} failed: {r['error'].splitlines()[0]}")
    result = {"models": {}, "points": [], "max_load": max((r["load"] for r in rows), default=None)}
    for model in {r["model"]: 0 for r in rows}:
        ours, torch = collect(rows, model, "ours"), collect(rows, model, "torch")
        forms = {r["layout"]: r["form"] for r in rows if r["model"] == model and r["who"] == "torch"}
        print(f"\n{model}: fastest forms of PyTorch: {', '.join(sorted(set(forms.values()))) or '-'}")
        show_sides(ours, torch)
        result["points"] += predictions(model, ours)
        result["models"][model] = {
            "ours_ms": {name: side.ms for name, side in ours.items()},
            "torch_ms": {name: side.ms for name, side in torch.items()},
            "torch_forms": forms,
            "targets": speed_targets(ours, torch),
            "bubbles": bubble_lines(ours),
        }
    show_targets(result)
    show_predictions(result["points"])
    with open(opt.result, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
