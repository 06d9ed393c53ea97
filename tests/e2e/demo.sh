#!/bin/bash
# The demo (tools/demo.sh) on a small part of its data: two ranks, layers that freeze, a page at the end; one core; a failure.
. "$(dirname "$0")/../ranks/lib.sh"
if [ ! -r $fashion/train-images-idx3-ubyte.gz ]; then
    skip "no dataset-fashion-mnist"
    finish
fi
first_samples 640 200
small=("${first_samples[@]}" --set=train.warmup_steps=0)

demo() # OUT COMMAND...: what it prints goes to OUT.log
{
    local out=$1
    shift
    "$@" "$PTC_SOURCE_DIR/tools/demo.sh" "$PTC" "$out" "${small[@]}" >"$out.log" 2>&1 || { cat "$out.log"; return 1; }
}

ends_with_its_page() # OUT
{
    [ "$(tail -n 1 "$1.log")" = "report: $1/report.html" ] && grep -q '^test accuracy [0-9.]*$' "$1.log" &&
        grep -q "</html>" "$1/report.html"
}

freezes() # OUT: layers, and in the cache
{
    grep '"event":"transition"' "$1/metrics.jsonl" | grep -q '"frozen":[1-9]' && grep -q 'of 4 layers frozen' "$1.log"
}

on_two_ranks()
{
    demo two env && ends_with_its_page two && freezes two && grep -q '"ranks":2' two/metrics.jsonl && ! grep -q 'one core' two.log
}

on_one_core()
{
    demo one taskset -c "$(taskset -cp $$ | sed 's/.*[:,-] *//')" && ends_with_its_page one && freezes one &&
        grep -q 'only one core' one.log
}

fails() # its exit code is that of ptc
{
    ! demo three env PTC_MPIRUN=/nowhere || return 1
    PTC_MPIRUN=/nowhere "$PTC_SOURCE_DIR/tools/demo.sh" "$PTC" four "${small[@]}"
    [ $? = 3 ]
}

[ "$(nproc)" -ge 2 ] || { skip "one core"; finish; }
check "one core: one rank, and it says so" on_one_core
needs_ranks
check "two ranks, ending with the page" on_two_ranks
check "no mpirun: the exit code of ptc" fails
finish
