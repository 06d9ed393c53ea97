#!/usr/bin/env python3
"""Step time of the two bench models in PyTorch on the CPU: forward, backward and AdamW.

Written the way a good PyTorch user writes it; what is a matter of taste (one or three QKV products, the
AdamW implementation, channels of speed such as torch.compile and bf16 autocast) is a variant, and `eager` is
measured in all its forms so that the bench can take the fastest. One JSON object per line on stdout:
{"model", "variant", "threads", "median_ms", "min_ms", "max_ms", "steps", "loss", "peak_mib", "torch_version"}.

    torch_baseline.py --model vit --variant all --threads 2 --steps 20
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

# Before torch is loaded: its OpenMP reads these once.
threads_arg = argparse.ArgumentParser(add_help=False)
threads_arg.add_argument("--threads", type=int, default=2)
os.environ["OMP_NUM_THREADS"] = str(threads_arg.parse_known_args()[0].threads)

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, d, n_heads, dropout, fused_qkv):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(d, 3 * d) if fused_qkv else None
        if not fused_qkv:
            self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.out = nn.Linear(d, d)

    def forward(self, x):  # (B, T, D)
        b, t, d = x.shape
        if self.qkv is not None:
            q, k, v = self.qkv(x).view(b, t, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (
                proj(x).view(b, t, self.n_heads, d // self.n_heads).transpose(1, 2)
                for proj in (self.q, self.k, self.v)
            )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """One encoder layer, pre-norm (ViT) or post-norm (BERT)."""

    def __init__(self, d, n_heads, hidden, dropout, pre_norm, fused_qkv):
        super().__init__()
        self.pre_norm = pre_norm
        self.ln1 = nn.LayerNorm(d, eps=1e-6 if pre_norm else 1e-12)
        self.ln2 = nn.LayerNorm(d, eps=1e-6 if pre_norm else 1e-12)
        self.attn = Attention(d, n_heads, dropout, fused_qkv)
        self.mlp = nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, d))
        self.drop = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x):
        if self.pre_norm:
            x = x + self.drop(self.attn(self.ln1(x)))
            return x + self.drop(self.mlp(self.ln2(x)))
        x = self.ln1(x + self.drop(self.attn(x)))
        return self.ln2(x + self.drop(self.mlp(x)))


class Vit(nn.Module):
    """28x28 grey images, patch 4: 49 patches and one class token; d=192, 6 layers, 3 heads, MLP 768."""

    batch = 64

    def __init__(self, fused_qkv):
        super().__init__()
        d, self.p = 192, 4
        n_patches = (28 // self.p) ** 2
        self.patch = nn.Linear(self.p * self.p, d)
        self.cls = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, n_patches + 1, d) * 0.02)
        self.blocks = nn.Sequential(*[Block(d, 3, 768, 0.0, True, fused_qkv) for _ in range(6)])
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.head = nn.Linear(d, 10)

    def forward(self, images):  # (B, 28, 28)
        b, h, w = images.shape
        p = self.p
        x = images.view(b, h // p, p, w // p, p).transpose(2, 3).reshape(b, -1, p * p)
        x = torch.cat([self.cls.expand(b, -1, -1), self.patch(x)], dim=1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])

    @classmethod
    def example(cls):
        return torch.randn(cls.batch, 28, 28), torch.randint(10, (cls.batch,))


class Bert(nn.Module):
    """BERT-base's shape: 12 layers, d=768, 12 heads, MLP 3072, sequence 128, dropout 0.1, a 2-class head."""

    batch = 8

    def __init__(self, fused_qkv):
        super().__init__()
        d, vocab, seq = 768, 30522, 128
        self.tokens = nn.Embedding(vocab, d)
        self.pos = nn.Embedding(seq, d)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.pos.weight, std=0.02)
        self.norm = nn.LayerNorm(d, eps=1e-12)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*[Block(d, 12, 3072, 0.1, False, fused_qkv) for _ in range(12)])
        self.head = nn.Linear(d, 2)

    def forward(self, ids):  # (B, T)
        x = self.tokens(ids) + self.pos.weight[: ids.shape[1]]
        return self.head(self.blocks(self.drop(self.norm(x)))[:, 0])

    @classmethod
    def example(cls):
        return torch.randint(30522, (cls.batch, 128)), torch.randint(2, (cls.batch,))


MODELS = {"vit": Vit, "bert": Bert}

# name: (fused QKV, AdamW keyword, torch.compile, bf16 autocast)
VARIANTS = {
    "eager": (True, "foreach", False, False),
    "eager-adamw-fused": (True, "fused", False, False),
    "eager-qkv3": (False, "foreach", False, False),
    "eager-qkv3-adamw-fused": (False, "fused", False, False),
    "compile": (True, "fused", True, False),
    "bf16": (True, "fused", False, True),
    "bf16-compile": (True, "fused", True, True),
}


def measure(model_name, variant, threads, n_steps, n_warmup):
    fused_qkv, adamw, compiled, bf16 = VARIANTS[variant]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = MODELS[model_name](fused_qkv).train()
    n_params = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, **{adamw: True})
    inputs, targets = MODELS[model_name].example()

    def loss_of(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return F.cross_entropy(model(x).float(), y)

    if compiled:
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    start = time.perf_counter()
    step()
    first_ms = (time.perf_counter() - start) * 1e3
    for _ in range(n_warmup - 1):
        step()
    times = []
    for _ in range(n_steps):
        start = time.perf_counter()
        loss = step()
        times.append((time.perf_counter() - start) * 1e3)
    return {
        "model": model_name,
        "variant": variant,
        "threads": threads,
        "median_ms": round(statistics.median(times), 3),
        "min_ms": round(min(times), 3),
        "max_ms": round(max(times), 3),
        "first_ms": round(first_ms, 1),
        "steps": n_steps,
        "loss": round(loss, 6),
        "n_params": n_params,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,  # of this process so far
        "torch_version": torch.__version__,
    }


def expand(names):
    """all, eager-all or a comma-separated list of variants."""
    if names == "all":
        return list(VARIANTS)
    if names == "eager-all":
        return [v for v in VARIANTS if v.startswith("eager")]
    unknown = [v for v in names.split(",") if v not in VARIANTS]
    if unknown:
        sys.exit(f"unknown variant {unknown[0]}; known: all, eager-all, {', '.join(VARIANTS)}")
    return names.split(",")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", choices=MODELS, required=True)
    args.add_argument("--variant", default="eager", help="all, eager-all or names: " + " ".join(VARIANTS))
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--warmup", type=int, default=3)
    args.add_argument("--json", action="store_true", help="only JSON lines; otherwise a table row as well, on stderr")
    opt = args.parse_args()

    for variant in expand(opt.variant):
        try:
            row = measure(opt.model, variant, opt.threads, opt.steps, opt.warmup)
        except Exception as error:  # an old PyTorch lacks some variants; say so and go on with the others
            row = {"model": opt.model, "variant": variant, "error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(row), flush=True)
        if not opt.json:
            cell = "failed" if "error" in row else f"{row['median_ms']:9.1f} ms (min {row['min_ms']:.1f})"
            print(f"{opt.model:5} {variant:24} {cell}", file=sys.stderr)


if __name__ == "__main__":
    main()
