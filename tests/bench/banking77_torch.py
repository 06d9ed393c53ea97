#!/usr/bin/env python3
"""Fine-tunes a sentence encoder on Banking77 in PyTorch with transformers: the peer of examples/minilm-banking77.xml.

Mean of the tokens' last hidden states, dropout, a linear head; AdamW with warm-up and linear fall; batches of samples of
like length (as the example's group_by_length), padded to the longest of the batch. One JSON object per epoch on stdout:
{"variant", "seed", "epoch", "train_s", "steps", "epoch_steps", "tokens", "eval_s", "accuracy", "loss"}; tokens with padding.
banking77.py calls it with the recipe of the example.
"""

import argparse
import csv
import json
import os
import random
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="a folder of transformers: weights, config, tokenizer")
parser.add_argument("--data", required=True, help="the folder with train.csv and test.csv")
parser.add_argument("--variant", default="sdpa", help="sdpa, eager, or one of them with -compile")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--warmup", type=int, required=True)
parser.add_argument("--weight-decay", type=float, required=True)
parser.add_argument("--clip-norm", type=float, required=True)
parser.add_argument("--length", type=int, required=True, help="of the longest text, in tokens")
parser.add_argument("--group", type=int, required=True, help="batches that are sorted by length; 0: none")
parser.add_argument("--max-steps", type=int, default=0, help="of an epoch: to time without training to the end")
opt = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(opt.threads)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer


def read_split(name, tokenizer, classes):
    with open(os.path.join(opt.data, name), newline="") as file:
        rows = list(csv.DictReader(file))
    classes = classes or sorted({row["category"] for row in rows})
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=opt.length)["input_ids"]
    return ids, [classes.index(row["category"]) for row in rows], classes


def batches(ids, order):
    """Batches of the order; within every `group` of them samples are sorted by length, then the batches are shuffled."""
    n = opt.batch
    if not opt.group:
        return [order[i : i + n] for i in range(0, len(order), n)]
    out = []
    for at in range(0, len(order), n * opt.group):
        part = sorted(order[at : at + n * opt.group], key=lambda i: len(ids[i]))
        group = [part[i : i + n] for i in range(0, len(part), n)]
        random.shuffle(group)
        out += group
    return out


def tensors(ids, labels, batch, pad):
    longest = max(len(ids[i]) for i in batch)
    padded = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in batch])
    mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in batch])
    return padded, mask, torch.tensor([labels[i] for i in batch])


class Classifier(torch.nn.Module):
    def __init__(self, attention, n_classes):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(opt.model, attn_implementation=attention, add_pooling_layer=False)
        self.drop = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, n_classes)
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, ids, mask):
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return self.head(self.drop((hidden * weights).sum(1) / weights.sum(1)))


def groups_of(model):
    """Biases and norms do not decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": opt.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def main():
    random.seed(opt.seed)
    torch.manual_seed(opt.seed)
    torch.set_num_threads(opt.threads)
    tokenizer = AutoTokenizer.from_pretrained(opt.model)
    ids, labels, classes = read_split("train.csv", tokenizer, None)
    test_ids, test_labels, _ = read_split("test.csv", tokenizer, classes)
    attention, _, compiled = opt.variant.partition("-")
    model = Classifier(attention, len(classes))
    forward = torch.compile(model, dynamic=True) if compiled else model
    optimizer = torch.optim.AdamW(groups_of(model), lr=opt.lr, fused=True)
    n_steps = opt.epochs * -(-len(ids) // opt.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / opt.warmup if s < opt.warmup else (n_steps - s) / (n_steps - opt.warmup)
    )
    for epoch in range(opt.epochs):
        model.train()
        order = list(range(len(ids)))
        random.shuffle(order)
        parts = batches(ids, order)
        epoch_steps = len(parts)
        parts = parts[: opt.max_steps] if opt.max_steps else parts
        start, total, n_tokens = time.perf_counter(), 0.0, 0
        for batch in parts:
            x, mask, y = tensors(ids, labels, batch, tokenizer.pad_token_id)
            loss = F.cross_entropy(forward(x, mask), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), opt.clip_norm)
            optimizer.step()
            schedule.step()
            total += loss.item()
            n_tokens += x.numel()
        train_s = time.perf_counter() - start
        model.eval()
        start, n_right = time.perf_counter(), 0
        with torch.no_grad():
            for at in range(0, 0 if opt.max_steps else len(test_ids), opt.batch):
                batch = range(at, min(at + opt.batch, len(test_ids)))
                x, mask, y = tensors(test_ids, test_labels, batch, tokenizer.pad_token_id)
                n_right += (model(x, mask).argmax(-1) == y).sum().item()
        row = {
            "variant": opt.variant,
            "seed": opt.seed,
            "epoch": epoch + 1,
            "train_s": round(train_s, 3),
            "steps": len(parts),
            "epoch_steps": epoch_steps,
            "tokens": n_tokens,
            "eval_s": round(time.perf_counter() - start, 3),
            "accuracy": n_right / len(test_ids),
            "loss": total / len(parts),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
