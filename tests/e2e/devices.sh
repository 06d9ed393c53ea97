#!/bin/bash
# The cpu device computes what the f64 interpreter computes, over 5 steps: also with dropout, whose masks are the same.
. "$(dirname "$0")/lib.sh"

agree() # MODEL BOUND
{
    rm -rf cpu interp
    $PTC "$1" --out=cpu --max-steps=5 && $PTC "$1" --out=interp --max-steps=5 --device=interp &&
        $COMPARE curves cpu/metrics.jsonl interp/metrics.jsonl "$2"
}
null()
{
    $PTC "$fixtures/vit-tiny.xml" --device=null --max-steps=2
}
apart()
{
    $PTC "$e2e/dropout.xml" --out=seed2 --max-steps=5 --seed=2 && fails_with 1 $COMPARE curves cpu/metrics.jsonl seed2/metrics.jsonl 1e-5
}

for architecture in vit postnorm rope alibi; do
    check "$architecture" agree "$fixtures/$architecture-tiny.xml" 1e-5
done
check "dropout" agree "$e2e/dropout.xml" 1e-5
check "another seed is seen" apart
check "null device" null
finish
