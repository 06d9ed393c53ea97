#!/bin/bash
# GPUs that exchange by NCCL, on mocks of which each rank has one: the same bits as by messages, and failures that name the
# rank that is missing.
. "$(dirname "$0")/../comm/lib.sh"
export TMPDIR=$work MOCK_CUDA_ASYNC=1 MOCK_CUDA_DEVICES=3

good() # N
{
    ranks "$1" 60 "$work/dump" >"$work/out"
    local code=$?
    cat "$work/out"
    [ $code = 0 ] && [ "$(grep -c "is good" "$work/out")" = "$1" ] && grep -q "by NCCL 2.28.9" "$work/out" &&
        ! compgen -G "$work/ptc-mock-nccl-*"
}
check "3 ranks" good 3

by_host() # TEXT [FLAG]: no failure: everybody goes another way
{
    ranks 2 20 "$work/dump" ${2:+"$2"} >"$work/out" 2>&1
    local code=$?
    cat "$work/out"
    [ $code = 0 ] && grep -qF -- "GPUs exchange through memory of the host: $1" "$work/out"
}
mkdir "$work/no-nccl"
ln -s "$PTC_CUDA_PATH"/libcu* "$work/no-nccl"
no_nccl() { PTC_CUDA_PATH=$work/no-nccl by_host "rank 0: GPUs that exchange by themselves need NCCL 2.18 or later (package libnccl2): libnccl.so.2 was not found"; }
check "no NCCL" no_nccl
old_nccl() { MOCK_NCCL_VERSION=21703 by_host "rank 0: GPUs that exchange by themselves need NCCL 2.18 or later (package libnccl2); the one here is 2.17"; }
check "old NCCL" old_nccl
check "one GPU for two ranks" by_host "ranks 0 and 1 share one" one

fails() # SECONDS TEXT...: every rank ends in time, with exit code 6; extended regular expressions; $deadline: of waits (1 s)
{
    local most=$1 from text
    from=$(date +%s%3N)
    shift
    rm -rf "$work/dump"
    ranks 2 "${deadline:-1}" "$work/dump" >"$work/out" 2>&1 # mpirun's own exit code says nothing (orte_enable_recovery)
    cat "$work/out"
    [ $(($(date +%s%3N) - from)) -lt $((1000 * most)) ] && [ "$(grep -c "exit code 6:" "$work/out")" = 2 ] || return
    for text in "$@"; do
        grep -qE -- "$text" "$work/out" || { echo "no '$text'"; return 1; }
    done
    [ -s "$work/dump/rank-0.json" ] && [ -s "$work/dump/rank-1.json" ] && grep -q '"started"' "$work/dump/rank-0.json"
}
hangs() { MOCK_NCCL_HANG=1:14 fails 8 "rank [01] .* waited 1[.][0-9] s for rank [01] .*(all_reduce|recv tag|send tag)"; }
check "an exchange that does not end" hangs
reports() { deadline=20 MOCK_NCCL_ERROR=1:14:6 fails 8 "rank 1, exit code 6: NCCL failed on cuda:1, with rank 0 .host .*as the test asked"; }
check "an error that NCCL reports" reports
moves_hang() { MOCK_NCCL_HANG=1:1 fails 8 "rank [01] .* waited 1[.][0-9] s for rank [01] .*move, 280004 bytes, at moving"; }
check "messages between programs that do not end" moves_hang
moves_report() { deadline=20 MOCK_NCCL_ERROR=1:1:6 fails 8 "rank 1, exit code 6: NCCL failed on cuda:1, with rank 0 .host .*as the test asked: move, 280004 bytes"; }
check "an error that NCCL reports between programs" moves_report
stuck() { MOCK_NCCL_STUCK=1 fails 8 "rank [01] .* waited 1[.][0-9] s for rank [01] .*starting NCCL"; }
check "a start that does not end" stuck
finish
