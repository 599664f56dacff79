# Prints the tables of `network`, with verdict.awk. Input: NAME MEDIAN LEAST MOST.
{ median[$1] = $2; least[$1] = $3; most[$1] = $4 }
function has(name) { return name in median }
function ms(name) { return has(name) ? sprintf("%.2f ms", median[name] / 1e3) : "-" }
function us(name) { return has(name) ? sprintf(median[name] < 100 ? "%.1f us" : "%.0f us", median[name]) : "-" }
function rate(name) { return has(name) ? sprintf("%.0f/s", median[name]) : "-" }
function gb(name) { return has(name) ? sprintf("%.2f GB/s", median[name] / 1e9) : "-" }
function mb(name) { return has(name) ? sprintf("%.1f MB", most[name] / 1e6) : "-" }
function ratio(a, b) { return has(a) && has(b) && median[b] > 0 ? median[a] / median[b] : "" }
function x(n) { return n == "" ? "-" : sprintf("%.2f", n) }
function atmost(n, limit) { return n == "" ? "" : n <= limit }
function atleast(n, limit) { return n == "" ? "" : n >= limit }
function ports(what, prefix, suffix, one, c, line) {
    for (c = 1; c <= 3; c++) {
        one = peer[c]
        line = "| " what ", " called[one] " |"
        for (n = 1; n <= 5; n++) line = line " " us(prefix "-" one "-" size[n] suffix) " |"
        if (line ~ /[0-9] us/) print line
    }
}
function through(what, kind, from, shown, c) {
    line = "| " what " |"
    for (c = 0; c <= 4; c++) line = line " " (shown == "gb" ? gb(kind "-" way[c] "-" from) : rate(kind "-" way[c] "-" from)) " |"
    for (c = 0; c <= 3; c++) if (way[c] != "slipway") line = line " " x(ratio(kind "-slipway-" from, kind "-" way[c] "-" from)) " |"
    print line
}
END {
    split("slipway docker docker-direct", peer, " "); peer[0] = "plain"
    called["slipway"] = "netd"; called["docker"] = "docker"; called["docker-direct"] = "docker without its proxy"
    split("1 10 100 1000 10000", size, " ")
    if (has("attach-2")) {
        print "| attach and publish one port | median | worst |"
        print "|---|---:|---:|"
        printf "| from the pool | %s | %s |\n| without one | %s | %s |\n\n", ms("attach-2"), sprintf("%.2f ms", most["attach-2-worst"] / 1e3), ms("attach-0"), sprintf("%.2f ms", most["attach-0-worst"] / 1e3)
    }
    if (has("publish-slipway-1")) {
        print "| published ports | 1 | 10 | 100 | 1,000 | 10,000 |"
        print "|---|---:|---:|---:|---:|---:|"
        ports("a port, all in one call", "publish", "")
        printf "| a port, one call each, netd |"
        for (n = 1; n <= 4; n++) printf " %s |", us("publish-each-" size[n])
        print " - |"
        ports("a port withdrawn, all at once", "withdraw", "")
        ports("first packet there and back, by the first port", "fresh", "-first")
        ports("first packet there and back, by the last port", "fresh", "-last")
        ports("further ones, by the last port", "echo", "-last")
        for (c = 1; c <= 3; c++) {
            line = "| packets there and back, by the last port, " called[peer[c]] " |"
            for (n = 1; n <= 5; n++) line = line " " rate("rate-" peer[c] "-" size[n] "-last") " |"
            if (line ~ /\/s/) print line
        }
        print ""
    }
    if (has("stream-slipway-lan")) {
        split("bare slipway docker docker-direct", way, " "); way[0] = "plain"
        print "| through a published port | plain | bridge and translation alone | netd | docker | docker without its proxy | netd / plain | netd / bridge and translation | netd / docker |"
        print "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
        through("one connection, from the host", "stream", "host", "gb")
        through("one connection, from the LAN", "stream", "lan", "gb")
        through("rounds of a byte, from the host", "rounds", "host", "rate")
        through("rounds of a byte, from the LAN", "rounds", "lan", "rate")
        print ""
    }
    if (has("dns-own-slipway")) {
        print "| answers a second | netd | dnsmasq | aardvark-dns | netd / dnsmasq | netd / aardvark-dns |"
        print "|---|---:|---:|---:|---:|---:|"
        split("own cached uncached", kind, " ")
        said["own"] = "containers' names"; said["cached"] = "another name, asked before"; said["uncached"] = "names that were not"
        for (k = 1; k <= 3; k++) {
            one = "dns-" kind[k] "-"
            printf "| %s | %s | %s | %s | %s | %s |\n", said[kind[k]], rate(one "slipway"), rate(one "dnsmasq"), rate(one "aardvark"), x(ratio(one "slipway", one "dnsmasq")), x(ratio(one "slipway", one "aardvark"))
            lost += most[one "slipway-bad"]
        }
        if (lost) printf "\nnetd left %d questions without an answer, or gave another.\n", lost
        print ""
    }
    if (has("memory-idle")) {
        print "| memory of netd (Pss) | |"
        print "|---|---:|"
        printf "| idle | %s |\n| with 1,000 endpoints, each with a port (made in %s each) | %s |\n| when they are gone | %s |\n| with 1,000 ports of one | %s |\n", mb("memory-idle"), ms("hold"), mb("memory-endpoints"), mb("memory-after"), mb("memory-ports")
    }
    judge("attach + publish, from the pool", ms("attach-2"), "at most 2 ms", has("attach-2") ? median["attach-2"] <= 2000 : "")
    judge("attach + publish, without one", ms("attach-0"), "at most 10 ms", has("attach-0") ? median["attach-0"] <= 10000 : "")
    n = ratio("publish-slipway-1000", "publish-slipway-100")
    judge("a port of 1,000, set up", x(n) " x one of 100", "at most 1.5", atmost(n, 1.5))
    n = ratio("publish-each-1000", "publish-each-100")
    judge("the same, one by one", x(n) " x one of 100", "at most 1.5", atmost(n, 1.5))
    n = ratio("publish-slipway-1000", "publish-docker-1000")
    judge("a port of 1,000, set up", x(n) " x docker", "at most 1", atmost(n, 1))
    n = ratio("fresh-slipway-1000-last", "fresh-slipway-1-last")
    judge("first packet by the last of 1,000 ports", x(n) " x by the only one", "at most 1.2", atmost(n, 1.2))
    n = ratio("echo-slipway-1000-last", "echo-slipway-1-last")
    judge("further packets by the last of 1,000 ports", x(n) " x by the only one", "at most 1.2", atmost(n, 1.2))
    split("host lan", from, " ")
    split("stream rounds", kind, " ")
    for (k = 1; k <= 2; k++) for (f = 1; f <= 2; f++) {
        n = ratio(kind[k] "-slipway-" from[f], kind[k] "-plain-" from[f])
        judge((kind[k] == "stream" ? "throughput" : "round trips") " through a port, from the " (from[f] == "lan" ? "LAN" : "host"), x(n) " x plain", "at least 0.9", atleast(n, 0.9))
    }
    n = ratio("dns-own-slipway", "dns-own-aardvark")
    judge("answers for containers' names", x(n) " x aardvark-dns", "at least 1", atleast(n, 1))
    judge("memory of netd, idle", mb("memory-idle"), "at most 12 MB", has("memory-idle") ? most["memory-idle"] <= 12e6 : "")
    judge("memory of netd, 1,000 endpoints", mb("memory-endpoints"), "at most 30 MB", has("memory-endpoints") ? most["memory-endpoints"] <= 30e6 : "")
    exit tell() && check
}
