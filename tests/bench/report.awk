# Prints the tables, with verdict.awk. Input: NAME VERSION MEDIAN P90 BEST (microseconds), then "memory" SET NAME PROCESSES PSS RSS (KiB).
BEGIN {
    FS = "\t"
    label["slipway"] = "Slipway: `ctl run --rm busybox true`, bridge"
    label["oci"] = "`slipway-oci run`, the same bundle as crun's and runc's"
    label["runc"] = "`runc run`, the same"
    label["crun"] = "`crun run`, same root file system, no network connection"
    label["docker"] = "`docker run --rm busybox true`, bridge"
    label["podman"] = "`podman run --rm busybox true`, bridge"
    label["exec_slipway"] = "Slipway: `ctl exec C true`"
    label["exec_docker"] = "`docker exec C true`"
    label["exec_podman"] = "`podman exec C true`"
}
$1 != "memory" { order[++n] = $1; version[$1] = $2; median[$1] = $3; p90[$1] = $4; best[$1] = $5; next }
{
    if (!($2 in pss)) sets[++m] = $2
    rows[$2, ++count[$2]] = $3; rowpss[$2, $3] = $5; rowrss[$2, $3] = $6; processes[$2, $3] = $4
    pss[$2] += $5; rss[$2] += $6; all[$2] += $4
}
function times(of, to) { return (to in median) ? sprintf("%.2f", median[of] / median[to]) : "-" }
function mb(kib) { return sprintf("%.1f", kib * 1024 / 1e6) }
END {
    print "| start of a container | version | median ms | p90 ms | best ms | x crun | x Slipway |"
    print "|---|---|---:|---:|---:|---:|---:|"
    for (i = 1; i <= n; i++) {
        c = order[i]
        if (c !~ /^exec_/)
            printf "| %s | %s | %.1f | %.1f | %.1f | %s | %s |\n", label[c], version[c], median[c] / 1000, p90[c] / 1000, best[c] / 1000, times(c, "crun"), times(c, "slipway")
    }
    print ""
    print "| a process in a container | version | median ms | p90 ms | best ms | x docker |"
    print "|---|---|---:|---:|---:|---:|"
    for (i = 1; i <= n; i++) {
        c = order[i]
        if (c ~ /^exec_/)
            printf "| %s | %s | %.1f | %.1f | %.1f | %s |\n", label[c], version[c], median[c] / 1000, p90[c] / 1000, best[c] / 1000, times(c, "exec_docker")
    }
    print ""
    print "| resident memory, idle | processes | Pss MB | RSS MB |"
    print "|---|---:|---:|---:|"
    for (i = 1; i <= m; i++) {
        s = sets[i]
        if (s == "docker") title = ""
        else title = (s == "slipway-fresh") ? ", just started" : ", after the runs"
        for (j = 1; j <= count[s]; j++) {
            r = rows[s, j]
            printf "| %s%s | %d | %s | %s |\n", r, title, processes[s, r], mb(rowpss[s, r]), mb(rowrss[s, r])
        }
        if (count[s] > 1) printf "| **all four%s** | %d | **%s** | %s |\n", title, all[s], mb(pss[s]), mb(rss[s])
    }
    known = ("slipway" in median) && ("crun" in median)
    judge("`run --rm busybox true`", times("slipway", "crun") " x `crun run`", "at most 1", known ? median["slipway"] <= median["crun"] : "")
    known = ("oci" in median) && ("crun" in median)
    judge("`slipway-oci run`", times("oci", "crun") " x `crun run`", "at most 1", known ? median["oci"] <= median["crun"] : "")
    known = ("exec_slipway" in median) && ("exec_docker" in median)
    judge("`exec C true`", times("exec_slipway", "exec_docker") " x docker", "at most 0.1", known ? median["exec_slipway"] <= 0.1 * median["exec_docker"] : "")
    judge("memory of all four services after the runs", mb(pss["slipway-after"]) " MB", "at most 60", pss["slipway-after"] * 1024 <= 60e6)
    bad = tell()
    while ((getline line < missing) > 0) print (said++ ? "" : "\n") "Not measured: " line "."
    exit check && bad
}
