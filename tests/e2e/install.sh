#!/bin/bash
# A model in a folder of one's own, with a library of one's own beside it that builds on the installed one, far from the
# source tree: checked, trained, on several ranks too, and valid by the installed grammar.
# usage: PTC_BINARY_DIR=... PTC_SOURCE_DIR=... INSTALL_RANKS=ON|OFF install.sh
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n_passed=0 n_skipped=0
fail()
{
    echo "FAIL: $1"
    exit 1
}
cmake --install "$PTC_BINARY_DIR" --prefix "$work/prefix" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --install"; }
tree=$PTC_SOURCE_DIR
for name in $(env | grep -oE '^PTC_[A-Z_]*'); do
    [[ $name = PTC_CC ]] || unset "$name" # nothing points to the build or to the source
done
ptc=$work/prefix/bin/ptc share=$(realpath "$work/prefix")/share/ptc
export PTC_CACHE_DIR=$work/kernels TMPDIR=$work
[ -z "${E2E_SANITIZED:-}" ] || export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 # Open MPI does not free all that it allocates
mkdir "$work/mine" && cd "$work/mine" || exit 1

cat >blocks.xml <<'XML'
<library xmlns:xi="http://www.w3.org/2001/XInclude">
  <xi:include href="transformer.xml"/>
  <define name="my_layer" in="x[b t d]" params="heads">
    <unit>
      <use block="norm" name="norm1" in="x"/>
      <use block="attention" name="attention" heads="{heads}"/>
      <map name="middle" expr="x + 0.5 * _"/>
    </unit>
    <unit>
      <use block="mlp" name="mlp" hidden="{2 * d}"/>
      <map expr="middle + _"/>
    </unit>
  </define>
</library>
XML
cat >my.xml <<'XML'
<model name="mine" xmlns:xi="http://www.w3.org/2001/XInclude">
  <xi:include href="blocks.xml"/>
  <data train_limit="32">
    <field name="x" format="synthetic"/>
    <field name="y" format="synthetic" high="3" classes="4"/>
  </data>
  <train epochs="1" batch="8" optimizer="adamw" lr="0.001"/>
  <input name="x" dtype="f32" shape="b 6 8"/>
  <input name="y" dtype="i32" shape="b"/>
  <map expr="x"/>
  <repeat name="layers" count="2">
    <use block="my_layer" heads="2"/>
  </repeat>
  <unit>
    <reduce op="mean" pattern="b t d -> b d"/>
    <use block="linear" name="head" out="4"/>
  </unit>
  <cross_entropy in="y"/>
  <loss/>
</model>
XML

check()
{
    local name=$1
    shift
    "$@" >"$work/log" 2>&1 || { tail -40 "$work/log"; fail "$name"; }
    n_passed=$((n_passed + 1))
}

losses() # OUT
{
    grep '"split":"train"' "$1/metrics.jsonl" | grep -o '"loss":[^,]*'
}

own_and_installed_blocks()
{
    "$ptc" --emit=ir my.xml >ir && grep -q '^file [0-9]* "blocks.xml"' ir && grep -q "^file [0-9]* \"$share/lib/transformer.xml\"" ir &&
        ! grep -qF "$tree" ir
}

trains()
{
    "$ptc" check my.xml && "$ptc" --micro-batches=2 my.xml --out=one && [ "$(losses one | wc -l)" = 4 ]
}

# The plug-in is the installed one: taken away, there are no ranks.
trains_on_ranks()
{
    "$ptc" -n 2 --stages=2 --micro-batches=2 --threads=1 --costs=model my.xml --out=two && diff <(losses one) <(losses two) &&
        mv "$work/prefix/lib/ptc/libptc_mpi.so" "$work/gone.so" && ! "$ptc" -n 2 my.xml --out=none &&
        mv "$work/gone.so" "$work/prefix/lib/ptc/libptc_mpi.so"
}

same_grammar()
{
    "$ptc" schema | cmp - "$share/ptc.xsd"
}

# By another validator than our own.
valid_by_grammar()
{
    xmllint --noout --schema "$share/ptc.xsd" my.xml blocks.xml && sed 's/<reduce op="mean"/<reduce op="middle"/' my.xml >bad.xml &&
        ! xmllint --noout --schema "$share/ptc.xsd" bad.xml
}

without_a_block()
{
    mv "$share/lib/transformer.xml" "$work/gone.xml"
    ! "$ptc" --emit=ir my.xml >/dev/null 2>err || return
    cat err
    grep -q 'blocks.xml:2:' err
}

check "own blocks and installed ones" own_and_installed_blocks
check "a model of one's own trains" trains
if [ "$INSTALL_RANKS" = ON ] && command -v mpirun >/dev/null; then
    check "it trains on two ranks" trains_on_ranks
else
    echo "SKIP: no mpirun (package openmpi-bin), or built without MPI"
    n_skipped=$((n_skipped + 1))
fi
check "the installed grammar is what the command prints" same_grammar
if command -v xmllint >/dev/null; then
    check "the grammar is one that others read" valid_by_grammar
else
    echo "SKIP: no xmllint (package libxml2-utils)"
    n_skipped=$((n_skipped + 1))
fi
check "a missing block is told with its place" without_a_block
echo "[  PASSED  ] $n_passed test(s)."
[ $n_skipped = 0 ] || echo "[  SKIPPED ] $n_skipped test(s)."
