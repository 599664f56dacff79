# Prints the tables of `scale`, with verdict.awk. Input, separated by tabs (microseconds, KiB):
#   burst NAME VERSION KIND NUMBER FAILED TOOK P50 P99 MAX      each NAME NUMBER KEEPERS(3) CONTAINERS(3)
#   took WHAT COUNT TIME                                        service LABEL NAME MEMORY(3) FILES THREADS
#   monitors LABEL NUMBER KEEPERS(3) CONTAINERS(3)              kernel LABEL SLAB STACKS TABLES PERCPU
# where MEMORY is Pss, RSS and what is private.
BEGIN { FS = "\t" }
$1 == "burst" { b[++bursts] = $0; rate[$2, $4] = $5 / $7; p50[$2, $4] = $8; p99[$2, $4] = $9 }
$1 == "each" { each[$2] = ($4 + $7) / $3; shim[$2] = $4 / $3; names[++peersn] = $2 }
$1 == "took" && $2 == "start" { start[$3] = $4; next }
$1 == "took" { n = ++looked[$2, $3]; look[$2, $3, n] = $4; next }
$1 == "service" { pss[$2, $3] = $4; own[$2, $3] = $6; files[$2, $3] = $7; threads[$2, $3] = $8; all[$2] += $4 }
$1 == "monitors" { there[$2] = $3; kp[$2] = $4; kr[$2] = $5; ko[$2] = $6; cp[$2] = $7; labels[++marks] = $2 }
$1 == "kernel" { kernel[$2] = $3 + $4 + $5 + $6 }

