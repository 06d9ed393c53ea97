#!/bin/bash
# Pictures from folders and from a table to a trained classifier, augmented: what a run sees is a function of seed, epoch
# and sample, whoever decodes; and a picture that cannot be read ends it with the file's name.
. "$(dirname "$0")/lib.sh"
: "${MAKE_IMAGES:?}"

$MAKE_IMAGES train 200 1 && $MAKE_IMAGES test 50 2 || exit 1
cp "$e2e/images.xml" .
n_steps=78 # 6 epochs of 13

accuracy_of() # OUT
{
    grep '"split":"eval"' "$1/metrics.jsonl" | tail -1 | sed -E 's/.*"accuracy":([^,}]*).*/\1/'
}

learns()
{
    $PTC images.xml --out=whole --loader-threads=1 | tee run.log && grep -q 'waiting for data' run.log &&
        accuracy_of whole | awk '{ print; ok = $1 >= 0.95 } END { exit !ok }'
}

same_with() # OUT FLAG...
{
    local out=$1
    shift
    $PTC images.xml --out="$out" "$@" && same_rows whole "$out" && same_weights whole "$out"
}

other_with() # OUT FLAG...
{
    local out=$1
    shift
    $PTC images.xml --out="$out" "$@" && fails_with 1 same_rows whole "$out" train
}

# Resumed behind a batch, in the middle of an epoch and at its end, while the next batch was on its way.
resumed() # STEP...
{
    local stop
    rm -rf parts
    $PTC images.xml --out=parts --max-steps="$1" || return
    shift
    for stop in "$@" $n_steps; do
        $PTC images.xml --out=parts --resume --max-steps="$stop" || return
    done
    same_rows whole parts train && same_weights whole parts
}

as_table()
{
    sed -E 's|format="images" part="image" train="train" test="test"|format="images" part="image" columns="path" train="train/table.csv" test="test/table.csv"|
            s|format="images" part="label" train="train" test="test"|format="label" columns="label" train="train/table.csv" test="test/table.csv"|' \
        images.xml >table.xml
    grep -q 'columns="path"' table.xml && $PTC table.xml --out=table && same_rows whole table && same_weights whole table
}

# Cut in the middle, its header is right: training finds it, at its sample and no other.
truncated()
{
    cp -r train broken && head -c 300 train/stripes-down/0007.png >broken/stripes-down/0007.png || return
    sed 's/train="train"/train="broken"/' images.xml >broken.xml
    $PTC check broken.xml && fails_with 1 $PTC broken.xml --loader-threads="$1" 2>err.log
    cat err.log
    grep -qE '^broken.xml:7:62: error: broken/stripes-down/0007.png \(sample 207\): the PNG is truncated$' err.log
    local found=$?
    rm -rf broken
    return $found
}

# The evaluation reads ahead, too.
truncated_test()
{
    cp -r test broken && head -c 200 test/stripes-across/0002.jpg >broken/stripes-across/0002.jpg || return
    sed 's/test="test"/test="broken"/' images.xml >broken.xml
    fails_with 1 $PTC broken.xml 2>err.log
    cat err.log
    rm -rf broken
    grep -qE '^broken.xml:7:75: error: broken/stripes-across/0002.jpg \(sample 2\): the JPEG is truncated$' err.log
}

# `check` looks at every header.
checked()
{
    cp -r test broken && chmod -R u+w broken && echo 'no picture' >broken/stripes-down/0020.jpg || return
    sed 's/test="test"/test="broken"/' images.xml >broken.xml
    fails_with 1 $PTC check broken.xml 2>err.log
    cat err.log
    rm -rf broken
    grep -qE '^broken.xml:7:75: error: broken/stripes-down/0020.jpg \(sample 70\): this is neither a JPEG nor a PNG$' err.log
}

# The folders' names go with the model.
exported()
{
    sed 's|<data>|<hf class="ViTForImageClassification" model="vit" classes="2" labels="labels"/><data>|' images.xml >hf.xml
    $PTC export hf.xml --out=whole -o folder && grep -q '"1": "stripes-down"' folder/config.json
}

# The same job without its pictures, as a bench has it.
synthetic()
{
    $PTC bench images.xml --set=data.images.format=synthetic --set=data.labels.format=synthetic --set=data.labels.high=1 \
        --set=data.train_limit=1000 --set=train.epochs=2
}

check "stripes are told apart" learns
check "again, with four threads" same_with again --loader-threads=4
check "another seed" other_with seed --seed=2
check "without augmentation" other_with plain --set=data.images.crop=center
check "not mirrored" other_with unmirrored --set=data.images.flip=false
check "resumed" resumed 7 13 20
check "from a table" as_table
check "names of the classes" exported
check "synthetic in place of pictures" synthetic
check "a truncated file" truncated 1
check "a truncated file, four threads" truncated 4
check "a truncated file of the test split" truncated_test
check "a file that is no image" checked
finish
