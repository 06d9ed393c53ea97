#!/usr/bin/env python3
"""Step time of the two bench models in PyTorch on two processes of one thread each, over gloo.

    torch_ranks.py --model vit --forms ddp-all --steps 20
    torch_ranks.py --model bert --forms pipe-qkv3-adamw-fused --schedule 1f1b --micro-batches 4

Models and optimizer are those of torch_baseline.py. ddp: DistributedDataParallel, every process half of the batch, and
data of its own. pipe: torch.distributed.pipelining, the layers cut in two halves or one layer from the middle. What is
a matter of taste or of balance is in the form, so that the bench can take the fastest: one or three QKV products, the
AdamW implementation, in ddp gradients as views of buckets (-view), in pipe a longer first or last stage.

One JSON object per form on stdout: {"form", "schedule", "micro_batches", "median_ms", "min_ms", "max_ms", "steps",
"loss", "peak_mib", "torch_version"}; times are those of the first process, peak_mib is of the process that needs most.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from datetime import timedelta

from torch_baseline import MODELS

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

N_RANKS = 2
SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}

# (fused QKV, AdamW keyword)
WAYS = {
    "qkv1": (True, "foreach"),
    "qkv1-adamw-fused": (True, "fused"),
    "qkv3": (False, "foreach"),
    "qkv3-adamw-fused": (False, "fused"),
}
FORMS = {
    "ddp-all": [f"ddp-{way}{view}" for way in WAYS for view in ("", "-view")],
    "pipe-all": [f"pipe-{way}{longer}" for way in WAYS for longer in ("", "-first", "-last")],
}


class FirstVit(nn.Module):
    def __init__(self, model, n_blocks):
        super().__init__()
        self.p, self.patch, self.cls, self.pos = model.p, model.patch, model.cls, model.pos
        self.blocks = model.blocks[:n_blocks]

    def forward(self, images):  # (B, 28, 28)
        b, h, w = images.shape
        p = self.p
        x = images.view(b, h // p, p, w // p, p).transpose(2, 3).reshape(b, -1, p * p)
        x = torch.cat([self.cls.expand(b, -1, -1), self.patch(x)], dim=1) + self.pos
        return self.blocks(x)


class LastVit(nn.Module):
    def __init__(self, model, n_blocks):
        super().__init__()
        self.blocks, self.norm, self.head = model.blocks[n_blocks:], model.norm, model.head

    def forward(self, x):
        return self.head(self.norm(self.blocks(x))[:, 0])


class FirstBert(nn.Module):
    def __init__(self, model, n_blocks):
        super().__init__()
        self.tokens, self.pos, self.norm, self.drop = model.tokens, model.pos, model.norm, model.drop
        self.blocks = model.blocks[:n_blocks]

    def forward(self, ids):  # (B, T)
        x = self.tokens(ids) + self.pos.weight[: ids.shape[1]]
        return self.blocks(self.drop(self.norm(x)))


class LastBert(nn.Module):
    def __init__(self, model, n_blocks):
        super().__init__()
        self.blocks, self.head = model.blocks[n_blocks:], model.head

    def forward(self, x):
        return self.head(self.blocks(x)[:, 0])


STAGES = {"vit": (FirstVit, LastVit), "bert": (FirstBert, LastBert)}


def make_optimizer(module, adamw):
    return torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.05, **{adamw: True})


def way_of(form):
    """(fused QKV, AdamW keyword), and the last part: "", view, first or last."""
    name = form.split("-", 1)[1]
    for suffix in ("view", "first", "last"):
        if name.endswith("-" + suffix):
            return WAYS[name.removesuffix("-" + suffix)], suffix
    return WAYS[name], ""


def ddp_step(model_name, form, rank):
    """A step of DistributedDataParallel on this rank's half of the batch; returns the loss of this half."""
    (fused_qkv, adamw), suffix = way_of(form)
    view = suffix == "view"
    torch.manual_seed(0)
    model = MODELS[model_name](fused_qkv).train()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=view, static_graph=view)
    optimizer = make_optimizer(model, adamw)
    torch.manual_seed(1)
    inputs, targets = MODELS[model_name].example()
    half = len(inputs) // N_RANKS
    inputs, targets = inputs[rank * half :][:half].clone(), targets[rank * half :][:half].clone()
    torch.manual_seed(2 + rank)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(ddp(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def pipe_step(model_name, form, rank, schedule_name, n_micro):
    """A step of this rank's stage; returns the mean loss on the last one, 0 on the first."""
    (fused_qkv, adamw), longer = way_of(form)
    torch.manual_seed(0)
    model = MODELS[model_name](fused_qkv).train()
    n_first = len(model.blocks) // N_RANKS + {"first": 1, "": 0, "last": -1}[longer]
    module = STAGES[model_name][rank](model, n_first)
    torch.manual_seed(1)
    inputs, targets = MODELS[model_name].example()
    del model
    stage = PipelineStage(module, rank, N_RANKS, torch.device("cpu"))
    schedule = SCHEDULES[schedule_name](stage, n_micro, loss_fn=F.cross_entropy)
    optimizer = make_optimizer(module, adamw)
    torch.manual_seed(2 + rank)

    def step():
        optimizer.zero_grad(set_to_none=True)
        losses = []
        if rank == 0:
            schedule.step(inputs)
        else:
            schedule.step(target=targets, losses=losses)
        optimizer.step()
        return torch.stack(losses).mean().item() if losses else 0.0

    return step


def measure(rank, opt, form):
    if form.startswith("ddp-"):
        step = ddp_step(opt.model, form, rank)
    else:
        step = pipe_step(opt.model, form, rank, opt.schedule, opt.micro_batches)
    for _ in range(opt.warmup):
        step()
    dist.barrier()
    times = []
    for _ in range(opt.steps):
        start = time.perf_counter()
        loss = step()
        times.append((time.perf_counter() - start) * 1e3)
    dist.barrier()
    numbers = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, loss], dtype=torch.float64)
    largest, summed = numbers.clone(), numbers.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    dist.all_reduce(summed)
    is_ddp = form.startswith("ddp-")
    return {
        "model": opt.model,
        "form": form,
        "schedule": None if is_ddp else opt.schedule,
        "micro_batches": None if is_ddp else opt.micro_batches,
        "median_ms": round(statistics.median(times), 3),
        "min_ms": round(min(times), 3),
        "max_ms": round(max(times), 3),
        "steps": opt.steps,
        "loss": round(summed[1].item() / (N_RANKS if is_ddp else 1), 6),
        "peak_mib": int(largest[0].item()),  # of this process so far
        "torch_version": torch.__version__,
    }


