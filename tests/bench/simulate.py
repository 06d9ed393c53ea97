#!/usr/bin/env python3
"""Whole elastic jobs, simulated from what this machine's ranks measure (`ptc plan --simulate -n N`), and really run.

    simulate.py BUILD_DIR [--job vit bert] [--only ROW,...] [--rounds N]

vit: vit-halves.xml on Fashion-MNIST. bert: examples/bench/bert-base.xml, made smaller, on random ids. Layers freeze by policy
schedule after every epoch, and what is frozen is cached; each rank has one thread. Of all rounds of a row the median by total time
counts. Seconds are of training (with filling the cache), of tests and of transitions; the first compilation is not counted.
Writes BUILD_DIR/simulate-result.json and prints the table. Exit code: 0, also when a target is missed, or 1 when a run failed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
FASHION = "/usr/share/datasets/fashion-mnist"
WITHIN = 0.2
HELD = ["--stages=2", "--micro-batches=4", "--schedule=1f1b", "--no-repipe"]
ROWS = [  # name, ranks, flags
    ("1 rank", 1, []),
    ("2 ranks", 2, []),
    ("2 ranks, K = 2 throughout", 2, HELD),
    ("4 ranks", 4, []),
    ("4 ranks, K = 2 throughout", 4, ["--stages=2", "--micro-batches=8", "--schedule=1f1b", "--no-repipe"]),
]
FREEZE = '<freeze policy="schedule" alpha="{1 / 3.0}" keep="1"/>\n  <cache use="auto"/>'


def vit(folder):
    shutil.copy(os.path.join(HERE, "vit-halves.xml"), os.path.join(folder, "vit.xml"))
    flags = ["classes=10", "data.train_limit=5120", "data.test_limit=640", "train.epochs=8"]
    flags += ["freeze.policy=schedule", "freeze.warmup=0"]
    for split, there in (("train", "train"), ("test", "t10k")):
        flags.append(f"data.images.{split}={FASHION}/{there}-images-idx3-ubyte.gz")
        flags.append(f"data.labels.{split}={FASHION}/{there}-labels-idx1-ubyte.gz")
    return "vit.xml", flags


def bert(folder):
    with open(os.path.join(SOURCE, "examples", "bench", "bert-base.xml")) as file:
        text = re.sub(r"(<train [^>]*/>)", rf"\1\n  {FREEZE}", file.read())
    with open(os.path.join(folder, "bert.xml"), "w") as file:
        file.write(text)
    flags = ["vocabulary=4000", "length=64", "d=192", "layers=8", "heads=4", "hidden=768", "train.batch=32"]
    return "bert.xml", [*flags, "data.ids.high=3999", "data.train_limit=768", "data.test_limit=128", "train.epochs=8"]


JOBS = {"vit": vit, "bert": bert}


def output(command, folder):
    print("simulate:", " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"simulate: '{command[0]}' ended with {done.returncode}")
    return done.stdout


def simulated(ptc, ranks, flags, file, folder):
    text = output([ptc, "plan", "--simulate", "--json", "-n", str(ranks), "--threads=1", *flags, file], folder)
    said = json.loads(text)
    epochs = said["periods"]
    return {
        "total_s": said["seconds"],
        "costs": said["costs"],
        "frozen": [e["frozen"] for e in epochs],
        "layouts": [f"{e['stages']} x {e['replicas']}" for e in epochs],
        "cached": [int(e["cached"]) for e in epochs],
        "epochs_s": [e["run_s"] + e["fill_s"] for e in epochs],
        "tests_s": sum(e["test_s"] for e in epochs),
        "transitions_s": sum(e["transition_s"] for e in epochs),
        "bytes": [e["peak_bytes"] for e in epochs],
    }


def really(ptc, ranks, flags, file, folder):
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    output([ptc, "-n", str(ranks), "--threads=1", f"--out={out}", *flags, file], folder)
    with open(os.path.join(out, "metrics.jsonl")) as lines:
        rows = [json.loads(line) for line in lines]
    start = next(row for row in rows if row.get("event") == "run")
    n, steps = start["epochs"], start["total_steps"] // start["epochs"]
    frozen, layouts, cached, planned, epochs_s = [0] * n, ["1 x 1"] * n, [0] * n, [None] * n, [0.0] * n
    for row in rows:
        first = row["step"] // steps
        if row.get("event") in ("layout", "transition"):
            frozen[first:] = [row["frozen"]] * (n - first)
            layouts[first:] = [f"{row['stages']} x {row['replicas']}"] * (n - first)
            cached[first:] = [row["cached"]] * (n - first)
        if row.get("event") in ("layout", "transition", "resources"):
            planned[min(first, n - 1) :] = [row["planned_bytes"]] * (n - min(first, n - 1))
        if row["split"] == "train":
            epochs_s[row["epoch"]] += start["batch"] / row["samples_per_s"]
    moves = [row for row in rows if row.get("event") == "transition"]
    result = {
        "frozen": frozen,
        "layouts": layouts,
        "cached": cached,
        "epochs_s": epochs_s,
        "tests_s": sum(row["seconds"] for row in rows if row["split"] == "eval"),
        "transitions_s": sum(move[part + "_s"] for move in moves for part in ("compile", "regroup", "trial", "copy")),
        "bytes": planned,  # by rank 0
    }
    return result | {"total_s": sum(epochs_s) + result["tests_s"] + result["transitions_s"]}


def off(simulated_number, real):
    return simulated_number / real - 1


def compare(sim, real):
    """What the table says; of epochs, the one that is most off. Memory is that of the first one, which needs most."""
    epochs = [off(s, r) for s, r in zip(sim["epochs_s"], real["epochs_s"])]
    return {
        "total": off(sim["total_s"], real["total_s"]),
        "epoch": max(epochs, key=abs),
        "memory": off(sim["bytes"][0], real["bytes"][0]) if real["bytes"][0] else None,
        "frozen": sim["frozen"] == real["frozen"],
        "layouts": sum(s == r for s, r in zip(sim["layouts"], real["layouts"])),
    }


def show(result):
    print(f"\n{'':32} {'simulated':>9} {'real':>8} {'off':>7} {'epoch':>7} {'memory':>7}  frozen  K x R")
    for row in result:
        at, sim, real = row["off"], row["simulated"], row["real"]
        memory = "-" if at["memory"] is None else f"{100 * at['memory']:+.0f} %"
        print(
            f"{row['job'] + ', ' + row['row']:32} {sim['total_s']:7.1f} s {real['total_s']:6.1f} s {100 * at['total']:+5.0f} %"
            f" {100 * at['epoch']:+5.0f} % {memory:>7}  {'equal ' if at['frozen'] else 'DIFFER'}"
            f"  {at['layouts']} of {len(sim['layouts'])} epochs  {' '.join(dict.fromkeys(real['layouts']))}"
        )
    within = sum(abs(row["off"]["total"]) <= WITHIN for row in result)
    print(f"\ntotal time within {100 * WITHIN:.0f} %: {within} of {len(result)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--job", choices=JOBS, nargs="+", default=list(JOBS))
    parser.add_argument("--only", default="", help="rows, separated by semicolons")
    parser.add_argument("--rounds", type=int, default=3)
    opt = parser.parse_args()
    ptc = os.path.join(os.path.abspath(opt.build), "bin", "ptc")
    folder = os.path.join(os.path.abspath(opt.build), "bench-simulate")
    os.makedirs(folder, exist_ok=True)
    wanted = [name for name in opt.only.split(";") if name] or [row[0] for row in ROWS]
    if os.getloadavg()[0] > 0.25 * os.cpu_count():
        print(f"simulate: WARNING: load {os.getloadavg()[0]} before the start; times will be noisy", file=sys.stderr)
    result = []
    for job in opt.job:
        file, sets = JOBS[job](folder)
        for name, ranks, flags in ROWS:
            if name not in wanted:
                continue
            all_flags = [*flags, *(f"--set={s}" for s in sets)]
            sim = simulated(ptc, ranks, all_flags, file, folder)
            runs = [really(ptc, ranks, all_flags, file, folder) for _ in range(opt.rounds)]
            real = sorted(runs, key=lambda run: run["total_s"])[len(runs) // 2]
            result.append({"job": job, "row": name, "simulated": sim, "real": real, "off": compare(sim, real)})
            with open(os.path.join(opt.build, "simulate-result.json"), "w") as out:
                json.dump(result, out, indent=1)
                out.write("\n")
    show(result)


if __name__ == "__main__":
    main()
