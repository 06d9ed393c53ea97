# Reads CTest's JUnit files and counts test cases: one for each cmocka case or "[  PASSED  ] N test(s)" line that a
# program printed, one for a program without such lines. Prints failures, then skips by reason, and as the last line
# "N passed, N failed, N skipped". Exits 1 when anything failed, or when nothing ran at all.
# A file with the line "BUILD FAILED: what" stands for a configuration that did not build, which is one failure.

function plain(text)
{
    gsub(/&lt;/, "<", text)
    gsub(/&gt;/, ">", text)
    gsub(/&quot;/, "\"", text)
    gsub(/&apos;/, "'", text)
    gsub(/&amp;/, "\\&", text)
    return text
}

function add_skips(count, reason)
{
    skipped += count
    if (!(reason in skips))
        reasons[++n_reasons] = reason
    skips[reason] += count
}

function add_failure(what)
{
    failures[++n_failures] = what
}

function attribute(line, key,    found)
{
    found = match(line, " " key "=\"[^\"]*\"")
    return found ? substr(line, RSTART + length(key) + 3, RLENGTH - length(key) - 4) : ""
}

function end_of_program()
{
    if (did_skip) {
        add_skips(1, reason[1] == "" ? "no reason given (" name ")" : reason[1])
        return
    }
    passed += n_passed
    failed += n_failed
    # the reasons were printed in the order of the skips
    for (i = 1; i <= n_skipped; i++)
        add_skips(1, reason[i] == "" ? "no reason given (" name ")" : reason[i])
    if (status != "run") {
        add_failure(config name)
        if (n_failed == 0)
            failed++
    } else if (n_failed > 0) {
        # a program that reports failures and returns 0 lies about its verdict
        add_failure(config name " (printed failures, but returned 0)")
    } else if (n_passed + n_skipped == 0) {
        passed++
    }
}

FNR == 1 {
    config = FILENAME
    sub(/.*\//, "", config)
    sub(/\.xml$/, "", config)
    config = config ": "
}

/^BUILD FAILED/ {
    failed++
    add_failure(config plain($0))
}

/<testcase / {
    name = plain(attribute($0, "name"))
    status = attribute($0, "status")
    did_skip = status == "disabled"
    n_passed = n_failed = n_skipped = n_reasons_here = 0
    delete reason
    if (did_skip)
        reason[1] = "disabled in CMake (" name ")"
}

/<skipped message="SKIP_RETURN_CODE=/ { did_skip = 1 }

{
    line = $0
    sub(/^.*<system-out>/, "", line)
    if (line ~ /^SKIP: /)
        reason[++n_reasons_here] = plain(substr(line, 7))
    else if (match(line, /^\[  (PASSED|FAILED|SKIPPED) +\] [0-9]+ test\(s\)/)) {
        split(line, word, /[][ ]+/)
        if (word[2] == "PASSED")
            n_passed += word[3]
        else if (word[2] == "FAILED")
            n_failed += word[3]
        else
            n_skipped += word[3]
    }
}

/<\/testcase>/ { end_of_program() }

END {
    for (i = 1; i <= n_failures; i++)
        print "failed: " failures[i]
    for (i = 1; i <= n_reasons; i++)
        print "skipped: " skips[reasons[i]] " x " reasons[i]
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit (failed > 0 || n_failures > 0 || passed == 0)
}
