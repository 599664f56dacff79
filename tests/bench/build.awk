# Medians and bests of builds in, a table out, with verdict.awk.
BEGIN {
    FS = "\t"
    label["cold"] = "cold: 300 MB in 2,000 files, 3 RUN"; limit["cold"] = 1 / 3
    label["nothing"] = "the same, nothing changed"; limit["nothing"] = 1 / 10
    label["changed"] = "the same, one file changed"; limit["changed"] = 1 / 4
    label["runs"] = "ten times RUN true, no cache"; limit["runs"] = 1 / 5
    label["cached"] = "the same, cached"
    label["small"] = "50,000 small files, first"
    label["again"] = "the same, second send"; limit["again"] = 1 / 5
    split("cold nothing changed runs cached small again", works, " ")
}
{
    median[$1, $3] = $4; best[$1, $3] = $5; version[$1] = $2
    if (!($1 in seen)) { order[++count] = $1; seen[$1] }
}
function ms(us) { return us >= 1e6 ? sprintf("%.2f s", us / 1e6) : sprintf("%.1f ms", us / 1e3) }
END {
    printf "| build |"
    for (i = 1; i <= count; i++) printf " %s (%s), median | best |", order[i], version[order[i]]
    for (i = 1; i <= count; i++) if (order[i] != "slipway") printf " slipway to %s |", order[i]
    print " to reach |"
    printf "|---|"
    for (i = 1; i <= count; i++) printf "---:|---:|"
    for (i = 1; i <= count; i++) if (order[i] != "slipway") printf "---:|"
    print "---|"
    for (w = 1; w <= 7; w++) {
        name = works[w]
        printf "| %s |", label[name]
        for (i = 1; i <= count; i++) printf " %s | %s |", ms(median[order[i], name]), ms(best[order[i], name])
        for (i = 1; i <= count; i++) if (order[i] != "slipway") {
            ratio = median[order[i], name] ? median["slipway", name] / median[order[i], name] : 0
            printf " %.3f |", ratio
            ratios[order[i], name] = ratio
        }
        print (name in limit ? sprintf(" %.2f of docker |", limit[name]) : " - |")
    }
    for (w = 1; w <= 7; w++) {
        name = works[w]
        if (name in limit)
            for (p = 1; p <= 2; p++) {
                peer = p == 1 ? "docker" : "docker-containerd"
                here = (peer, name) in ratios
                if (here || p == 1)
                    judge("build, " label[name], here ? sprintf("%.3f x %s", ratios[peer, name], peer) : "-", sprintf("at most %.2f", limit[name]), here ? ratios[peer, name] <= limit[name] : "")
            }
    }
    exit tell() && check
}
