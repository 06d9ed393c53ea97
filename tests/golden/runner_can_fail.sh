#!/bin/bash
# A wrong expectation fails with a diff and the command that accepts it; that command makes it pass; an unknown verb and
# an empty folder fail.
# usage: runner_can_fail.sh GOLDEN_PROGRAM
set -euo pipefail
golden=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail()
{
    echo "FAIL: $1"
    cat "$work/out"
    exit 1
}

! "$golden" "$work" >"$work/out" || fail "an empty folder passes"
printf '// RUN: roundtrip\nmodule "a"\n// ----\nmodule "b"\n// ====\n// RUN: verify\nmodule "c"\n// ----\nok\n' >"$work/x.ptir"
! "$golden" "$work" >"$work/out" || fail "a wrong expectation passes"
grep -qxF -- '-module "b"' "$work/out" || fail "the diff lacks the expected line"
grep -qxF -- '+module "a"' "$work/out" || fail "the diff lacks the line that came"
grep -qF "BLESS=1 $golden $work/x.ptir" "$work/out" || fail "no BLESS command"
BLESS=1 "$golden" "$work/x.ptir" >"$work/out" || fail "BLESS=1 fails"
"$golden" "$work" >"$work/out" || fail "a blessed expectation fails"
grep -qxF '[  PASSED  ] 2 test(s).' "$work/out" || fail "the count is wrong"
printf '// RUN: nonsense\n// ----\n' >"$work/x.ptir"
! "$golden" "$work" >"$work/out" || fail "an unknown verb passes"
