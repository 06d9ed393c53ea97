#!/bin/sh
# Trains the demo on two ranks of one thread each; on a single core, where they would only take turns, on one rank.
# Its last line is the path of a page about the run, its exit code that of ptc.
# usage: demo.sh PTC OUT [flags of ptc run]
set -eu
ptc=$1 out=$2
shift 2
ranks="-n 2"
if [ "$(nproc)" -lt 2 ]; then
    echo "demo: there is only one core: one rank instead of two" >&2
    ranks=
fi
set -x
# shellcheck disable=SC2086 # two words or none
exec "$ptc" $ranks --threads=1 --out="$out" --report="$out/report.html" "$@" "$(dirname "$0")/../examples/vit-elastic.xml"