function ms(us) { return sprintf("%.1f", us / 1000) }
function mb(kib) { return sprintf("%.2f", kib * 1024 / 1e6) }
function kb(kib) { return sprintf("%.0f", kib) }
function ratio(a, b) { return b ? sprintf("%.2f", a / b) : "-" }
# The middle of v[1..n].
function middle(v, n,  i, j, t) {
    for (i = 2; i <= n; i++) { t = v[i]; for (j = i - 1; j > 0 && v[j] > t; j--) v[j + 1] = v[j]; v[j + 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
function starts(from, to,  i, n, v) { for (i = from; i <= to; i++) if (i in start) v[++n] = start[i]; return n ? middle(v, n) : 0 }
function looks(what, at,  i, n, v) { n = looked[what, at]; for (i = 1; i <= n; i++) v[i] = look[what, at, i]; return n ? middle(v, n) : 0 }
# The larger one counts.
function idle(what, fresh, after, limit) {
    judge(what, mb(fresh) " MB just started, " mb(after) " after " burst " at once", "at most " limit, fresh * 1024 <= limit * 1e6 && after * 1024 <= limit * 1e6)
}

END {
    print ""
    print heading
    if (bursts) {
        print ""
        print "| at once | version | containers | a second | p50 ms | p99 ms | slowest ms | x docker, to reach: 10 |"
        print "|---|---|---:|---:|---:|---:|---:|---:|"
        title["stay"] = "`run -d`"; title["gone"] = "`run --rm true`"; title["beside"] = "`run -d` beside " (count - burst) " others"
        for (i = 1; i <= bursts; i++) {
            split(b[i], f, "\t")
            kind = f[4] == "beside" ? "stay" : f[4]
            printf "| %s, %s | %s | %d%s | %.1f | %s | %s | %s | %s |\n", f[2], title[f[4]], f[3], f[5], (f[6] ? " (" f[6] " failed)" : ""), f[5] / f[7] * 1e6, ms(f[8]), ms(f[9]), ms(f[10]), ratio(f[5] / f[7], rate["docker", kind])
        }
        for (i = 1; i <= 2; i++) {
            k = i == 1 ? "stay" : "gone"
            known = ("docker", k) in rate && ("slipway", k) in rate
            judge(burst " " title[k] " at once", ratio(rate["slipway", k], rate["docker", k]) " x docker's rate", "at least 10", known ? rate["slipway", k] >= 10 * rate["docker", k] : "")
        }
        # Flat: nobody waits much longer than the others. Beside many others the kernel itself has more to do: a
        # bridge looks through all its ports for a new one, and a new file system may have to make the shrinkers'
        # maps of all memory groups longer.
        if (("slipway", "stay") in p99)
            judge("p99 of " burst " " title["stay"] " at once", ratio(p99["slipway", "stay"], p50["slipway", "stay"]) " x p50", "at most 2", p99["slipway", "stay"] <= 2 * p50["slipway", "stay"])
        if (("slipway", "beside") in p99)
            judge("the same beside " (count - burst) " others", ratio(p99["slipway", "beside"], p50["slipway", "beside"]) " x p50, " ratio(p99["slipway", "beside"], p99["slipway", "stay"]) " x alone", "at most 2 and 2.5", p99["slipway", "beside"] <= 2 * p50["slipway", "beside"] && p99["slipway", "beside"] <= 2.5 * p99["slipway", "stay"])
    }
    if (1 in start) {
        first = starts(6, 25); last = starts(count - 19, count)
        print ""
        print "| with so many containers | " 10 " | 100 | 500 | " count " | last / first |"
        print "|---|---:|---:|---:|---:|---:|"
        printf "| the next `run -d`, ms (median of 20) | %s | %s | %s | %s | %s |\n", ms(first), ms(starts(91, 110)), (count > 510 ? ms(starts(491, 510)) : "-"), ms(last), ratio(last, first)
        judge("the next `run -d` with " count " containers", ratio(last, first) " x with 10", "at most 1.2", last <= 1.2 * first)
        split("ps inspect exec stats", whats, " ")
        text["ps"] = "`ps`"; text["inspect"] = "`inspect` of one"; text["exec"] = "`exec true` in one"; text["stats"] = "`stats --no-stream` of all, two rounds a second apart"
        for (i = 1; i <= 4; i++) {
            w = whats[i]
            printf "| %s, ms | %s | %s | %s | %s | %s |\n", text[w], ms(looks(w, 10)), (looked[w, 100] ? ms(looks(w, 100)) : "-"), (looked[w, 500] ? ms(looks(w, 500)) : "-"), ms(looks(w, count)), ratio(looks(w, count), looks(w, 10))
        }
        more = (looks("ps", count) - looks("ps", 10)) / (count - 10)
        printf "\nA container more makes `ps` %.0f microseconds longer.\n", more
        # Flat: what is about all of them takes for each no longer than with a tenth of them, and what is about one
        # takes no longer.
        few = count >= 1000 ? 100 : 10
        each_few = looks("ps", few) / few; each_all = looks("ps", count) / count
        judge("`ps` for each of " count " containers", ratio(each_all, each_few) " x with " few, "at most 1.5", each_all <= 1.5 * each_few)
        for (i = 2; i <= 3; i++) {
            w = whats[i]
            judge(text[w] " of " count, ratio(looks(w, count), looks(w, few)) " x with " few, "at most 1.5", looks(w, count) <= 1.5 * looks(w, few))
        }
        print ""
        print "| all " count " | seconds | ms a container |"
        print "|---|---:|---:|"
        order = "stop-all:`stop`|start-all:`start` (one after the other, as docker)|remove-all:`rm` of stopped ones|down:`down --containers`|recover-runtime:runtime-svc killed, until it answers again|recover-netd:netd killed, until it answers again"
        m = split(order, lines, "|")
        for (i = 1; i <= m; i++) {
            split(lines[i], part, ":")
            t = looks(part[1], count)
            printf "| %s | %.2f | %s |\n", part[2], t / 1e6, ms(t / count)
        }
        for (i = 5; i <= 6; i++) {
            split(lines[i], part, ":")
            t = looks(part[1], count)
            judge(part[2] ", with " count " containers", sprintf("%.2f s", t / 1e6), "at most 5", t <= 5e6)
        }
    }
    if (marks) {
        print ""
        print "| memory, Pss | containers | registry-svc MB | netd MB | runtime-svc with spawner MB | builder-svc MB | all four MB | monitors MB | their programs MB | files, threads of runtime-svc |"
        print "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        for (i = 1; i <= marks; i++) {
            l = labels[i]
            printf "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %d, %d |\n", (l == "fresh" ? "just started" : l == "0" ? "after " burst " at once" : l == "after" ? "all gone again" : ""), there[l], mb(pss[l, "registry-svc"]), mb(pss[l, "netd"]), mb(pss[l, "runtime-svc"]), mb(pss[l, "builder-svc"]), mb(all[l]), mb(kp[l]), mb(cp[l]), files[l, "runtime-svc"], threads[l, "runtime-svc"]
        }
        print ""
        print "| memory of one container, KiB | monitor, Pss | of it private | its program, Pss | growth of runtime-svc | growth of netd | sum | kernel (slab, stacks, page tables, percpu; of the whole machine) |"
        print "|---|---:|---:|---:|---:|---:|---:|---:|"
        for (i = 1; i <= marks; i++) {
            l = labels[i]; n = there[l]
            if (!n) continue
            g = (pss[l, "runtime-svc"] - pss[0, "runtime-svc"]) / n; h = (pss[l, "netd"] - pss[0, "netd"]) / n
            sum = (kp[l] + cp[l]) / n + g + h
            printf "| %d containers | %s | %s | %s | %.1f | %.1f | %s | %s |\n", n, kb(kp[l] / n), kb(ko[l] / n), kb(cp[l] / n), g, h, kb(sum), kb((kernel[l] - kernel[0]) / n)
            if (n == count) judge("memory of a container, with its monitor and what the services grow by", mb(sum) " MB", "at most 1.5", sum * 1024 <= 1.5e6)
        }
        for (i = 1; i <= peersn; i++) printf "%s%s: %s KiB a container with what looks after it, %s of that its program.", (i > 1 ? " " : "\n"), names[i], kb(each[names[i]]), kb(each[names[i]] - shim[names[i]])
        if (peersn) print ""
        idle("runtime-svc with its spawner, idle", pss["fresh", "runtime-svc"], pss[0, "runtime-svc"], 25)
        idle("all four services, idle", all["fresh"], all[0], 40)
    }
    bad = tell()
    print ""
    while ((getline line < missing) > 0) print "- Not measured: " line
    if (("docker", "stay") in rate && peers != burst) print "- The peers began " peers " at once, Slipway " burst "."
    exit check && bad
}
