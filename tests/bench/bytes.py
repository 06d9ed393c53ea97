#!/usr/bin/env python3
"""What the kernels and products of one training step read and write, each operand and result once, counted from the IR.

    bytes.py BUILD_DIR MODEL [FLAG OF ptc...]

Nothing is measured: it is the least that memory must move when nothing stays in a cache. Attention, gather and scatter_add are
kernels. docs/performance.md: --precision=bf16 --synthetic=64 --set=train.batch=64 of examples/bench/bert-base.xml.
"""

import math
import os
import re
import subprocess
import sys

DTYPE_BYTES = {"f32": 4, "i32": 4, "u32": 4, "bf16": 2, "u8": 1, "bool": 1}
OP = re.compile(r"  (?:((?:%\d+(?:, )?)+) = )?(\w+)((?: %\d+,?)*)")
TYPE = re.compile(r"(\w+)\[([\dx]*)\]")
PHASES = {"bwd": "backward", "opt": "update"}


def size_of(dtype, dims):
    return DTYPE_BYTES[dtype] * math.prod(int(dim) for dim in dims.split("x") if dim)


def count(lines):
    """By phase: (bytes, launches) of the body of a step function."""
    sizes, totals = {}, {"forward": [0, 0], "backward": [0, 0], "update": [0, 0]}
    for line in lines:
        names, code, operands = OP.match(line).groups()
        results = names.split(", ") if names else []
        operands = set(re.findall(r"%\d+", operands))
        sizes |= zip(results, (size_of(*found) for found in TYPE.findall(line.partition(" : ")[2])))
        if code in ("call", "matmul"):
            total = totals[PHASES.get(line.rsplit(" ", 1)[1], "forward")]
            total[0] += sum(sizes[name] for name in [*operands, *results])
            total[1] += 1
    return totals


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    ptc = os.path.join(sys.argv[1], "bin", "ptc")
    text = subprocess.run([ptc, "--emit=ir", *sys.argv[2:]], stdout=subprocess.PIPE, text=True, check=True).stdout
    body = re.search(r"^func step @train .*?\n(.*?)^}", text, re.MULTILINE | re.DOTALL).group(1)
    for phase, (n_bytes, launches) in count(body.splitlines()).items():
        print(f"{phase:9} {n_bytes / 1e9:8.2f} GB in {launches:4} kernels and products")


if __name__ == "__main__":
    main()
