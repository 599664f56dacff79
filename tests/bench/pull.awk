# Prints the table of `pull`, with verdict.awk. Input: NAME VERSION FORM MEDIAN BEST (microseconds).
{ median[$1, $3] = $4; best[$1, $3] = $5; version[$1] = $2; if (!($1 in seen)) { order[++count] = $1; seen[$1] } }
function s(us) { return sprintf("%.2f s", us / 1e6) }
function ratio(a, b) { return b ? sprintf("%.2f", a / b) : "-" }
END {
    print "| pull + unpack + run true | 1 layer, median | best | to tar | 8 layers, median | best | to tar | 1 layer / 8 layers |"
    print "|---|---:|---:|---:|---:|---:|---:|---:|"
    for (i = 1; i <= count; i++) { n = order[i]
        label = n == "tar" ? "`tar -xzf`, of files" : n
        printf "| %s (%s) | %s | %s | %s | %s | %s | %s | %s |\n", label, version[n],
            s(median[n, "one"]), s(best[n, "one"]), ratio(median[n, "one"], median["tar", "one"]),
            s(median[n, "eight"]), s(best[n, "eight"]), ratio(median[n, "eight"], median["tar", "eight"]),
            ratio(median[n, "one"], median[n, "eight"]) }
    known = ("slipway" in seen) && ("tar" in seen)
    judge("pull + unpack, one layer", ratio(median["slipway", "one"], median["tar", "one"]) " x `tar -xzf`", "at most 1", known ? median["slipway", "one"] <= median["tar", "one"] : "")
    judge("pull + unpack, eight layers", ratio(median["tar", "one"], median["slipway", "eight"]) " times as fast as `tar -xzf` of one", "at least 1.6", known ? median["slipway", "eight"] * 1.6 <= median["tar", "one"] : "")
    exit tell() && check
}
