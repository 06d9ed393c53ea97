#!/bin/bash
# Augmented pictures on several ranks: each decodes its own samples, and all see what one rank sees.
. "$(dirname "$0")/lib.sh"
plain_kernels
needs_ranks
: "${MAKE_IMAGES:?}"
$MAKE_IMAGES train 40 1 && $MAKE_IMAGES test 20 2 || exit 1
cp "$e2e/images.xml" .

same_as_one() # FLAG...
{
    train many "$@" --set=train.epochs=2 images.xml && same_run one many
}

broken_rank()
{
    head -c 300 train/stripes-down/0007.png >cut && mv cut train/stripes-down/0007.png
    fails_with 1 train broken -n 2 --replicas=2 images.xml >err.log 2>&1
    cat err.log
    grep -q 'train/stripes-down/0007.png (sample 47): the PNG is truncated' err.log
}

check "one rank" train one --deterministic --micro-batches=2 --set=train.epochs=2 images.xml
check "two replicas" same_as_one -n 2 --deterministic --replicas=2 --micro-batches=2
check "two stages" same_as_one -n 2 --deterministic --stages=2 --micro-batches=2
check "a truncated file" broken_rank
finish
