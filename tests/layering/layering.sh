#!/bin/bash
# Each layer sees itself and the layers below it, and no other: every pair of layers is put to the compiler.
# usage: PTC_SOURCE_DIR=... layering.sh COMPILER FLAGS-FILE   (a line per layer: its name and its -I flags)
set -euo pipefail
cc=$1
flags_file=$2
all="base ir frontend passes codegen runtime driver"

# what a layer may include, in the words of ARCHITECTURE.md
declare -A sees=(
    [base]="base"
    [ir]="ir base"
    [frontend]="frontend ir base"
    [passes]="passes ir base"
    [codegen]="codegen passes ir base"
    [runtime]="runtime codegen passes ir base"
)
failures=0
checked=0

fail()
{
    echo "FAIL: $1"
    failures=$((failures + 1))
}

compiles() # flags..., the file on stdin
{
    "$cc" -std=gnu11 -D_GNU_SOURCE -fsyntax-only -x c "$@" - 2>/dev/null
}

while read -r layer flags; do
    for other in $all; do
        # every folder has this file, so the test does not depend on which headers exist
        seen=0
        # shellcheck disable=SC2086 # the flags are words
        compiles $flags <<<"#if !__has_include(\"$other/CMakeLists.txt\")
#error not visible
#endif
typedef int unused;" && seen=1
        may=0
        case " ${sees[$layer]} " in *" $other "*) may=1 ;; esac
        checked=$((checked + 1))
        [ $seen = $may ] || fail "$layer/ $([ $seen = 1 ] && echo sees || echo 'does not see') $other/"
    done
    if [ "$layer" = base ]; then
        # the plain words of the rule
        compiles $flags <<<'#include "base/arena.h"' || fail 'base/ cannot include "base/arena.h"'
        ! compiles $flags <<<'#include "ir/module.h"' || fail 'base/ can include "ir/module.h"'
    fi
done <"$flags_file"

# a relative path would walk around the include directories
cd "$PTC_SOURCE_DIR"
if grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"\.\.?/' --include='*.[ch]' --include='*.def' $all; then
    fail "includes are rooted at the project, not relative"
fi
echo "$checked pairs of layers checked, $failures failures"
[ $checked = 42 ] && [ $failures = 0 ]
