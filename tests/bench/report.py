#!/usr/bin/env python3
"""Turns the raw measurements of run.sh into the table and bench-result.json.

    report.py RAW.jsonl RESULT.json [--max-ratio 0.9]

Per model: the median over rounds of each round's median step, the ratio ours / PyTorch eager (of rounds: each round's
pair is taken together, so that a slow minute hits both), the share of the measured GEMM peak, compile times, memory.
Exit code 1 if a ratio is above --max-ratio, or noisy, or ours was not measured, while --max-ratio is given.
Noisy: a side's median is over 1.2 times its fastest step. On a busy machine PyTorch's spinning OpenMP threads lose up to
a factor of ten, which would flatter ptc; ratio_of_min, of the fastest steps, is then the better guide, not a result.
"""

import argparse
import json
import statistics
import sys


def encoder_flops(layers, d, hidden, batch, seq):
    """Forward and backward (twice the forward) contractions of an encoder; elementwise work is not counted."""
    tokens = batch * seq
    per_layer = 2 * tokens * (4 * d * d + 2 * d * hidden) + 4 * tokens * seq * d
    return 3 * layers * per_layer


FLOPS = {  # patches need no gradient of the images, hence 2 and not 3
    "vit": encoder_flops(6, 192, 768, 64, 50) + 2 * 2 * 64 * 49 * 16 * 192 + 3 * 2 * 64 * 192 * 10,
    "bert": encoder_flops(12, 768, 3072, 8, 128) + 3 * 2 * 8 * 768 * 2,
}


def median(rows, key):
    values = [r[key] for r in rows if r.get(key) is not None]
    return statistics.median(values) if values else None


def spread(rows):
    """(greatest - least) / median of the rounds' medians: how far the result can be trusted."""
    values = [r["median_ms"] for r in rows]
    return (max(values) - min(values)) / statistics.median(values)


NOISE_LIMIT = 1.2  # median / min of steps


def is_noisy(s):
    return s is not None and s["median_ms"] > NOISE_LIMIT * s["min_ms"]


def side(rows, flops, peak_gflops):
    if not rows:
        return None
    ms = median(rows, "median_ms")
    gflops = flops / ms * 1e-6
    return {
        "median_ms": ms,
        "min_ms": min(r["min_ms"] for r in rows),
        "spread": round(spread(rows), 4),
        "rounds_ms": [r["median_ms"] for r in rows],
        "gflops": round(gflops, 1),
        "share_of_gemm_peak": round(gflops / peak_gflops, 4) if peak_gflops else None,
    }


def of_model(model, rows, peak_gflops):
    mine = [r for r in rows if r["model"] == model and "error" not in r]
    who = lambda name: [r for r in mine if r["who"] == name]
    ours, eager = who("ours"), who("torch-eager")
    eager_by_round = {r["round"]: r for r in eager}
    ratios = [r["median_ms"] / eager_by_round[r["round"]]["median_ms"] for r in ours if r["round"] in eager_by_round]
    result = {
        "flops_per_step": FLOPS[model],
        "ours": side(ours, FLOPS[model], peak_gflops),
        "torch_eager": side(eager, FLOPS[model], peak_gflops),
        "torch_eager_form": eager[0]["variant"] if eager else None,
        "torch_version": eager[0]["torch_version"] if eager else None,
        "ratio": round(statistics.median(ratios), 4) if ratios else None,
        "ratios": [round(r, 4) for r in ratios],
        "torch_other_ms": {r["variant"]: r["median_ms"] for r in who("torch-eager-form") + who("torch-extra")},
        "torch_failed": {r["variant"]: r["error"] for r in rows if r["model"] == model and "error" in r},
        "torch_peak_mib": median(eager, "peak_mib"),
        "max_load": max((r["load"] for r in mine), default=None),
    }
    result["noisy"] = is_noisy(result["ours"]) or is_noisy(result["torch_eager"])
    if ours and eager:
        result["ratio_of_min"] = round(result["ours"]["min_ms"] / result["torch_eager"]["min_ms"], 4)
    if ours:
        cold, warm = [r for r in ours if r["round"] == 1], [r for r in ours if r["round"] > 1]
        predicted, real = median(ours, "peak_predicted_mib"), median(ours, "peak_real_mib")
        result |= {
            "compile_cold_ms": median(cold, "compile_ms"),
            "compile_warm_ms": median(warm, "compile_ms"),
            "peak_predicted_mib": predicted,
            "peak_real_mib": real,
            "peak_error": round(real / predicted - 1, 4) if predicted and real else None,
        }
    return result


def number(x, form, unit=""):
    return "-" if x is None else format(x, form) + unit


def line(label, s):
    if s is None:
        return f"  {label:24} not measured"
    return (
        f"  {label:24} {s['median_ms']:9.1f} ms  (min {s['min_ms']:.1f}, rounds differ by {s['spread']:.0%})"
        f"  {s['gflops']:6.0f} GFLOP/s  {number(s['share_of_gemm_peak'], '.0%')} of GEMM peak"
    )


def show(model, r):
    print(f"\n{model}: {r['flops_per_step'] / 1e9:.1f} GFLOP a step")
    print(line("ptc", r["ours"]))
    print(line(f"PyTorch {r['torch_eager_form']}", r["torch_eager"]))
    for variant, ms in r["torch_other_ms"].items():
        print(f"    {variant:22} {ms:9.1f} ms")
    for variant, error in r["torch_failed"].items():
        print(f"    {variant:22} failed: {error.splitlines()[0]}")
    print(
        f"  ratio ptc / PyTorch eager: {number(r['ratio'], '.3f')}  of rounds: {r['ratios']},"
        f" of fastest steps: {number(r.get('ratio_of_min'), '.3f')}"
    )
    if r["noisy"]:
        print("  NOISY: the machine was busy; do not quote these numbers")
    if r["ours"]:
        print(
            f"  compile: cold {number(r['compile_cold_ms'], '.0f', ' ms')}, warm {number(r['compile_warm_ms'], '.0f', ' ms')};"
            f" peak memory: predicted {number(r['peak_predicted_mib'], '.0f', ' MiB')},"
            f" real {number(r['peak_real_mib'], '.0f', ' MiB')} ({number(r['peak_error'], '+.1%')});"
            f" PyTorch's process {number(r['torch_peak_mib'], '.0f', ' MiB')}"
        )


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("raw")
    args.add_argument("result")
    args.add_argument("--max-ratio", type=float)
    opt = args.parse_args()

    with open(opt.raw) as f:
        rows = [json.loads(text) for text in f]
    peaks = [r["gemm_peak_gflops"] for r in rows if r["who"] == "peak"]
    peak = max(peaks, default=None)
    models = sorted({r["model"] for r in rows if r["model"]})
    result = {"gemm_peak_gflops": peak, "models": {m: of_model(m, rows, peak) for m in models}}
    with open(opt.result, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")

    print(f"GEMM peak: {number(peak, '.0f')} GFLOP/s f32 (rounds: {peaks})")
    for model, r in result["models"].items():
        show(model, r)
    if opt.max_ratio is None:
        return 0
    bad = [m for m, r in result["models"].items() if r["ratio"] is None or r["noisy"] or r["ratio"] > opt.max_ratio]
    for model in bad:
        r = result["models"][model]
        print(f"{model}: ratio {r['ratio']}{' (noisy)' if r['noisy'] else ''} does not show at most {opt.max_ratio}")
    return 1 if bad or not models else 0


if __name__ == "__main__":
    sys.exit(main())
