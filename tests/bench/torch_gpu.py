#!/usr/bin/env python3
"""Step time of the GPU bench's models in PyTorch: forward, backward and AdamW in bf16 autocast (or f32).

The peer of `ptc bench --device=cuda`: fused attention (scaled_dot_product_attention), fused AdamW, batches copied from pinned
memory every step, one projection for q, k and v. Variants: eager, compile (torch.compile's default), and compile-graphs
(mode="reduce-overhead": CUDA graphs). One JSON object per line on stdout:
{"model", "variant", "precision", "median_ms", "min_ms", "max_ms", "first_ms", "steps", "loss", "peak_mib", "torch_version"}.

    torch_gpu.py --model bert-base,vit-b16 --variant eager,compile --steps 20
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch_baseline import Block


class Encoder(nn.Module):
    first = 0  # the layer that the inputs go to; behind 0: they are the outputs of the one before, from a cache

    def forward(self, *inputs):
        x = inputs[0] if self.first else self.embed(*inputs)
        for block in self.blocks[self.first :]:
            x = block(x)
        return self.classify(x)


class Bert(Encoder):
    """BERT's encoder with token types, a pooler and a head of two classes, as examples/bench/bert-base.xml has it."""

    def __init__(self, d, n_layers, n_heads):
        super().__init__()
        self.tokens, self.types, self.pos = nn.Embedding(30522, d), nn.Embedding(2, d), nn.Embedding(128, d)
        for table in (self.tokens, self.types, self.pos):
            nn.init.normal_(table.weight, std=0.02)
        self.norm, self.drop = nn.LayerNorm(d, eps=1e-12), nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(d, n_heads, 4 * d, 0.1, False, True) for _ in range(n_layers))
        self.pooler, self.head = nn.Linear(d, d), nn.Linear(d, 2)

    def embed(self, ids, types):  # (B, T)
        return self.drop(self.norm(self.tokens(ids) + self.types(types) + self.pos.weight[: ids.shape[1]]))

    def classify(self, x):
        return self.head(self.drop(torch.tanh(self.pooler(x[:, 0]))))


class Vit(Encoder):
    """ViT-B/16 on bytes, as examples/bench/vit-b16.xml has it."""

    def __init__(self, d=768, n_layers=12, n_heads=12):
        super().__init__()
        self.patch = nn.Linear(16 * 16 * 3, d)
        self.cls = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, 197, d) * 0.02)
        self.blocks = nn.ModuleList(Block(d, n_heads, 4 * d, 0.0, True, True) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, 1000)

    def embed(self, images):  # (B, 224, 224, 3), u8
        b = images.shape[0]
        x = (images.float() / 255 - 0.5) / 0.5
        x = x.view(b, 14, 16, 14, 16, 3).transpose(2, 3).reshape(b, 196, 768)
        return torch.cat([self.cls.expand(b, -1, -1), self.patch(x)], dim=1) + self.pos

    def classify(self, x):
        return self.head(self.norm(x)[:, 0])


def bert_batch(n):
    return [torch.randint(30522, (n, 128)), torch.randint(2, (n, 128))], torch.randint(2, (n,))


def vit_batch(n):
    return [torch.randint(256, (n, 224, 224, 3), dtype=torch.uint8)], torch.randint(1000, (n,))


# name: (model, batch, its size)
MODELS = {
    "bert-base": (lambda: Bert(768, 12, 12), bert_batch, 64),
    "bert-large": (lambda: Bert(1024, 24, 16), bert_batch, 32),
    "vit-b16": (Vit, vit_batch, 256),
}
FORMS = ("full", "half-frozen", "cached")
COMPILE = {"eager": None, "compile": "default", "compile-graphs": "reduce-overhead"}


def freeze(model, n_frozen):
    """The embeddings and the first layers; PyTorch leaves their backward pass out by itself."""
    if not n_frozen:
        return
    kept = {id(p) for block in list(model.blocks)[n_frozen:] for p in block.parameters()}
    kept |= {id(p) for name in ("norm", "head", "pooler") if hasattr(model, name) for p in getattr(model, name).parameters()}
    if isinstance(model, Bert):
        kept -= {id(p) for p in model.norm.parameters()}
    for p in model.parameters():
        p.requires_grad_(id(p) in kept)


