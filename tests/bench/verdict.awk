# What is to be reached, and whether it is: judge() notes a line, tell() prints them as a table, and writes them to
# the file that `verdicts` names, if it names one, for `run --all`.

# OK is 1, 0, or "" for what could not be measured.
function judge(what, measured, reach, ok) {
    judged[++judges] = what "\t" measured "\t" reach "\t" (ok == "" ? "not measured" : ok ? "reached" : "MISSED")
    if (ok != "" && !ok) missed = 1
}
# Whether something was missed.
function tell(  i, part) {
    if (judges) {
        print ""
        print "| | measured | to reach | |"
        print "|---|---|---|---|"
    }
    for (i = 1; i <= judges; i++) {
        split(judged[i], part, "\t")
        printf "| %s | %s | %s | %s |\n", part[1], part[2], part[3], part[4]
        if (verdicts != "") print judged[i] >> verdicts
    }
    return missed + 0
}
