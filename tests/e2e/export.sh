#!/bin/bash
# ptc export: what a run leaves for whoever goes on with it, the folder, what it takes the place of, what is refused.
. "$(dirname "$0")/lib.sh"
cp -r "$fixtures/reviews" "$e2e/export.xml" .
export PTC_LIB=$PTC_SOURCE_DIR/examples/lib

says() # TEXT FILE
{
    grep -qF -- "$1" "$2" || { echo "no '$1' in $2:"; cat "$2"; return 1; }
}

refuses() # CODE TEXT COMMAND...
{
    local code=$1 text=$2
    shift 2
    fails_with "$code" "$@" 2>err.log && says "$text" err.log
}

trains()
{
    $PTC export.xml --out=run --set=d=24 --set=heads=4 && says '"hidden_size": 24' run/config.json
}

# The sizes of the run are in its folder: no --set again.
goes_on()
{
    $PTC eval export.xml --out=run && $PTC export.xml --out=run --resume --set=train.epochs=2 &&
        refuses 1 "of another model" $PTC eval export.xml --out=run --set=d=16
}

exports()
{
    $PTC export export.xml --out=run -o folder >said && says "folder: 41 tensors of step" said &&
        [ "$(ls folder | tr '\n' ' ')" = "config.json model.safetensors vocab.txt " ] &&
        cmp folder/vocab.txt reviews/vocab.txt &&
        says '"architectures": [' folder/config.json && says '"BertForSequenceClassification"' folder/config.json &&
        says '"model_type": "bert"' folder/config.json && says '"hidden_size": 24' folder/config.json &&
        says '"layer_norm_eps": 1e-12' folder/config.json && says '"hidden_dropout_prob": 0.0' folder/config.json &&
        says '"0": "bad"' folder/config.json && says '"good": 1' folder/config.json &&
        fails_with 1 grep -q attention_probs folder/config.json # what is only looked at
}

# A folder is a place to start from: sizes and weights, and what the config says beside them stays.
starts_from_it()
{
    sed -i 's/^{/{\n  "extra": {"a": [1, 0.5]},\n  "torch_dtype": "float16",/' folder/config.json
    $PTC eval export.xml --out=run >a && $PTC eval export.xml --weights=folder >b &&
        diff <(sed 's/.*loss/loss/; s/, [0-9.]* s.*//' a | tail -1) <(sed 's/.*loss/loss/; s/, [0-9.]* s.*//' b | tail -1) &&
        $PTC check export.xml --weights=folder >c && says "instead of the model's: d=24 (16), heads=4 (2)" c &&
        $PTC export export.xml --weights=folder -o again && cmp again/model.safetensors folder/model.safetensors &&
        says '"extra": {' again/config.json && says '"dtype": "float32"' again/config.json &&
        fails_with 1 grep -q torch_dtype again/config.json
}

# The same by an attribute of <train>, relative to the model; the command line goes before it.
weights_in_the_model()
{
    sed 's/lr="0.001"/lr="0.001" weights="folder" init="partial"/' export.xml >from.xml
    $PTC export from.xml -o again && cmp again/model.safetensors folder/model.safetensors &&
        refuses 1 "cannot open 'none'" $PTC export from.xml --weights=none -o again &&
        refuses 1 "does not fit" $PTC export from.xml --init=strict --set=layers=3 -o again &&
        $PTC export from.xml --set=layers=3 -o more 2>told && says "missing      bert.encoder.layer.2." told
}