class Job:
    """One model in one form, compiled and warm."""

    def __init__(self, name, variant, form, opt):
        make, batch_of, n = MODELS[name]
        self.name, self.variant, self.form, self.opt = name, variant, form, opt
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = opt.precision == "tf32"
        model = self.model = make().cuda().train()
        self.frozen = 0 if form == "full" else len(model.blocks) // 2
        freeze(model, self.frozen)
        params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.05, fused=True)
        inputs, targets = batch_of(opt.batch or n)
        if form == "cached":
            with torch.no_grad(), self.autocast():
                x = model.embed(*(x.cuda() for x in inputs))
                for block in model.blocks[: self.frozen]:
                    x = block(x)
            inputs, model.first = [x.float().cpu()], self.frozen
        self.inputs, self.targets = [x.pin_memory() for x in inputs], targets.pin_memory()
        self.loss_of = torch.compile(self.loss, mode=COMPILE[variant]) if COMPILE[variant] else self.loss
        start = time.perf_counter()
        self.step()
        self.first_ms = (time.perf_counter() - start) * 1e3
        for _ in range(opt.warmup - 1):
            self.step()

    def autocast(self):
        return torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.opt.precision == "bf16")

    def loss(self, inputs, y):
        with self.autocast():
            return F.cross_entropy(self.model(*inputs).float(), y)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of([x.cuda(non_blocking=True) for x in self.inputs], self.targets.cuda(non_blocking=True))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def measure(self):
        torch.cuda.reset_peak_memory_stats()
        self.step()
        times = []
        for _ in range(self.opt.steps):
            start = time.perf_counter()
            loss = self.step()
            times.append((time.perf_counter() - start) * 1e3)
        return {
            "model": self.name,
            "variant": self.variant,
            "precision": self.opt.precision,
            "form": self.form,
            "median_ms": round(statistics.median(times), 3),
            "min_ms": round(min(times), 3),
            "max_ms": round(max(times), 3),
            "first_ms": round(self.first_ms, 1),
            "steps": self.opt.steps,
            "loss": round(loss, 6),
            "n_params": sum(p.numel() for p in self.model.parameters()),
            "peak_mib": torch.cuda.max_memory_allocated() // 2**20,
            "torch_version": torch.__version__,
        }


def serve(name, opt):
    """Answers each line with one: "open VARIANT FORM" once it is compiled and warm, "measure VARIANT", and "close" all."""
    jobs = {}
    for line in sys.stdin:
        word, *of = line.split()
        if word == "open":
            jobs[of[0]] = Job(name, *of, opt)
        elif word == "close":
            jobs.clear()
            gc.collect()
            torch.compiler.reset()
            torch.cuda.empty_cache()
        print(json.dumps(jobs[of[0]].measure() if word == "measure" else {}), flush=True)


def peaks():
    """A square bf16 product on random numbers, and a copy on the device, bytes read and written; medians of ten."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    from_, to = (torch.empty(1 << 30, device="cuda", dtype=torch.uint8) for _ in range(2))
    row = {"device": torch.cuda.get_device_name(), "torch_version": torch.__version__}
    for name, work, amount in (
        ("matmul_tflops", lambda: torch.matmul(a, b), 2 * 8192**3 / 1e12),
        ("copy_gb_per_s", lambda: to.copy_(from_), 2 * (1 << 30) / 1e9),
    ):
        seconds = []
        for _ in range(13):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        row[name] = round(amount / statistics.median(seconds[3:]), 1)
    return row


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", default=",".join(MODELS))
    args.add_argument("--variant", default="eager,compile")
    args.add_argument("--precision", choices=("bf16", "f32", "tf32"), default="bf16")
    args.add_argument("--form", default="full", help="half-frozen: the lower half of the layers; cached: and their outputs come from pinned host memory")
    args.add_argument("--serve", action="store_true", help="one model; does what is asked for on the standard input")
    args.add_argument("--peaks", action="store_true", help="the GPU's matrix and copy rates instead")
    args.add_argument("--batch", type=int, default=0)
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--warmup", type=int, default=5)
    opt = args.parse_args()
    for names, known in ((opt.model, MODELS), (opt.variant, COMPILE), (opt.form, FORMS)):
        for name in names.split(","):
            if name not in known:
                sys.exit(f"unknown: {name}; known: {', '.join(known)}")
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here")
    if opt.peaks:
        print(json.dumps(peaks()))
        return
    if opt.serve:
        serve(opt.model, opt)
        return
    for name, variant, form in itertools.product(opt.model.split(","), opt.variant.split(","), opt.form.split(",")):
        print(json.dumps(Job(name, variant, form, opt).measure()), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
