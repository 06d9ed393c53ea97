#!/usr/bin/env python3
"""PipeTransformer's jobs on its cluster, simulated: what docs/performance.md puts beside the paper's numbers.

    paper.py BUILD_DIR

`ptc plan --simulate` of examples/paper on examples/clusters/rtx5000-2x8.xml, by the rule of the paper's authors and by our planner.
Speedups are against the paper's static pipeline (K = 8, R = 2, M = 16 of each). Nothing is measured: it takes seconds.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLUSTER = os.path.join(SOURCE, "examples", "clusters", "rtx5000-2x8.xml")
IMAGENET, CIFAR100, SQUAD, SST2 = "vit-b16-imagenet", "vit-b16-cifar100", "bert-large-squad", "bert-base-sst2"
SAMPLES = {IMAGENET: 1281167, CIFAR100: 50000, SQUAD: 88311, SST2: 67349}
FIG_11_BEST = {4: (6, 4), 2: (9, 8)}  # K: layers frozen there, M / K of their best
FIG_11 = {8: 368, 16: 410, 24: 386, 32: 340, 40: 298, 48: 286}  # M of a pipeline: samples/s
TABLE_1 = {IMAGENET: (1 / 3, 2.83), CIFAR100: (1 / 4, 2.44), SQUAD: (1 / 3, 2.10), SST2: (1 / 3, None)}  # alpha, speedup
FIG_10 = {1 / 5: 2.04, 1 / 4: 2.44, 1 / 3: 2.83, 2 / 5: 3.29, 1 / 2: 3.86}  # alpha: speedup
FIG_9 = [400, 320, 592, 1293, 1639, 3298, 4571, 4396]  # samples/s by epoch
WITHOUT_CACHE = 2.27


class Simulator:
    def __init__(self, build, folder):
        self.ptc, self.folder = os.path.join(os.path.abspath(build), "bin", "ptc"), folder

    def run(self, job, *flags, paper=True, alpha=1 / 3, layers=None):
        """What `ptc plan --simulate --json` says of a job. layers: frozen from the second epoch on; None: by alpha."""
        with open(os.path.join(SOURCE, "examples", "paper", job + ".xml")) as file:
            text = file.read()
        freeze = f'policy="explicit" layers="{layers}"' if layers else f'policy="schedule" alpha="{alpha}"'
        text = re.sub("<freeze .*/>", f"<freeze {freeze}/>", text)
        if paper:
            text = text.replace("</model>", '  <cluster planner="paper"/>\n</model>')
        model = os.path.join(self.folder, job + ".xml")
        with open(model, "w") as file:
            file.write(text)
        command = [self.ptc, "plan", "--simulate", "--json", f"--cluster={CLUSTER}", f"--synthetic={SAMPLES[job]}"]
        done = subprocess.run([*command, *flags, model], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"paper: '{' '.join(command)}' ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)


def off(ours, theirs):
    return f"{100 * (ours / theirs - 1):+4.0f} %"


def speedup(result):
    return result["static_paper"]["speedup"]


def show_pipeline(sim):
    print("the static pipeline, K = 8, R = 2 (Fig. 11, left), M of a pipeline: samples/s")
    for m, theirs in FIG_11.items():
        result = sim.run(IMAGENET, "--no-freeze", "--stages=8", f"--micro-batches={m}", "--set=train.epochs=1")
        ours = result["periods"][0]["samples_per_s"]
        print(f"  {m:3} {theirs:5} {ours:6.0f} {off(ours, theirs)}")


def show_packed(sim):
    print("\npacked to K stages (Fig. 11, middle and right), M / K: their best, and samples/s simulated")
    for k, (layers, best) in FIG_11_BEST.items():
        rates = {}
        for times in (1, 2, 3, 4, 6, 8):
            result = sim.run(IMAGENET, f"--micro-batches={k * times}", "--set=train.epochs=2", layers=layers)
            rates[times] = result["periods"][1]["samples_per_s"]
        print(f"  K = {k}: {best}; " + ", ".join(f"{times}: {rate:.0f}" for times, rate in rates.items()))


def show_jobs(sim):
    print("\nspeedups (Table 1): theirs, simulated, off; our planner's, the best static plan's, and the one against the other")
    for job, (alpha, theirs) in TABLE_1.items():
        ours, own = speedup(sim.run(job, alpha=alpha)), sim.run(job, alpha=alpha, paper=False)
        best = own["static_paper"]["speedup"] / own["static_best"]["speedup"]
        told = f"{theirs:5.2f} {ours:5.2f} {off(ours, theirs)}" if theirs else f"    - {ours:5.2f}       "
        print(f"  {job:18} {told} {speedup(own):5.2f} {best:5.2f} {own['static_best']['speedup']:5.2f}")


def show_alphas(sim):
    print("\nCIFAR-100 by alpha (Fig. 10): theirs, simulated")
    for alpha, theirs in FIG_10.items():
        ours = speedup(sim.run(CIFAR100, alpha=alpha))
        print(f"  {alpha:5.3f} {theirs:5.2f} {ours:5.2f} {off(ours, theirs)}")
    ours = speedup(sim.run(CIFAR100, "--no-cache"))
    print(f"  without a cache, alpha 1/3 (Fig. 9) {WITHOUT_CACHE:5.2f} {ours:5.2f} {off(ours, WITHOUT_CACHE)}")


def show_epochs(sim):
    print("\nCIFAR-100 by epoch (Fig. 9): frozen layers, samples/s, theirs and simulated")
    result = sim.run(CIFAR100)
    for epoch, theirs in enumerate(FIG_9):
        period = [p for p in result["periods"] if p["epoch"] <= epoch][-1]
        seconds = period["run_s"] + (period["fill_s"] if period["epoch"] == epoch else 0)
        print(f"  {epoch} {period['frozen']:3} {theirs:5} {SAMPLES[CIFAR100] / seconds:6.0f}")


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        sim = Simulator(sys.argv[1], folder)
        for show in (show_pipeline, show_packed, show_jobs, show_alphas, show_epochs):
            show(sim)


if __name__ == "__main__":
    main()
