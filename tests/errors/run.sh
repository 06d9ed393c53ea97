#!/bin/bash
# Every *.xml here is broken: the program must exit with 1 and say exactly NAME.stderr, to the byte. BLESS=1 writes the
# .stderr files. NAME.args holds more arguments.
# usage: run.sh PROGRAM [ARGUMENT...]      e.g. run.sh build/bin/ptc check
set -uo pipefail
cd "$(dirname "$0")" || exit 2
program=("$(realpath "$1")" "${@:2}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PTC_LIB=../../examples/lib
n=0 failures=0

fail() # what
{
    echo "FAIL: $1"
    failures=$((failures + 1))
}

check() # name file
{
    local arguments=() code
    [ -f "$1.args" ] && read -ra arguments <"$1.args"
    timeout 60 "${program[@]}" "${arguments[@]}" "$2" >"$work/stdout" 2>"$work/stderr"
    code=$?
    n=$((n + 1))
    [ $code = 1 ] || fail "$1: exit code $code instead of 1"
    [ -n "${BLESS:-}" ] && cp "$work/stderr" "$1.stderr"
    diff -u "$1.stderr" "$work/stderr" || fail "$1: another message (BLESS=1 accepts it)"
}

for file in *.xml; do
    check "${file%.xml}" "$file"
done

# Files that are too large or too odd to be kept.
head -c 104857600 /dev/zero | tr '\0' ' ' >"$work/huge.xml"
mkfifo "$work/fifo.xml"
ln -s /dev/zero "$work/device.xml"
ln -s "$work/huge.xml" "$work/link.xml"
{
    echo '<model name="broken"'
    seq 1 100000 | sed 's/.*/  a&="1"/'
    echo '/>'
} >"$work/attributes.xml"
{
    echo '<model name="broken"><data train_limit="1"><field name="x" format="synthetic"/></data>'
    echo '<train epochs="1" batch="1" optimizer="sgd" lr="1"/><input name="x" dtype="f32" shape="b"/>'
    seq 0 99 | while read -r i; do # 100 blocks, each 100 conditions deep around the next one
        printf '<define name="d%s" in="x">' "$i"
        printf '<if test="1">%.0s' $(seq 100)
        printf '<use block="d%s" in="x"/>' $((i + 1))
        printf '</if>%.0s' $(seq 100)
        printf '</define>\n'
    done
    echo '<define name="d100" in="x"><map expr="x"/></define><use block="d0" in="x"/><loss/></model>'
} >"$work/deep-blocks.xml"
{
    echo '<model name="broken">'
    seq 1 200000 | sed 's/.*/<define name="d&"><map expr="x"\/><\/define>/'
    echo '</model>'
} >"$work/many-blocks.xml"
for name in attributes deep-blocks many-blocks huge fifo device link no-such folder; do
    file=$work/$name.xml
    [ $name = folder ] && file=$work
    timeout 60 "${program[@]}" "$file" >"$work/stdout" 2>"$work/stderr"
    code=$?
    n=$((n + 1))
    [ $code = 1 ] || fail "$name: exit code $code instead of 1"
    sed -i "s|$work|WORK|g" "$work/stderr"
    [ -n "${BLESS:-}" ] && cp "$work/stderr" "generated-$name.stderr"
    diff -u "generated-$name.stderr" "$work/stderr" || fail "$name: another message (BLESS=1 accepts it)"
done

# The schema is the second net: whatever it would refuse, our own checks must have told before, with a column.
if grep -l 'refused by the schema' -- *.stderr; then fail "the schema spoke first"; fi

echo "$n broken inputs, $failures failures"
[ $n -ge 40 ] && [ $failures = 0 ]
