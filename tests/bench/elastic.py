#!/usr/bin/env python3
"""Fine-tuning on two ranks of one core each, elastic against static and against PyTorch: the ablation table.

    elastic.py BUILD_DIR [--job vit banking77] [--seeds 1 2 3] [--only ROW,...] [--epochs N] [--quick]

vit: vit-halves.xml, pre-trained by ptc on the Fashion-MNIST classes 0 to 4 and fine-tuned on 5 to 9. banking77:
examples/text/minilm-banking77.xml with <freeze> and <cache>; texts are padded to one of the example's lengths, in PyTorch to
the longest of a batch (--length=N: on both sides to N tokens). A row is a layout and a freeze policy (ROWS);
torch-... is DistributedDataParallel over gloo with layers frozen at the epochs at which the row all-... froze them.

Seconds are of training, on the clock: steps, data, filling the cache, decisions and transitions; evaluation and the first
compilation are apart, on either side. Speedups and accuracies compare the same seeds; a static plan's accuracy is the mean of
the two, which differ by rounding alone. --static-epochs=N: the static plans, whose epochs are alike, are run for N of them, and their
seconds are those of all; they then have no accuracy. --untimed: the machine has other work, only the accuracy counts. --model,
--data and TORCH_PYTHON are as in banking77.py.
Writes BUILD_DIR/elastic-result.json after every run and prints the table; --keep goes on from that file, and measures
what it lacks. The pre-trained ViT is kept in BUILD_DIR/bench-elastic-vit until that is removed. --quick: few samples and
epochs, to see that everything works; the numbers mean nothing. Exit code: 0, also when a target is missed, or 1 when a run failed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from banking77 import packaged_model
from elastic_data import BANKING77, VIT, prepare

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
JOBS = {"vit": VIT, "banking77": BANKING77}
POLICIES = {"closed": "gradnorm", "open": "schedule"}
TARGETS = {"static-pipeline": 2.83, "static-best": 1.8, "accuracy": 0.003}
STATIC = ["static-pipeline", "static-best"]
PIPELINE = ["--stages=2", "--micro-batches=4", "--schedule=1f1b"]

# (name, what it is, flags, the paper's speedup); those with a * stand for one of each policy
ROWS = [
    ("static-pipeline", "static pipeline, K = 2, 1F1B, M = 4", [*PIPELINE, "--no-freeze"], 1.0),
    ("static-best", "best static plan", ["--no-freeze"], None),
    ("freeze-*", "freeze only", [*PIPELINE, "--no-repipe", "--no-cache"], 0.95),
    ("repipe-cache-*", "+ repipe + cache", ["--replicas=1", "--no-replicate"], 1.26),
    ("repipe-replicate-*", "+ repipe + replicate", ["--no-cache"], 2.27),
    ("all-*", "all", [], 2.83),
    ("torch-*", "PyTorch, DistributedDataParallel", None, None),
]


def expand(rows):
    for name, what, flags, paper in rows:
        for short, policy in POLICIES.items() if "*" in name else [("", None)]:
            label = f"{what}, {short} loop" if short else what
            yield {"row": name.replace("*", short), "what": label, "policy": policy, "flags": flags, "paper": paper}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--job", choices=JOBS, nargs="+", default=list(JOBS))
    parser.add_argument("--model", default=packaged_model())
    parser.add_argument("--data", default=os.path.join(SOURCE, "..", "shared", "data", "banking77"))
    parser.add_argument("--fashion", default="/usr/share/datasets/fashion-mnist", help="folder of the IDX files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", default="", help="rows, separated by commas")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the job's")
    parser.add_argument("--static-epochs", type=int, default=0, help="of the static plans; 0: all")
    parser.add_argument("--untimed", action="store_true", help="only the accuracy counts")
    parser.add_argument("--length", type=int, default=0, help="of all texts, in tokens; 0: several")
    parser.add_argument("--keep", action="store_true", help="what an earlier call has measured")
    parser.add_argument("--quick", action="store_true")
    opt = parser.parse_args()
    rows = list(expand(ROWS))
    names = [name for name in opt.only.split(",") if name] or [row["row"] for row in rows]
    for name in names:
        if name not in [row["row"] for row in rows]:
            parser.error(f"no row '{name}'; there are {', '.join(row['row'] for row in rows)}")
    opt.rows = [row for row in rows if row["row"] in names]
    opt.result = os.path.join(opt.build, "elastic-result.json")
    opt.ptc = os.path.join(os.path.abspath(opt.build), "bin", "ptc")
    if opt.quick:
        opt.seeds = opt.seeds[:1]
    return opt


def run(command, cwd=None):
    """The lines of a program's output, each with the time at which it came."""
    print("elastic:", " ".join(command), file=sys.stderr, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        lines = [(time.monotonic(), line.rstrip("\n")) for line in process.stdout]
    if process.returncode:
        sys.exit(f"elastic: '{command[0]}' ended with {process.returncode}")
    return lines


def time_of(lines, start):
    return next(at for at, line in lines if line.startswith(start))


def frozen_by_epoch(events, epoch_steps, n_epochs):
    """Layers that are frozen in each epoch."""
    frozen = [0] * n_epochs
    for event in events:
        if event["event"] == "freeze":
            first = event["step"] // epoch_steps
            frozen[first:] = [event["frozen"]] * (n_epochs - first)
    return frozen


def train_ours(opt, job, folder, row, seed):
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    command = [opt.ptc, "-n", "2", "--threads=1", f"--seed={seed}", f"--out={out}", *row["flags"], *job.flags]
    if row["policy"]:
        command.append(f"--set=freeze.policy={row['policy']}")
    few = opt.static_epochs if row["row"] in STATIC else 0
    if few:
        command.append(f"--set=train.epochs={few}")
    said = run([*command, job.file], cwd=folder)
    with open(os.path.join(out, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    events = [line for line in lines if line["split"] == "event"]
    steps = [line for line in lines if line["split"] == "train"]
    evals = [line for line in lines if line["split"] == "eval"]
    start = next(event for event in events if event["event"] == "run")
    moves = [event for event in events if event["event"] == "transition"]
    layouts = [event for event in events if event["event"] == "layout"]
    layouts = [f"step {a['step']}: K={a['stages']} R={a['replicas']} M={a['micro_batches']}" for a in layouts]
    n_epochs = start["epochs"]
    eval_s = sum(line["seconds"] for line in evals)
    by_epoch = [[line for line in steps if line["epoch"] == epoch] for epoch in range(n_epochs)]
    train_s = time_of(said, "done: ") - time_of(said, "compiled in ") - eval_s
    if few:
        return {"train_s": train_s / few * job.epochs, "accuracy": None, "measured_epochs": few, "layouts": layouts}
    return {
        "train_s": train_s,
        "transition_s": sum(move[part + "_s"] for move in moves for part in ("compile", "regroup", "trial", "copy")),
        "eval_s": eval_s,
        "accuracy": evals[-1]["accuracy"],
        "accuracies": [line["accuracy"] for line in evals],
        "losses": [line["loss"] for line in evals],
        "steps_s": [sum(start["batch"] / line["samples_per_s"] for line in part) for part in by_epoch],
        "data_s": [sum(line["data_ms"] for line in part) / 1e3 for part in by_epoch],
        "frozen": frozen_by_epoch(events, start["total_steps"] // n_epochs, n_epochs),
        "layouts": layouts,
        "cached": [move["cached"] for move in moves],
    }


def train_torch(job, folder, row, seed, frozen):
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    command = [python, os.path.join(HERE, "elastic_torch.py"), job.name, f"--folder={folder}", f"--seed={seed}"]
    command += ["--frozen", *map(str, frozen), *job.torch_flags]
    lines = [json.loads(line) for _, line in run(command) if line.startswith("{")]
    return {
        "train_s": sum(line["train_s"] for line in lines),
        "eval_s": sum(line["eval_s"] for line in lines),
        "accuracy": lines[-1]["accuracy"],
        "accuracies": [line["accuracy"] for line in lines],
        "steps_s": [line["train_s"] for line in lines],
        "frozen": frozen,
    }


def measure(opt, job, folder, row, seed, results):
    if not row["row"].startswith("torch"):
        return train_ours(opt, job, folder, row, seed)
    twin = row["row"].replace("torch", "all")
    ours = next((r for r in results if r["job"] == job.name and r["row"] == twin and r["seed"] == seed), None)
    if not ours:
        sys.exit(f"elastic: {row['row']} freezes as {twin} did, which was not run")
    return train_torch(job, folder, row, seed, ours["frozen"])


def runnable(opt):
    """The rows whose switches this ptc has."""
    listed = "\n".join(line for _, line in run([opt.ptc, "run", "--help"]))
    for row in opt.rows:
        lacking = [flag for flag in row["flags"] or [] if flag.startswith("--no-") and flag not in listed]
        if lacking:
            print(f"elastic: {row['row']} is left out: ptc has no {lacking[0]}", file=sys.stderr)
        else:
            yield row


def settings(opt):
    return {"quick": opt.quick, "length": opt.length, "epochs": opt.epochs}


def kept(opt):
    """The runs of an earlier call with the same settings."""
    if not opt.keep or not os.path.exists(opt.result):
        return []
    with open(opt.result) as file:
        result = json.load(file)
    if result.get("settings") != settings(opt):
        sys.exit(f"elastic: '{opt.result}' is of a call with other settings")
    return result["runs"]


def save(opt, results):
    with open(opt.result, "w") as file:
        tables = {job: table(job, results) for job in JOBS}
        json.dump({"settings": settings(opt), "tables": tables, "runs": results}, file, indent=1)
        file.write("\n")


def of_seed(results, rows, seed, key):
    """The mean over those of the rows that were run with the seed; None: none was."""
    values = [r[key] for r in results if r["row"] in rows and r["seed"] == seed and r[key] is not None]
    return statistics.mean(values) if values else None


def paired(some, results, rows, key, compare):
    """compare(of rows, of this) for each seed that both were run with."""
    pairs = [(of_seed(results, rows, r["seed"], key), r[key]) for r in some]
    return [compare(base, mine) for base, mine in pairs if base is not None and mine is not None]


def table(job, results):
    """The rows of a job that were run, with what their seeds gave; a seed is compared with the same seed."""
    lines = []
    results = [r for r in results if r["job"] == job]
    for row in expand(ROWS):
        some = [r for r in results if r["row"] == row["row"]]
        if not some:
            continue
        line = {"row": row["row"], "what": row["what"], "paper": row["paper"], "seeds": len(some)}
        times = [r["train_s"] for r in some if r["train_s"] is not None]
        line["train_s"] = statistics.median(times) if times else None
        accuracies = [r["accuracy"] for r in some if r["accuracy"] is not None]
        line["accuracy"] = statistics.mean(accuracies) if accuracies else None
        for base in STATIC:
            ratios = paired(some, results, [base], "train_s", lambda theirs, mine: theirs / mine)
            line[f"over_{base}"] = statistics.median(ratios) if ratios else None
        offs = paired(some, results, STATIC, "accuracy", lambda theirs, mine: mine - theirs)
        line["accuracy_off"] = statistics.mean(offs) if offs else None
        lines.append(line)
    return lines


def number(value, form):
    return "-" if value is None else format(value, form)


def show(job, lines):
    if not lines:
        return
    print(f"\n{job}\n  {'':42} {'seconds':>8} {'speedup':>8} {'paper':>6} {'best':>6} {'accuracy':>9} {'off':>8}  seeds")
    for line in lines:
        print(
            f"  {line['what']:42} {number(line['train_s'], '.1f'):>8} {number(line['over_static-pipeline'], '.2f'):>8}"
            f" {number(line['paper'], '.2f'):>6} {number(line['over_static-best'], '.2f'):>6}"
            f" {number(line['accuracy'], '.4f'):>9} {number(line['accuracy_off'], '+.4f'):>8}  {line['seeds']}"
        )
    for line in lines:
        if line["row"].startswith("all-") and line["over_static-pipeline"] and line["over_static-best"]:
            met = all(line[f"over_{base}"] >= TARGETS[base] for base in STATIC)
            off = line["accuracy_off"]
            near = "not compared" if off is None else "met" if off >= -TARGETS["accuracy"] else "missed"
            print(f"  {line['row']}: wanted speedups of 2.83 and 1.8: {'met' if met else 'missed'}; accuracy within 0.0030: {near}")


def main():
    opt = arguments()
    if os.cpu_count() < 2:
        sys.exit("elastic: two ranks of one core each want two cores")
    if os.getloadavg()[0] > 0.25 * os.cpu_count():
        print(f"elastic: WARNING: load {os.getloadavg()[0]} before the start; times will be noisy", file=sys.stderr)
    rows, results = list(runnable(opt)), kept(opt)
    for job in (JOBS[name] for name in opt.job):
        folder = os.path.join(os.path.abspath(opt.build), f"bench-elastic-{job.name}{'-quick' if opt.quick else ''}")
        job = prepare(job, opt, folder, run)
        for seed in opt.seeds:
            for row in rows:
                result = {"job": job.name, "row": row["row"], "seed": seed}
                if any(result.items() <= old.items() for old in results):
                    continue
                results.append(result | measure(opt, job, folder, row, seed, results))
                if opt.untimed:
                    results[-1]["train_s"] = None
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
                save(opt, results)
    for job in JOBS:
        show(job, table(job, results))


if __name__ == "__main__":
    main()
