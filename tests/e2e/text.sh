#!/bin/bash
# Plain text to a language model. Text from a table to a trained classifier: 10,003 sentences of Banking77 (quoted fields over several lines, 77 labels as
# words) through a WordPiece vocabulary. Skipped where the data is not: $PTC_DATA_DIR, or shared/data beside the source.
. "$(dirname "$0")/lib.sh"

data=${PTC_DATA_DIR:-$PTC_SOURCE_DIR/../shared/data}
cp -r "$fixtures/reviews" .
cp "$fixtures/banking-tiny.xml" .

# The test accuracy at the end is at least $2.
reaches() # OUT ACCURACY
{
    grep '"split":"eval"' "$1/metrics.jsonl" | tail -1 | sed -E 's/.*"accuracy":([^,}]*).*/\1/' |
        awk -v least="$2" '{ print "accuracy", $1; n++; ok = $1 >= least } END { exit n ? !ok : 2 }'
}

learns()
{
    rm -rf out
    $PTC banking-tiny.xml --out=out && reaches out 0.7
}

# Padded to the bucket of the batch, texts of like length together.
learns_with_buckets()
{
    rm -rf out
    $PTC banking-tiny.xml --out=out --set=data.buckets="t: 12 16 24" --set=data.group_by_length=20 --profile >out.log &&
        grep -q 'for 4 lengths' out.log && grep -q 't=12$' out.log && reaches out 0.7
}

# Without learning there is nothing to see: 77 classes.
does_not_learn()
{
    rm -rf out
    $PTC banking-tiny.xml --out=out --set=train.lr=0 --set=train.epochs=1 && fails_with 1 reaches out 0.1
}

# The first 200 sentences are of two classes; the classes are still those of the whole file.
limited()
{
    rm -rf out
    $PTC banking-tiny.xml --out=out --set=data.train_limit=200 --set=data.test_limit=100 --set=train.epochs=1 >out.log &&
        grep -q '200 training samples, 100 test samples' out.log
}

# Of a label that training has not seen, the line is told.
unknown_label()
{
    { head -3 banking77/test.csv; echo '"a sentence",weather'; } >other.csv
    fails_with 1 $PTC check banking-tiny.xml --set=data.ids.test=other.csv --set=data.text_mask.test=other.csv \
        --set=data.label.test=other.csv 2>err.log
    cat err.log
    grep -q "other.csv:4: the label 'weather' of 'label' is none of the training split's 77" err.log
}

# A causal language model of the zoo on plain text, packed in blocks without padding: a text that comes again and again is
# learned. The first loss is that of guessing among the vocabulary.
for i in {1..60}; do
    printf 'The first line of verse %s.\n\nAnd the second, which is a little longer than that.\n' $((i % 3))
done >verses.txt
models=$PTC_SOURCE_DIR/examples/zoo tokenizers=$fixtures/tokenizers
speaks() # MODEL TOKENIZER FLAG...
{
    local model=$1 tokenizer=$2 field fields=()
    shift 2
    for field in ids attention_mask; do
        fields+=(--set=data.$field.format=packed --set=data.$field.columns=text --set=data.$field.train="$PWD/verses.txt"
            --set=data.$field.tokenizer="$tokenizers/$tokenizer" --set=data.$field.part=${field/attention_/})
    done
    rm -rf out
    $PTC "$models/$model" --out=out --set=tokens=16 --set=d=32 --set=layers=1 --set=hidden=64 --set=train.lr=0.01 \
        --set=train.epochs=10 --set=data.train_limit=0 "${fields[@]}" "$@" || return
    grep '"split":"train"' out/metrics.jsonl | sed -E 's/.*"loss":([^,}]*).*/\1/' |
        awk 'NR == 1 { first = $1 } { last = $1 } END { print first, last; exit !(first > 6 && first < 8 && last < 1) }'
}
check "gpt2, packed" speaks gpt2.xml gpt2.json --set=vocabulary=1100 --set=positions=16 --set=heads=2 --set=dropout=0
check "llama, packed" speaks llama.xml llama3.json --set=vocabulary=902 --set=heads=2 --set=groups=1

if [ -r "$data/banking77/train.csv" ]; then
    ln -s "$(realpath "$data/banking77")" banking77
    check "banking77" learns
    check "banking77, buckets" learns_with_buckets
    check "a learning rate of 0 is seen" does_not_learn
    check "limits" limited
    check "unknown label" unknown_label
else
    skip "no banking77 in \$PTC_DATA_DIR or ../shared/data"
fi
finish
