#!/bin/bash
# An installed ptc finds its own blocks, far from the source tree; the installed grammar is what it prints.
# usage: PTC_BINARY_DIR=... PTC_SOURCE_DIR=... install.sh
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail()
{
    echo "FAIL: $1"
    exit 1
}
cmake --install "$PTC_BINARY_DIR" --prefix "$work/prefix" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --install"; }
mkdir "$work/mine"
cp "$PTC_SOURCE_DIR/examples/mlp-fashion-mnist.xml" "$work/mine/my.xml"
cd "$work/mine" || exit 1
"$work/prefix/bin/ptc" --emit=ir my.xml >ir || fail "the installed ptc does not compile a model"
grep -q "^file 2 \"$(realpath "$work/prefix")/share/ptc/lib/basic.xml\"" ir || fail "the blocks are not the installed ones"
"$work/prefix/bin/ptc" schema | cmp - "$work/prefix/share/ptc/ptc.xsd" || fail "the installed grammar is another"
mv "$work/prefix/share/ptc/lib/basic.xml" "$work/gone.xml"
"$work/prefix/bin/ptc" --emit=ir my.xml >/dev/null 2>err && fail "a library without the block was no error"
grep -q 'my.xml:3:' err || { cat err; fail "the missing block's error has no place"; }
