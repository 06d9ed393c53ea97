#!/usr/bin/env python3
"""The peer of elastic.py in PyTorch: fine-tuning on two processes of one thread, DistributedDataParallel over gloo.

    elastic_torch.py vit --folder DIR --frozen 0 3 5 --epochs 3 --batch 64 --lr 5e-4 ...

DIR is elastic.py's work folder: the data and the weights to start from. --frozen says how many layers are frozen in each
epoch: the embedding and these layers need no gradient, run as in evaluation, and are no part of what is reduced or
updated; the model is wrapped anew when the number grows. Every process takes its half of each batch. One JSON object an
epoch on stdout, of the first process: {"epoch", "train_s", "eval_s", "accuracy", "loss"}.
"""

import argparse
import csv
import json
import math
import os
import random
import struct
import tempfile
import time
from datetime import timedelta

from torch_baseline import Block

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

N_RANKS = 2


# ---- the Vision Transformer of vit-halves.xml


class Vit(nn.Module):
    def __init__(self, start):
        super().__init__()
        n_layers = 1 + max(int(name.split(".")[1]) for name in start if name.startswith("layers."))
        n_inputs, d = start["patch.w"].shape
        self.p, hidden = math.isqrt(n_inputs), start["layers.0.mlp.w1"].shape[1]
        self.patch = nn.Linear(n_inputs, d)
        self.pos = nn.Parameter(start["pos"].clone())
        self.layers = nn.ModuleList(Block(d, 4, hidden, 0.0, True, False) for _ in range(n_layers))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, 5)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.load(start)

    def load(self, start):
        maps = [(self.patch, "patch.w", "patch.b")]
        norms = [(self.norm, "norm")]
        for i, layer in enumerate(self.layers):
            attn, at = layer.attn, f"layers.{i}.attn."
            maps += [(linear, f"{at}w{c}", f"{at}b{c}") for c, linear in zip("qkvo", (attn.q, attn.k, attn.v, attn.out))]
            maps += [(layer.mlp[j], f"layers.{i}.mlp.w{n}", f"layers.{i}.mlp.b{n}") for n, j in ((1, 0), (2, 2))]
            norms += [(layer.ln1, f"layers.{i}.ln1"), (layer.ln2, f"layers.{i}.ln2")]
        with torch.no_grad():
            for linear, w, b in maps:
                linear.weight.copy_(start[w].T)
                linear.bias.copy_(start[b])
            for norm, name in norms:
                norm.weight.copy_(start[f"{name}.g"])
                norm.bias.copy_(start[f"{name}.b"])

    def embedding(self):
        return [self.patch, self.pos]

    def forward(self, images):  # (B, 28, 28)
        b, h, w = images.shape
        p = self.p
        x = (images.float() / 255 - 0.2860) / 0.3530
        x = x.view(b, h // p, p, w // p, p).transpose(2, 3).reshape(b, -1, p * p)
        x = self.patch(x) + self.pos
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def read_idx(path):
    with open(path, "rb") as file:
        data = file.read()
    dims = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    return torch.frombuffer(bytearray(data[4 + 4 * data[3] :]), dtype=torch.uint8).view(*dims)


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = bytearray(file.read())
    tensors = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        tensors[name] = torch.frombuffer(body[begin:end], dtype=torch.float32).view(*tensor["shape"])
    return tensors


class VitJob:
    def __init__(self, opt):
        self.splits = {}
        for split in ("train", "test"):
            images, labels = (read_idx(os.path.join(opt.folder, f"second-{split}-{what}")) for what in ("images", "labels"))
            self.splits[split] = images, labels.long()
        self.model = Vit(read_safetensors(os.path.join(opt.folder, "start.safetensors")))

    def n_samples(self, split):
        return len(self.splits[split][1])

    def order(self, order):
        return order

    def batch(self, split, indices):
        images, labels = self.splits[split]
        indices = torch.tensor(indices)
        return (images[indices],), labels[indices]


# ---- Banking77


class Classifier(nn.Module):
    def __init__(self, folder, n_classes):
        from transformers import AutoModel

        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
        self.layers = self.encoder.encoder.layer
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(self.encoder.config.hidden_size, n_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def embedding(self):
        return [self.encoder.embeddings]

    def forward(self, ids, mask):
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return self.head(self.drop((hidden * weights).sum(1) / weights.sum(1)))


class Banking77Job:
    def __init__(self, opt):
        from transformers import AutoTokenizer

        self.length, self.n = opt.length, opt.batch
        folder = os.path.join(opt.folder, "minilm")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.pad, self.splits, classes = tokenizer.pad_token_id, {}, None
        for split, limit in (("train", opt.limit), ("test", opt.test_limit)):
            with open(os.path.join(opt.folder, "banking77", f"{split}.csv"), newline="") as file:
                rows = list(csv.DictReader(file))
            classes = classes or sorted({row["category"] for row in rows})
            rows = rows[: limit or None]
            ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=self.length or 96)["input_ids"]
            self.splits[split] = ids, [classes.index(row["category"]) for row in rows]
        self.model = Classifier(folder, len(classes))

    def n_samples(self, split):
        return len(self.splits[split][1])

    def order(self, order):
        """Of several lengths: sorted within 50 batches, as group_by_length of the example."""
        if self.length:
            return order
        ids, out = self.splits["train"][0], []
        for at in range(0, len(order), 50 * self.n):
            part = sorted(order[at : at + 50 * self.n], key=lambda i: len(ids[i]))
            parts = [part[i : i + self.n] for i in range(0, len(part), self.n)]
            random.shuffle(parts)
            out += [i for some in parts for i in some]
        return out

    def batch(self, split, indices):
        ids, labels = self.splits[split]
        length = self.length or max(len(ids[i]) for i in indices)
        padded = torch.tensor([ids[i] + [self.pad] * (length - len(ids[i])) for i in indices])
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (length - len(ids[i])) for i in indices])
        return (padded, mask), torch.tensor([labels[i] for i in indices])


