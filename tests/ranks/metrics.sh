#!/bin/bash
# Metrics of every kind against scikit-learn and scipy (tests/fixtures/metrics_fixtures.py), ties, constants and missing
# classes included; with a short last batch; on one rank, in the interpreter, on two replicas, on two stages, on both.
. "$(dirname "$0")/lib.sh"
cp "$fixtures"/metrics/* .

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

for case in plain correlated ties no-positives never-found class-missing constant one; do
    check "$case" agrees $case
done
check "interpreter" agrees ties --device=interp
check "training rows" training_rows
check "ptc eval" eval_prints_them
if command -v mpirun >/dev/null && [ -n "${RANKS_PLUGIN:-}" ]; then
    for case in plain ties constant; do
        check "$case: two replicas" agrees $case -n 2 --stages=1 --replicas=2
        check "$case: two stages" agrees $case -n 2 --stages=2 --replicas=1 --micro-batches=2
    done
    check "two stages of two replicas" agrees ties -n 4 --stages=2 --replicas=2
else
    skip "no mpirun, or built without MPI"
fi
check "the comparison can fail" wrong_values_are_seen
finish
