#!/bin/bash
# Metrics of every kind against scikit-learn and scipy (tests/fixtures/metrics_fixtures.py), ties, constants and missing
# classes included; with a short last batch; on one rank, in the interpreter, on two replicas, on two stages, on both. And
# answers to questions: learnt, the same numbers and texts on any layout.
. "$(dirname "$0")/lib.sh"
cp "$fixtures"/metrics/* "$fixtures"/squad/*.xml "$fixtures"/squad/questions.json "$fixtures/tokenizers/wordpiece.json" .

agrees() # CASE FLAG...
{
    local case=$1 files=() field
    shift
    for field in found real p t w loss; do
        files+=("--set=data.$field.train=$case.csv" "--set=data.$field.test=$case.csv")
    done
    train out "$@" "${files[@]}" metrics.xml >train.log && $COMPARE results expected.json "$case" out/metrics.jsonl 1e-6
}

# A row of a training step has what can be made of its batch, and no more.
training_rows()
{
    agrees plain && grep -q '"split":"train".*"f1_macro":0[.].*"pearson":-*0[.]' out/metrics.jsonl &&
        ! grep '"split":"train"' out/metrics.jsonl | grep -q spearman
}

eval_prints_them()
{
    agrees plain && $PTC eval --out=out metrics.xml >eval.log && cat eval.log &&
        diff <(grep -o ' test .*(' train.log | tail -1) <(grep -o ' test .*(' eval.log)
}

wrong_values_are_seen()
{
    sed -i 's/"found2 == 1"/"found2 == 2"/' metrics.xml && fails_with 1 agrees plain
}

# EM is the greater one: what the script normalises to nothing matches, and has no words in common.
learns_answers()
{
    train spans --predictions=answers.json span-tiny.xml &&
        grep '"split":"eval"' spans/metrics.jsonl | grep '"answer.em":0.8[0-9]*,"answer.f1":0.7' &&
        grep '"q0-3": "“nobody but Ingrid”"' answers.json && ! grep '"split":"train"' spans/metrics.jsonl | grep answer
}

answers_again() # FLAG...
{
    rm -f again.json
    $PTC eval --threads=1 --costs=model --out=spans --predictions=again.json "$@" span-tiny.xml >eval.log && cat eval.log &&
        diff answers.json again.json && grep -q 'test answer.em 0.8.* test answer.f1 0.7' eval.log
}

with_lengths() # FLAG...
{
    sed -i 's/<data>/<data buckets="tokens: 24 32 48">/' span-tiny.xml && answers_again "$@"
}

no_answers_to_write()
{
    agrees plain
    fails_with 2 $PTC eval --out=out --predictions=again.json metrics.xml 2>err.log
    cat err.log
    grep -q -- "--predictions" err.log
}

for case in plain correlated ties no-positives never-found class-missing constant one; do
    check "$case" agrees $case
done
check "interpreter" agrees ties --device=interp
check "training rows" training_rows
check "ptc eval" eval_prints_them
check "answers" learns_answers
check "answers of an evaluation" answers_again
check "no answers" no_answers_to_write
if command -v mpirun >/dev/null && [ -n "${RANKS_PLUGIN:-}" ]; then
    for case in plain ties constant; do
        check "$case: two replicas" agrees $case -n 2 --stages=1 --replicas=2
        check "$case: two stages" agrees $case -n 2 --stages=2 --replicas=1 --micro-batches=2
    done
    check "answers of two replicas" answers_again -n 2 --stages=1 --replicas=2
    check "answers of two stages" answers_again -n 2 --stages=2 --replicas=1
    check "two stages of two replicas" agrees ties -n 4 --stages=2 --replicas=2
else
    skip "no mpirun, or built without MPI"
fi
check "answers with several lengths of windows" with_lengths
check "the comparison can fail" wrong_values_are_seen
finish
