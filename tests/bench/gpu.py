#!/usr/bin/env python3
"""One NVIDIA GPU: is ptc right on it, and how fast beside PyTorch. Ends in tables; a build of ptc and a GPU are needed.

    gpu.py BUILD_DIR [--parts right,rows,speed,elastic,frozen,profiles] [--rounds N] [--quick]

right    the conformance tests of the device layer; losses of a small ViT and a small BERT over 20 steps against the CPU's in f32
         (within 1e-4 of them in f32, 2e-2 in bf16), twice to the same bits, and on two ranks, which share the GPU; memcheck and
         racecheck of compute-sanitizer
rows     of BERT-base's kernels in bf16 that move over 20 MB, but attention, gathers and their gradients: the bytes of their operands
         and results over the time that ncu takes, as a share of the copy rate: the caches emptied before each, and as they are
         behind the kernel before it in a step
speed    training steps of BERT-base (64 x 128), BERT-large (32 x 128) and ViT-B/16 (256 images) in bf16 with AdamW, ours and
         PyTorch's (torch_gpu.py: eager and torch.compile) in turn, and the GPU's copy and matrix rates
elastic  fine-tuning on Fashion-MNIST (examples/vit-elastic.xml) with freezing and cache, and without
Only when asked for:
frozen   the steps of `speed` with half of the layers frozen, without and with their outputs cached; a round less
profiles BUILD_DIR/gpu-profile-MODEL.txt: the time of every kernel

TORCH_PYTHON: a python with a PyTorch that knows the GPU (python3). PyTorch compiles beside the part `right`, whose times do not
matter, and finds its code in its own cache later; that of BERT-base with all layers, to see what it costs cold, in `speed`. Writes
BUILD_DIR/gpu-result.json. Exit code: 0, also when a target is missed, or 1 when something is wrong or could not be measured.
"""

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
PARTS = ("right", "rows", "speed", "frozen", "elastic", "profiles")
PYTHON = os.environ.get("TORCH_PYTHON", "python3")
BF16 = "--set=train.precision=bf16"