JOBS = {"vit": VitJob, "banking77": Banking77Job}

# ---- training


def freeze(model, n_frozen):
    """Sets the mode of training with the embedding and n_frozen layers frozen; 0: nothing is."""
    model.train()
    parts = [*model.embedding(), *model.layers[:n_frozen]] if n_frozen else []
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()
        part.requires_grad_(False)


def make_optimizer(opt, model, old):
    """Over what is trained; what was trained before keeps its state."""
    trained = [p for p in model.parameters() if p.requires_grad]
    is_pos = getattr(model, "pos", None)
    groups = [
        {"params": [p for p in trained if p.ndim > 1 and p is not is_pos], "weight_decay": opt.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1 or p is is_pos], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=opt.lr, fused=True)
    for p in trained if old else []:
        optimizer.state[p] = old.state[p]
    return optimizer


def rate(opt, step, n_steps):
    if step < opt.warmup:
        return opt.lr * (step + 1) / opt.warmup
    part = (step - opt.warmup) / max(n_steps - opt.warmup, 1)
    return opt.lr * (1 - part if opt.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part)))


def train_epoch(opt, rank, job, ddp, optimizer, epoch):
    n = job.n_samples("train")
    order = list(range(n))
    random.Random(1000 * opt.seed + epoch).shuffle(order)
    random.seed(1000 * opt.seed + epoch)
    order, total = job.order(order), 0.0
    epoch_steps = -(-n // opt.batch)
    for i in range(epoch_steps):
        batch = order[i * opt.batch : (i + 1) * opt.batch]
        mine = batch[rank::N_RANKS] or batch[:1]
        inputs, labels = job.batch("train", mine)
        loss = F.cross_entropy(ddp(*inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], opt.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(opt, epoch * epoch_steps + i, opt.epochs * epoch_steps)
        optimizer.step()
        total += loss.item()
    return total / epoch_steps


def warm_up(opt, job):
    """What only the first step of a process costs is no time of training, as ptc's first compilation."""
    inputs, labels = job.batch("train", list(range(opt.batch // N_RANKS)))
    F.cross_entropy(job.model(*inputs), labels).backward()
    job.model.zero_grad(set_to_none=True)


def evaluate(rank, job, model):
    """Every process takes every second batch."""
    model.eval()
    n, right = job.n_samples("test"), torch.zeros(1)
    with torch.no_grad():
        for at in range(64 * rank, n, 64 * N_RANKS):
            inputs, labels = job.batch("test", list(range(at, min(at + 64, n))))
            right += (model(*inputs).argmax(-1) == labels).sum()
    dist.all_reduce(right)
    return right.item() / n


def run_rank(rank, opt, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=N_RANKS, timeout=timedelta(minutes=5)
    )
    torch.manual_seed(opt.seed)
    job = JOBS[opt.job](opt)
    torch.manual_seed(1000 * opt.seed + rank)
    model, ddp, optimizer, frozen = job.model, None, None, -1
    warm_up(opt, job)
    for epoch in range(opt.epochs):
        dist.barrier()
        start = time.perf_counter()
        freeze(model, opt.frozen[epoch])
        if opt.frozen[epoch] != frozen:
            frozen = opt.frozen[epoch]
            ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
            optimizer = make_optimizer(opt, model, optimizer)
        loss = train_epoch(opt, rank, job, ddp, optimizer, epoch)
        dist.barrier()
        train_s, start = time.perf_counter() - start, time.perf_counter()
        accuracy = evaluate(rank, job, model)
        row = {"epoch": epoch + 1, "frozen": frozen, "train_s": round(train_s, 3)}
        row |= {"eval_s": round(time.perf_counter() - start, 3), "accuracy": accuracy, "loss": loss}
        if rank == 0:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("job", choices=JOBS)
    args.add_argument("--folder", required=True)
    args.add_argument("--frozen", type=int, nargs="+", required=True)
    args.add_argument("--epochs", type=int, required=True)
    args.add_argument("--batch", type=int, required=True)
    args.add_argument("--lr", type=float, required=True)
    args.add_argument("--warmup", type=int, required=True)
    args.add_argument("--schedule", choices=["linear", "cosine"], required=True)
    args.add_argument("--weight-decay", type=float, required=True)
    args.add_argument("--clip-norm", type=float, required=True)
    args.add_argument("--length", type=int, default=0, help="of texts, in tokens; 0: of the longest of a batch")
    args.add_argument("--limit", type=int, default=0, help="training samples of banking77; 0: all")
    args.add_argument("--test-limit", type=int, default=0)
    args.add_argument("--seed", type=int, default=1)
    opt = args.parse_args()
    if len(opt.frozen) != opt.epochs:
        args.error("--frozen wants a number for each epoch")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's own name often leads nowhere
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(run_rank, (opt, os.path.join(folder, "rendezvous")), N_RANKS, start_method="spawn")


if __name__ == "__main__":
    main()