# Folders that are damaged, or of other sizes than they say.
bad_folders()
{
    local size
    rm -rf bad && cp -r folder bad && sed -i 's/"vocab_size": 600/"vocab_size": 700/' bad/config.json &&
        refuses 1 "does not fit" $PTC eval export.xml --weights=bad --set=data.ids.classes=700 >said &&
        says "bert.embeddings.word_embeddings.weight is f32[600x24], param words.table wants f32[700x24]" said &&
        sed -i 's/"vocab_size": 700/"vocab_size": 500/' bad/config.json &&
        refuses 1 "export.xml:24:" $PTC check export.xml --weights=bad && says "500" err.log &&
        cp folder/config.json bad && size=$(stat -c %s bad/model.safetensors) &&
        printf '\0\0\300\177' | dd of=bad/model.safetensors bs=1 seek=$((size - 4)) conv=notrunc status=none &&
        refuses 1 "of 'classifier.bias' is nan" $PTC export export.xml --weights=bad -o x &&
        truncate -s -4 bad/model.safetensors && refuses 1 "truncated" $PTC export export.xml --weights=bad -o x &&
        rm bad/model.safetensors && refuses 1 "has neither model.safetensors" $PTC export export.xml --weights=bad -o x &&
        echo '{"weight_map": {"classifier.bias": "model-00001-of-00002.safetensors"}}' >bad/model.safetensors.index.json &&
        refuses 1 "model-00001-of-00002.safetensors" $PTC export export.xml --weights=bad -o x && [ ! -e x ]
}

takes_the_place_of_an_export()
{
    $PTC export export.xml --out=run -o folder/ && fails_with 1 grep -q extra folder/config.json &&
        [ "$(ls -d folder*)" = folder ]
}

keeps_what_is_not_its_own()
{
    echo mine >folder/notes
    refuses 1 "holds something else than an export" $PTC export export.xml --out=run -o folder &&
        $PTC export export.xml --out=run -o folder --force && [ ! -e folder/notes ] && says mine folder.old/notes &&
        echo mine >folder/notes &&
        refuses 1 "which is there already" $PTC export export.xml --out=run -o folder --force &&
        says mine folder/notes && cp -r "$fixtures/zoo/bert" downloaded && rm downloaded/{*.idx,expected*,gradients*} &&
        refuses 1 "holds something else" $PTC export export.xml --out=run -o downloaded
}

refused()
{
    sed '/<hf /,/<\/hf>/d' export.xml >plain.xml
    refuses 1 "has no <hf class= model=>" $PTC export plain.xml --out=run -o x &&
        refuses 2 "wants -o" $PTC export export.xml --out=run &&
        refuses 2 "wants --out" $PTC export export.xml -o x &&
        refuses 1 "there is no checkpoint in 'nothing'" $PTC eval export.xml --out=nothing &&
        refuses 1 "there is no checkpoint" $PTC export export.xml --out=nothing -o x &&
        refuses 3 "none/x" $PTC export export.xml --out=run -o none/x &&
        sed 's/name="types" format="text" part="types" columns="text" tokenizer="reviews"/name="types" format="text" part="types" columns="text" tokenizer="reviews\/vocab.txt"/' export.xml >two.xml &&
        refuses 1 "two tokenizers" $PTC export two.xml --out=run -o x &&
        refuses 1 "2 classes, the field" $PTC export export.xml --out=run -o x --set=classes=2 --set=data.opinion.classes=3
    [ ! -e x ]
}

# A line a sample, the same from the run and from its export; the tensor has as many rows.
predicts()
{
    $PTC predict export.xml --out=run >a.jsonl && $PTC predict export.xml --weights=folder -o b.jsonl --set=train.batch=3 &&
        cmp a.jsonl b.jsonl && [ "$(grep -cE '^\{"logits":\[-?[0-9.e-]+,-?[0-9.e-]+\]\}$' a.jsonl)" = 4 ] &&
        $PTC predict export.xml --out=run -o logits.safetensors &&
        says '"logits":{"dtype":"F32","shape":[4,2]' logits.safetensors &&
        fails_with 1 cmp -s a.jsonl <($PTC predict export.xml --out=run --set=tokens=4) &&
        sed '/<output /d' export.xml >silent.xml &&
        refuses 1 "has no <output>" $PTC predict silent.xml --out=run -o none.jsonl && [ ! -e none.jsonl ] &&
        refuses 2 "wants --out" $PTC predict export.xml && refuses 3 "no/x" $PTC predict export.xml --out=run -o no/x
}

check "a run keeps its sizes" trains
check "eval and resume have them" goes_on
check "the folder" exports
check "a run starts from it" starts_from_it
check "predict" predicts
check "weights= and init=" weights_in_the_model
check "bad folders" bad_folders
check "an earlier export" takes_the_place_of_an_export
check "anything else" keeps_what_is_not_its_own
check "refused" refused
finish
