#!/bin/bash
# The four jobs of examples/paper: at full size without any data; small, on random values; and small, to the end, on files of
# the kinds that the real jobs read.
. "$(dirname "$0")/lib.sh"
: "${MAKE_IMAGES:?}"
jobs="vit-b16-imagenet vit-b16-cifar100 bert-large-squad bert-base-sst2"
cp "$PTC_SOURCE_DIR"/examples/paper/*.xml . && mkdir bare && cp ./*.xml bare || exit 1

# Everything about the model, all passes, and values that its fields may have.
full_size() # JOB
{
    $PTC check --synthetic=4 "bare/$1.xml" | tee log && grep -q '4 training samples' log
}

planned() # JOB
{
    $PTC plan -n 8 --json "bare/$1.xml" >plan.json && grep -q '"ranks": 8' plan.json && grep -q "\"model\": \"$1\"" plan.json &&
        grep -q '"forward_flop"' plan.json && $PTC plan -n 8 "bare/$1.xml" >plan.txt && grep -q slower plan.txt
}

sizes() # JOB: flags that make it small
{
    printf -- '--set=%s\n' d=16 layers=2 heads=2 hidden=32 train.batch=4
    case $1 in
    vit*) printf -- '--set=%s\n' image=32 classes=7 ;;
    *) printf -- '--set=%s\n' vocabulary=50 positions=16 tokens=16 ;;
    esac
}

two_steps() # JOB
{
    local flags
    mapfile -t flags < <(sizes "$1")
    rm -rf out
    $PTC "bare/$1.xml" --synthetic=8 --out=out "${flags[@]}" --max-steps=2 --verify-each --roundtrip-each &&
        [ "$(grep -c '"split":"train"' out/metrics.jsonl)" = 2 ]
}

lacks() # FILE JOB
{
    fails_with 1 $PTC check "bare/$2.xml" 2>&1 | tee log
    grep -Eq "^bare/$2.xml:[0-9]+:[0-9]+: error: .*'bare/$1'" log
}

vocabulary()
{
    printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' {a..z}
}

# What is lacking is told with its place: the folder of the weights, then the data.
names_what_is_missing()
{
    lacks vit-b16-in21k vit-b16-imagenet && lacks vit-b16-in21k vit-b16-cifar100 && lacks bert-large-uncased bert-large-squad &&
        lacks bert-base-uncased bert-base-sst2 &&
        mkdir bare/vit-b16-in21k bare/bert-large-uncased bare/bert-base-uncased &&
        vocabulary | tee bare/bert-large-uncased/vocab.txt >bare/bert-base-uncased/vocab.txt &&
        lacks imagenet/train vit-b16-imagenet && lacks cifar-100-binary/train.bin vit-b16-cifar100 &&
        lacks squad/train-v1.1.json bert-large-squad && lacks SST-2/train.tsv bert-base-sst2
}

# Weights with a config.json, whose sizes the job takes, a vocabulary, and a few samples of each kind.
put_data()
{
    local split
    cp -r "$fixtures/zoo/vit-b16" vit-b16-in21k
    cp -r "$fixtures/zoo/bert-span" bert-large-uncased
    cp -r "$fixtures/zoo/bert" bert-base-uncased
    vocabulary | tee bert-large-uncased/vocab.txt >bert-base-uncased/vocab.txt
    mkdir imagenet cifar-100-binary squad SST-2
    $MAKE_IMAGES imagenet/train 4 1 && $MAKE_IMAGES imagenet/val 2 2 || return
    for split in train test; do
        for label in 001 143 077; do
            printf "\\002\\$label" && head -c 3072 /dev/zero | tr '\0' "\\$label"
        done >cifar-100-binary/$split.bin
    done
    for split in train dev; do
        printf 'sentence\tlabel\na b c d\t1\nd e f\t0\ng h a\t1\n' >SST-2/$split.tsv
        echo '{"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "a b c d e f", "qas": [
            {"id": "1", "question": "x y", "answers": [{"text": "c d", "answer_start": 4}]},
            {"id": "2", "question": "z", "answers": [{"text": "f", "answer_start": 10}]}]}]}]}' >squad/$split-v1.1.json
    done
}

# The whole job, with layers that freeze, to the numbers that it reports.
whole_job() # JOB METRIC FLAG...
{
    local job=$1 metric=$2
    shift 2
    rm -rf out
    $PTC check "$job.xml" "$@" | grep ok && $PTC "$job.xml" --out=out --set=train.batch=4 "$@" &&
        grep '"split":"eval"' out/metrics.jsonl | tail -1 | grep "\"$metric\":" &&
        grep -q '"event":"freeze"' out/metrics.jsonl
}

for job in $jobs; do
    check "$job at full size" full_size $job
    check "$job has a plan" planned $job
    check "$job runs on random values" two_steps $job
done
check "what is missing is named" names_what_is_missing
check "files of all kinds" put_data
check "ImageNet, the whole job" whole_job vit-b16-imagenet accuracy --set=classes=2
check "CIFAR-100, the whole job" whole_job vit-b16-cifar100 accuracy
check "SQuAD, the whole job" whole_job bert-large-squad answer.f1 --set=tokens=12
check "SST-2, the whole job" whole_job bert-base-sst2 accuracy --set=tokens=12
finish
