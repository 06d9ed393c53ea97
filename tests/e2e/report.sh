#!/bin/bash
# The page about a run: well-formed, complete, without network; looked at in a browser, light and dark.
. "$(dirname "$0")/../ranks/lib.sh"
: "${PAGE_CHECK:?}"

job() # OUT FLAG...
{
    local out=$1
    shift
    train "$out" --micro-batches=4 --set=layers=4 --set=train.epochs=6 --set=train.eval_every=1 \
        --set=freeze.policy=gradnorm --set=freeze.alpha=0.4 --set=cache.use=on --report="$out.html" "$@" "$tied"
}

holds() # PAGE TEXT...: each of them
{
    local page=$1
    shift
    for text in "$@"; do
        grep -qF -- "$text" "$page" || { echo "$page lacks: $text"; return 1; }
    done
}

lacks() # PAGE TEXT...
{
    local page=$1
    shift
    for text in "$@"; do
        ! grep -qF -- "$text" "$page" || { echo "$page has: $text"; return 1; }
    done
}

sound() # PAGE: XML, nothing from elsewhere, no script, small
{
    $PAGE_CHECK xml "$1" && ! grep -niE 'https?:|//[a-z]|src=|href=|url\(|@import|<script|\b(nan|inf)\b' "$1" &&
        [ "$(stat -c %s "$1")" -lt 1000000 ]
}

# The numbers of the last evaluation, as they are printed.
has_results() # OUT
{
    local row key value
    row=$(grep '"split":"eval"' "$1/metrics.jsonl" | tail -1)
    for key in loss accuracy; do
        value=$(sed -E "s/.*\"$key\":([^,}]*).*/\1/" <<<"$row")
        holds "$1.html" "Test $key</small><b>$(printf %.4f "$value")</b>" || return 1
    done
}

sections=("Over the steps" "Frozen layers" "Cache hits" "Cache size" "Gradients by layer" "A step of the pipeline"
    "before and after the last transition" "Memory" "Decisions and transitions" "Settings")

# ---- one rank
check "a run with --report" job one
check "the page is sound" sound one.html
check "the numbers of the last evaluation" has_results one
check "all sections" holds one.html "${sections[@]}" "--set=freeze.alpha=0.4"
check "no layout on one rank" lacks one.html "replicas R" "Idle share" "rank 0"

again()
{
    $PTC report -o again.html one && cmp one.html again.html && $PTC report one | cmp - one.html
}
check "ptc report: the same page" again

# ---- what is not there is left out
plain()
{
    train plain --no-freeze --report=plain.html "$tied" && sound plain.html && has_results plain &&
        lacks plain.html "Frozen layers" "Cache" "Gradients by layer" "A step of the pipeline" "Decisions"
}
check "a run without freezing" plain

# ---- rows as they come
torn()
{
    mkdir torn && head -c -5 one/metrics.jsonl >torn/metrics.jsonl && $PTC report -o torn.html torn && sound torn.html &&
        holds torn.html "not at its end"
}
check "a run that was killed" torn

row() # JSON...: a run of these rows
{
    rm -rf rows && mkdir rows && printf '%s\n' "$@" >rows/metrics.jsonl && $PTC report -o rows.html rows
}
strange()
{
    row '{"split":"event","step":0,"event":"run","model":"<b>&\"]]>\u0001","command":"</pre><script>"}' \
        '{"split":"train","step":1,"<i>":1e308,"loss":null,"a&b":-1e299}' \
        '{"split":"train","step":1,"a&b":1e299,"samples_per_s":7}' \
        '{"split":"event","step":1,"event":"freeze","why":"<&>","norms":[0,1e-300,null],"frozen":"x"}' \
        '{"split":"event","step":1,"event":"layout","stages":1e9,"micro_batches_of_replica":1e9,"schedule":"1f1b"}' \
        '{"split":"event","step":1,"event":"layout","stages":2,"micro_batches_of_replica":2,"schedule":"1f1b"}' \
        '{"split":"event","step":1,"event":"resources","real_bytes":7,"real_bytes_of_ranks":[7,"x",{}]}' \
        '{"split":"event","step":1,"event":"later","more":{"x":[]}}' &&
        $PAGE_CHECK xml rows.html && lacks rows.html '<script' '<b>&' && holds rows.html '&lt;b&gt;&amp;&quot;]]&gt;'
}
check "whatever is in a row" strange

bad() # MESSAGE JSON...
{
    local message=$1
    shift
    fails_with 1 row "$@" 2>bad.log
    grep -F "$message" bad.log || { cat bad.log; return 1; }
}
check "a row that is no JSON" bad "rows/metrics.jsonl:2: " '{"split":"train","step":1}' '{"split":'
check "a row without step" bad "rows/metrics.jsonl:1: this is no row" '{"split":"train"}'
check "a folder without metrics" fails_with 1 "$PTC" report nowhere
check "--report without --out" fails_with 2 "$PTC" --report=x.html "$tied"

# A long run: points are put together.
long()
{
    rm -rf long && mkdir long &&
        seq 200000 | sed 's/.*/{"split":"train","step":&,"loss":0.&,"samples_per_s":&}/' >long/metrics.jsonl &&
        $PTC report -o long.html long && sound long.html && holds long.html 'class="band' '>1M<' && # of a logarithmic axis
        [ "$(stat -c %s long.html)" -lt 100000 ]
}
check "a long run" long

# ---- two ranks
if command -v mpirun >/dev/null && [ -n "${RANKS_PLUGIN:-}" ]; then
    check "two ranks" job two -n 2 --stages=2
    check "two ranks: the page is sound" sound two.html
    check "two ranks: the numbers of the last evaluation" has_results two
    check "two ranks: all sections" holds two.html "${sections[@]}" "replicas R" "Idle share" "stage 1" "<th>rank 1</th>" "<th>all s</th>"
else
    skip "two ranks: no MPI"
fi

# ---- a browser
shot() # PAGE COLOURS PNG
{
    local scheme=1 # of Blink: 0 is dark
    [ "$2" = light ] || scheme=0
    rm -f "$3"
    timeout 60 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
        --blink-settings=preferredColorScheme=$scheme --window-size=1200,1600 --screenshot="$work/$3" \
        "file://$work/$1" && [ -s "$3" ]
}
looks() # COLOURS RRGGBB: that of the page, and there is something on it
{
    shot one.html "$1" "$1.png" && $PAGE_CHECK png "$1.png" "$2"
}
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -n "$browser" ] && [ -z "${E2E_SANITIZED:-}" ]; then
    check "light" looks light f6f6f3
    check "dark" looks dark 121417
else
    skip "no browser (package chromium), or under sanitizers"
fi
finish
