#!/usr/bin/env python3
"""Random elastic jobs: any model of the zoo, freeze policy, cache and precision, on any ranks and layout, also killed and resumed.

    jobs.py BUILD_DIR [--jobs 100] [--first 0] [--device cpu]

Each job runs on one rank, and on 2 to 4 ranks with another layout, ablation switch, number of threads and perhaps a stop from
which it goes on on other ranks. With --deterministic the losses and the layers that freeze must be the same bits. A job that
ptc refuses (exit code 1, e.g. a layout that does not exist) counts apart. What job N is depends on N alone; what is not ok stays
in BUILD_DIR/fuzz-jobs/N. Exit code: 0, or 1 when a job failed.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZOO = os.path.join(SOURCE, "examples", "zoo")
POLICIES = ["none", "explicit", "gradnorm", "schedule", "autofreeze", "plasticity"]
# of those dimensions that a model has
SMALL = {"d": 32, "heads": 4, "groups": 2, "hidden": 64, "embedding": 16, "tokens": 12, "positions": 32, "vocabulary": 200}
SMALL |= {"image": 32, "pad": 0}


def freeze_element(draw, layers):
    policy = draw.choice(POLICIES)
    more = {
        "explicit": lambda: f'layers="{" ".join(map(str, sorted(draw.sample(range(1, layers + 1), 2))))}"',
        "gradnorm": lambda: f'alpha="{draw.choice([0.34, 0.5])}"',
        "schedule": lambda: f'alpha="{draw.choice([0.34, 0.5])}"',
        "plasticity": lambda: 'window="1" patience="1" tolerance="0.9"',
    }.get(policy, lambda: "")()
    return f'<freeze policy="{policy}" {more} every_steps="{draw.randint(1, 3)}" keep="{draw.randint(0, 1)}"/>'


def cache_element(draw):
    room = draw.choice(["", 'memory="0.001" disk="1"'])
    return f'<cache use="{draw.choice(["auto", "on", "on", "off"])}" {room}/>'


def write_model(draw, folder, layers):
    """A model of the zoo with <freeze> and <cache>: its path, and the settings that make it small."""
    name = draw.choice(sorted(os.listdir(ZOO)))
    with open(os.path.join(ZOO, name)) as file:
        text = file.read()
    elastic = f"{freeze_element(draw, layers)}\n  {cache_element(draw)}"
    text = re.sub(r"<train [^>]*/>|</train>", lambda train: f"{train.group(0)}\n  {elastic}", text, count=1)
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    sizes = (SMALL | {"layers": layers}).items()
    return path, elastic, [f"--set={dim}={size}" for dim, size in sizes if f'<dim name="{dim}"' in text]


def layout(draw, ranks):
    flags = []
    stages = draw.choice([None, *(k for k in (1, 2, 4) if ranks % k == 0)])
    if stages:
        flags += [f"--stages={stages}", f"--replicas={ranks // stages}"]
    flags += draw.choice([[], ["--schedule=gpipe"], ["--schedule=1f1b"], ["--schedule=zb-h1"]])
    return flags + draw.choice([[], [], ["--no-repipe"], ["--no-replicate"], ["--no-cache"], ["--threads=2"]])


def run(command):
    """(exit code, its last words)"""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
    return done.returncode, "\n    ".join(done.stdout.strip().splitlines()[-5:])


def what_came(out):
    """By step: the loss and the norm of the gradient; the layers that are frozen from it on."""
    with open(os.path.join(out, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    losses = {line["step"]: (line["loss"], line.get("grad_norm")) for line in lines if line["split"] == "train"}
    frozen = {line["step"]: line["frozen"] for line in lines if line["split"] == "event" and line["event"] == "freeze"}
    return losses, frozen


def try_job(ptc, device, number, folder):
    """(ok, refused or failed; what it was; what is wrong)"""
    draw = random.Random(number)
    path, elastic, sizes = write_model(draw, folder, draw.randint(2, 4))
    job = [*sizes, f"--set=train.batch={draw.choice([12, 24])}", "--set=train.epochs=3", f"--seed={number + 1}"]
    job += [f"--synthetic={draw.choice([40, 48, 51])}", f"--precision={draw.choice(['f32', 'f32', 'bf16'])}"]
    ranks = draw.randint(2, 4)
    job += [f"--device={device}", "--deterministic", f"--micro-batches={6 if ranks == 3 else 4}"]
    one, many = os.path.join(folder, "one"), os.path.join(folder, "many")
    commands = [[ptc, *job, f"--out={one}", path], [ptc, "-n", str(ranks), *job, f"--out={many}", *layout(draw, ranks), path]]
    stop = draw.choice([0, 0, 1, 2, 3, 5, 7])
    if stop:
        commands[1].insert(1, f"--max-steps={stop}")
        commands.append([ptc, "-n", str(draw.randint(1, 4)), *job, f"--out={many}", "--resume", path])
    what = "\n    ".join([elastic, *map(shlex.join, commands)])
    for command in commands:
        code, words = run(command)
        if code:
            return "refused" if code == 1 else "failed", what, f"exit code {code}: {words}"
    (want, want_frozen), (have, have_frozen) = what_came(one), what_came(many)
    wrong = [step for step in want if have.get(step) != want[step]]
    if wrong or want_frozen != have_frozen:
        return "failed", what, f"other losses at steps {wrong}; frozen {want_frozen} and {have_frozen}"
    return "ok", what, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first job")
    parser.add_argument("--device", default="cpu", help="as ptc has it; cuda also with the mocks of tests/cuda ($PTC_CUDA_PATH)")
    opt = parser.parse_args()
    ptc = os.path.join(os.path.abspath(opt.build), "bin", "ptc")
    count = {"ok": 0, "refused": 0, "failed": 0}
    for number in range(opt.first, opt.first + opt.jobs):
        folder = os.path.join(os.path.abspath(opt.build), "fuzz-jobs", str(number))
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        verdict, what, wrong = try_job(ptc, opt.device, number, folder)
        count[verdict] += 1
        if verdict == "ok":
            shutil.rmtree(folder)
        else:
            print(f"job {number} {verdict}\n    {what}\n    {wrong}", flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in count.items()))
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