def run_rank(rank, opt, forms, rendezvous):
    torch.set_num_threads(1)  # whatever torch_baseline.py has put into the environment
    if opt.pin:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=N_RANKS, timeout=timedelta(minutes=5)
    )
    for form in forms:
        try:
            row = measure(rank, opt, form)
        except Exception as error:  # an old PyTorch lacks some forms; say so and go on with the others
            row = {"model": opt.model, "form": form, "error": f"{type(error).__name__}: {error}"[:300]}
        if rank == 0 or "error" in row:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


def expand(names):
    """A list's name (ddp-all, pipe-all), or forms separated by commas."""
    if names in FORMS:
        return FORMS[names]
    known = [form for forms in FORMS.values() for form in forms]
    for name in names.split(","):
        if name not in known:
            sys.exit(f"unknown form {name}; known: {', '.join([*FORMS, *known])}")
    return names.split(",")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", choices=MODELS, required=True)
    args.add_argument("--forms", required=True, help="ddp-all, pipe-all, or names separated by commas")
    args.add_argument("--schedule", choices=SCHEDULES, default="1f1b", help="of pipe")
    args.add_argument("--micro-batches", type=int, default=4, help="of pipe")
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--warmup", type=int, default=3)
    args.add_argument("--pin", action="store_true", help="each process, gloo's threads with it, to a core of its own")
    opt = args.parse_args()

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's own name often leads nowhere
    with tempfile.TemporaryDirectory() as folder:
        arguments = (opt, expand(opt.forms), os.path.join(folder, "rendezvous"))
        mp.start_processes(run_rank, arguments, N_RANKS, start_method="spawn")


if __name__ == "__main__":
    main()