# name: (file, flags, batch, layers, steps)
MODELS = {
    "bert-base": ("bert-base.xml", ["--set=train.batch=64"], 64, 12, 40),
    "bert-large": (
        "bert-base.xml",
        ["--set=train.batch=32", "--set=d=1024", "--set=layers=24", "--set=heads=16", "--set=hidden=4096"],
        32,
        24,
        30,
    ),
    "vit-b16": ("vit-b16.xml", [], 256, 12, 15),
}
SMALL = {
    "ViT": ["tests/fixtures/vit-tiny.xml"],
    "BERT": [
        "examples/bench/bert-base.xml",
        *(f"--set={x}" for x in ("d=64", "layers=2", "heads=2", "hidden=128", "length=64")),
    ],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--parts", default="right,rows,speed,elastic")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="no torch.compile, few steps")
    opt = parser.parse_args()
    for names, known in ((opt.parts, PARTS), (opt.models, MODELS)):
        for name in names.split(","):
            if name not in known:
                parser.error(f"no '{name}'; there are {', '.join(known)}")
    opt.parts, opt.models = opt.parts.split(","), opt.models.split(",")
    opt.forms = ["full"] * ("speed" in opt.parts) + ["half-frozen", "cached"] * ("frozen" in opt.parts)
    opt.bin = os.path.join(os.path.abspath(opt.build), "bin")
    opt.ptc = os.path.join(opt.bin, "ptc")
    return opt


class Bench:
    def __init__(self, opt):
        self.opt, self.result, self.wrong, self.logs = opt, {}, [], {}
        self.work = tempfile.mkdtemp(prefix="ptc-gpu-")
        self.env = {**os.environ, "PTC_CACHE_DIR": os.path.join(self.work, "kernels")}
        self.torch_env = {**os.environ, "PYTHONPATH": HERE}
        for name in os.environ.get("PTC_ONLY_ENV", "").split():  # what PyTorch must not see
            self.torch_env.pop(name, None)
        self.torch_log = open(os.path.join(opt.build, "gpu-torch.log"), "w+")
        self.started = time.time()

    def save(self):
        with open(os.path.join(self.opt.build, "gpu-result.json"), "w") as file:
            json.dump(self.result, file, indent=1)

    def say(self, text):
        print(f"[{time.time() - self.started:5.0f} s] {text}", flush=True)

    def check(self, what, good, detail=""):
        self.say(f"{'ok    ' if good else 'WRONG '} {what}{': ' + detail if detail else ''}")
        self.result.setdefault("right", {})[what] = {"ok": bool(good), "detail": detail}
        if not good:
            self.wrong.append(what)

    def call(self, command, timeout=300, env=None):
        done = subprocess.run(command, cwd=SOURCE, env=env or self.env, capture_output=True, text=True, timeout=timeout)
        return done.returncode, done.stdout + done.stderr

    def ptc(self, *flags, timeout=300):
        code, text = self.call([self.opt.ptc, *flags], timeout)
        if code != 0:
            raise RuntimeError(f"ptc {' '.join(flags)}: exit code {code}\n{text[-2000:]}")
        return text

    def start_torch(self, *flags):
        return subprocess.Popen(
            [PYTHON, os.path.join(HERE, "torch_gpu.py"), *flags],
            env=self.torch_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.torch_log, text=True,
        )

    def torch(self, *flags, timeout=400):
        process = self.start_torch(*flags)
        out, _ = process.communicate(timeout=timeout)
        if process.returncode != 0:
            raise RuntimeError(f"torch_gpu.py {' '.join(flags)}: exit code {process.returncode}, see {self.torch_log.name}")
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def begin(self, command, env):
        """A process beside this one; what it says is kept for ended()."""
        log = tempfile.TemporaryFile("w+", dir=self.work)
        process = subprocess.Popen(command, cwd=SOURCE, env=env, stdout=log, stderr=subprocess.STDOUT)
        self.logs[process.pid] = log
        return process

    def ended(self, process):
        process.wait(timeout=300)
        log = self.logs.pop(process.pid)
        log.seek(0)
        return log.read()

    # ---- right

    def losses(self, out, flags):
        folder = os.path.join(self.work, out)
        shutil.rmtree(folder, ignore_errors=True)
        self.ptc(*flags, f"--out={folder}", "--max-steps=20")
        rows = [json.loads(line) for line in open(os.path.join(folder, "metrics.jsonl"))]
        return [row["loss"] for row in rows if row["split"] == "train"]

    def right(self):
        tests = {
            "hal_test": ["libhal_kernels.so", "libhal_kernels_wrong_abi.so"], "device_block": [], "device_ops": []}
        env = {**self.env, "REQUIRE_CUDA": "1", "PTC_RANDOM_SEEDS": "4"}
        running = []
        for name, files in tests.items():
            paths = [os.path.join(self.opt.build, "tests", "runtime", file) for file in files]
            running.append((name, self.begin([os.path.join(self.opt.bin, name), *paths], env)))
        apart = {**self.env, "PTC_CACHE_DIR": os.path.join(self.work, "sanitized")}  # who measures first chooses algorithms
        sanitized = [
            (f"{tool}: {name}, {precision}", self.begin(
                ["compute-sanitizer", "--tool", tool, "--error-exitcode=9", self.opt.ptc, *flags, "--device=cuda",
                 f"--set=train.precision={precision}", "--max-steps=2", "--no-graphs"], apart))
            for tool in ("memcheck", "racecheck") for name, flags in SMALL.items() for precision in ("f32", "bf16")
            if shutil.which("compute-sanitizer")
        ]
        if not sanitized:
            self.say("skip   memcheck, racecheck: no compute-sanitizer")
        for name, flags in SMALL.items():
            cpu = self.losses("cpu", [*flags, "--threads=4"])
            for precision, bound in (("f32", 1e-4), ("bf16", 2e-2)):
                on_gpu = [*flags, "--device=cuda", f"--set=train.precision={precision}"]
                first, again = self.losses("gpu", on_gpu), self.losses("again", on_gpu)
                worst = max(abs(a - b) / abs(b) for a, b in zip(first, cpu))
                self.check(f"{name}, {precision}: 20 losses", len(first) == len(cpu) == 20 and worst <= bound, f"{worst:.1e} of the CPU's, bound {bound:.0e}")
                self.check(f"{name}, {precision}: the same bits again", first == again)
                fixed = [*on_gpu, "--deterministic", "--micro-batches=4"]
                if shutil.which("mpirun"):
                    two = self.losses("two", [*fixed, "-n", "2"])
                    one = self.losses("one", fixed)
                    self.check(f"{name}, {precision}: the same bits on two ranks", len(two) == 20 and two == one)
                else:
                    self.say(f"skip   {name}, {precision}: no mpirun for two ranks")
        for name, process in running:
            text = self.ended(process)
            passed = re.findall(r"\[  PASSED  \] (\d+) test", text)
            self.check(name, process.returncode == 0, f"{passed[-1] if passed else 0} passed" if process.returncode == 0 else text[-1500:])
        for what, process in sanitized:
            text = self.ended(process)
            tail = [line for line in text.splitlines() if line.startswith("=========")][-1:]
            self.check(what, process.returncode == 0, "".join(tail) if process.returncode == 0 else text[-600:])

    # ---- speed

    def ours(self, name, *flags):
        file, model_flags, _, _, steps = MODELS[name]
        steps = 5 if self.opt.quick else steps
        text = self.ptc("bench", f"examples/bench/{file}", "--device=cuda", "--json", f"--steps={steps}", "--warmup=5", BF16, *model_flags, *flags)
        return json.loads(text.splitlines()[-1])

    def in_turn(self, torch, name, form, measure):
        """Rounds of ours and of each of PyTorch's variants, which stay compiled in one process."""
        variants = ["eager"] if self.opt.quick else ["eager", "compile"]
        row = {"ours": [], **{variant: [] for variant in variants}}

        def ask(line):
            print(line, file=torch.stdin, flush=True)
            answer = torch.stdout.readline()
            if not answer:
                raise RuntimeError(f"torch_gpu.py ended: see {self.torch_log.name}")
            return json.loads(answer)

        for variant in variants:
            ask(f"open {variant} {form}")
        for _ in range(self.opt.rounds if form == "full" else max(1, self.opt.rounds - 1)):
            row["ours"].append(measure())
            for variant in variants:
                row[variant].append(ask(f"measure {variant}"))
        ask("close")
        return row

    def peaks(self):
        if "peaks" not in self.result:
            peaks = self.result["peaks"] = self.torch("--peaks")[0]
            self.say(f"{peaks['device']}: {peaks['matmul_tflops']} TFLOP/s, copies {peaks['copy_gb_per_s']} GB/s")
        return self.result["peaks"]

    def models(self):
        """The parts speed and frozen: a model in all its forms after another, beside one process of PyTorch's."""
        for name in self.opt.models:
            steps = 5 if self.opt.quick else MODELS[name][4]
            torch = self.start_torch("--serve", "--model", name, "--steps", str(steps))
            try:
                for form in self.opt.forms:
                    self.model(torch, name, form)
                    self.save()
            except (RuntimeError, OSError, ValueError) as error:  # the next model can still be measured
                print(error, file=sys.stderr)
                self.wrong.append(f"{name}: {str(error)[:200]}")
            finally:
                torch.stdin.close()
                torch.wait(timeout=60)

    def model(self, torch, name, form):
        if form == "full":
            row = self.in_turn(torch, name, form, lambda: self.ours(name))
            self.result.setdefault("speed", {})[name] = row
            first = row["ours"][0]
            share = first["matmul_gflop"] / self.middle(row["ours"]) / self.peaks()["matmul_tflops"]
            self.say(f"{name}: {self.line(row)}; {100 * share:.0f} % of the matrix peak; ready in {first['compile_ms'] / 1e3:.1f} s; {first['peak_real_mib']:.0f} MiB (PyTorch {row['eager'][0]['peak_mib']})")
            return
        half = MODELS[name][3] // 2
        what = f"{name}, {half} layers frozen{', cached' if form == 'cached' else ''}"
        row = self.in_turn(torch, name, form, lambda: self.frozen_run(name, half, "on" if form == "cached" else "off"))
        self.result.setdefault("frozen", {})[what] = row
        move = row["ours"][0]["transition"]
        self.say(f"{what}: {self.line(row)}; transition: " + ", ".join(f"{k} {move.get(k, 0):.2f}" for k in ("compile_s", "trial_s", "copy_s")))

    @staticmethod
    def middle(runs):
        return statistics.median(run["median_ms"] for run in runs)

    def line(self, row):
        times = {who: self.middle(runs) for who, runs in row.items()}
        ratios = [ours["median_ms"] / min(runs[i]["median_ms"] for who, runs in row.items() if who != "ours") for i, ours in enumerate(row["ours"])]
        row["ratio"], row["ratios"] = statistics.median(ratios), ratios
        firsts = {who: runs[0]["first_ms"] / 1e3 for who, runs in row.items() if who not in ("ours", "ratio", "ratios")}
        row_text = ", ".join(f"{who} {ms:.2f} ms" for who, ms in times.items())
        return f"{row_text}; ratio to the better {row['ratio']:.2f} ({', '.join(f'{r:.2f}' for r in ratios)}); PyTorch's first step " + ", ".join(f"{who} {s:.1f} s" for who, s in firsts.items())

    def profiles(self):
        """Where the time goes: kept beside the result."""
        for name in self.opt.models:
            file, flags, *_ = MODELS[name]
            text = self.ptc("bench", f"examples/bench/{file}", "--device=cuda", "--profile", "--steps=3", "--warmup=1", BF16, *flags)
            open(os.path.join(self.opt.build, f"gpu-profile-{name}.txt"), "w").write(text)

    # ---- rows

    def kernel_times(self, job, caches):
        """us of each part of each kernel of a step, by name: the median of its launches."""
        code, text = self.call(
            ["ncu", "--clock-control=none", f"--cache-control={caches}", "--csv", "--print-units=base", "--metrics=gpu__time_duration.sum",
             "--kernel-name=regex:^k[0-9]+_[0-9]$", self.opt.ptc, "bench", *job, "--no-graphs", "--steps=1", "--warmup=1"])
        times = {}
        for line in csv.DictReader(line for line in text.splitlines() if line.startswith('"')):
            times.setdefault(line["Kernel Name"], []).append(float(line["Metric Value"].replace(",", "")) / 1e3)
        if code != 0 or not times:
            raise RuntimeError(f"ncu: exit code {code}\n{text[-2000:]}")
        return {name: statistics.median(us) for name, us in times.items()}

    def rows(self):
        if not shutil.which("ncu"):
            self.say("skip   rows: no ncu")
            return
        file, flags, *_ = MODELS["bert-base"]
        job = [f"examples/bench/{file}", "--device=cuda", BF16, *flags]
        ir = self.ptc("run", "--emit=ir", *job)
        kernels = re.findall(r"func kernel @(k\d+) \{(.*?)\n\}", ir, re.S)
        ops = {name: sorted(set(re.findall(r"= ([a-z_]+) %", body))) for name, body in kernels}
        profile = self.ptc("bench", *job, "--profile", "--steps=2", "--warmup=1")
        sizes = {row[6]: float(row[4]) for row in map(str.split, profile.splitlines()) if len(row) == 7 and row[6] in ops}
        times = {caches: self.kernel_times(job, caches) for caches in ("all", "none")}
        copy = self.peaks()["copy_gb_per_s"]
        rows = self.result["rows"] = {}
        for name, mb in sorted(sizes.items(), key=lambda size: -size[1]):
            if mb < 20 or {"attention", "attention_grad", "gather", "scatter_add"} & set(ops[name]):
                continue
            us = [sum(us for part, us in times[caches].items() if part.split("_")[0] == name) for caches in ("all", "none")]
            if all(us):
                cold, warm = (mb / x * 1e3 / copy for x in us)
                rows[name] = {"mb": mb, "us_cold": us[0], "us": us[1], "share_cold": cold, "share": warm, "ops": ops[name]}
                self.say(f"{name}: {mb:.1f} MB; caches empty {us[0]:.1f} us, {cold:.2f} of the copy rate; in the step {us[1]:.1f} us, {warm:.2f}: {' '.join(ops[name])}")

    # ---- frozen

    def frozen_run(self, name, n_frozen, use):
        """Median step of a run whose layers freeze after one epoch."""
        file, flags, batch, _, _ = MODELS[name]
        text = open(os.path.join(SOURCE, "examples", "bench", file)).read()
        text = text.replace("<train ", f'<freeze policy="explicit" layers="{n_frozen}"/>\n  <cache use="{use}"/>\n  <train ', 1)
        text = re.sub(r'train_limit="\d+" test_limit="\d+"', f'train_limit="{6 * batch}" test_limit="{batch}"', text)
        path = os.path.join(self.work, file)
        open(path, "w").write(text)
        out = os.path.join(self.work, "frozen")
        shutil.rmtree(out, ignore_errors=True)
        self.ptc(path, *flags, BF16, "--device=cuda", f"--out={out}", "--set=train.epochs=6", "--set=train.log_every=1", "--set=train.checkpoint_every=0")
        rows = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
        times = [batch / row["samples_per_s"] * 1e3 for row in rows if row["split"] == "train" and row["epoch"] >= 3]
        moves = [row for row in rows if row.get("event") == "transition"]
        return {"median_ms": statistics.median(times), "transition": moves[0] if moves else {}}

    # ---- elastic

    def elastic(self):
        data = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
        if not os.path.isdir(data):
            self.say(f"skip   elastic: no Fashion-MNIST in {data}")
            return
        text = open(os.path.join(SOURCE, "examples", "vit-elastic.xml")).read()
        path = os.path.join(self.work, "vit-elastic.xml")
        open(path, "w").write(text.replace("/usr/share/datasets/fashion-mnist", data))
        rows = self.result["elastic"] = {}
        for name, flags in (("static", ["--no-freeze"]), ("elastic", [])):
            out = self.ptc(path, "--device=cuda", *flags)
            end, accuracy = re.findall(r"done: (\d+) steps in ([\d.]+) s", out)[-1], re.findall(r"test accuracy ([\d.]+)", out)[-1]
            rows[name] = {"steps": int(end[0]), "seconds": float(end[1]), "accuracy": float(accuracy), "log": out[-3000:]}
            self.say(f"{name}: {end[0]} steps in {end[1]} s, test accuracy {accuracy}")
        self.say(f"elastic takes {rows['elastic']['seconds'] / rows['static']['seconds']:.2f} of the static run")


def main():
    opt = arguments()
    bench = Bench(opt)
    compiling = []
    if "right" in opt.parts and not opt.quick:
        for name in opt.models:  # a process for what is largest, one for the rest
            for forms in (["full"], ["half-frozen", "cached"]):
                forms = [form for form in forms if form in opt.forms and (name, form) != ("bert-base", "full")]
                compiling += forms and [bench.start_torch("--model", name, "--variant", "compile", "--form", ",".join(forms), "--steps", "1")]
    # `speed` before what else compiles its models: it tells how long that takes with nothing in the cache
    runs = {"right": bench.right, "elastic": bench.elastic, "speed": bench.models, "frozen": bench.models, "rows": bench.rows, "profiles": bench.profiles}
    done = []
    for part, run in runs.items():
        try:
            if part in opt.parts and run not in done:
                done.append(run)
                run()
            for process in compiling:
                process.communicate(timeout=300)
            compiling = []
        except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError) as error:
            print(error, file=sys.stderr)
            bench.wrong.append(f"{part}: {str(error)[:200]}")
        bench.save()
    shutil.rmtree(bench.work, ignore_errors=True)
    bench.say(f"{len(bench.wrong)} wrong" + "".join(f"\n  {what}" for what in bench.wrong))
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
