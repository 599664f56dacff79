# Prints the tables of `registry`, with verdict.awk. Input: NAME MEDIAN LEAST MOST.
{ median[$1] = $2; least[$1] = $3; most[$1] = $4 }
function per(name) { return name in median ? sprintf("%.0f/s", median[name]) : "-" }
function rate(name) { return name in median ? sprintf("%.0f MB/s", median[name] / 1e6) : "-" }
function s(name) { return name in median ? sprintf(median[name] < 0.1 ? "%.4f s" : "%.2f s", median[name]) : "-" }
function mb(name) { return name in median ? sprintf("%.0f MB", most[name] / 1e6) : "-" }
function both(a, b) { return (a in median) && (b in median) && median[b] > 0 }
# More is better; or less is.
function times(a, b) { return both(a, b) ? median[a] / median[b] : 0 }
function x(n) { return n ? sprintf("%.1f", n) : "-" }
function pull(what, link) { printf "| %s | %s | %s | %.2f |\n", what, s("pull-mirror-" link), s("pull-upstream-" link), times("pull-upstream-" link, "pull-mirror-" link) }
function row(what, a, b, c, ratio) { printf "| %s | %s | %s | %s | %s |\n", what, a, b, c, x(ratio) }
END {
    if ("manifest-slipway" in median || "push-small-slipway" in median) {
        print "| | registry-svc | docker-registry | sendfile server | to docker-registry |"
        print "|---|---:|---:|---:|---:|"
    }
    if ("manifest-slipway" in median) {
        row("manifest GET, 16 connections", per("manifest-slipway"), per("manifest-distribution"), per("manifest-limit"), times("manifest-slipway", "manifest-distribution"))
        row("4 KiB blob GET, 16 connections", per("small-slipway"), per("small-distribution"), per("small-limit"), times("small-slipway", "small-distribution"))
        row("140 MB blob GET, one connection", rate("large-slipway"), rate("large-distribution"), rate("large-limit"), times("large-slipway", "large-distribution"))
    }
    if ("push-small-slipway" in median) {
        row("push of 1,000 blobs of 4 KiB, 16 connections", s("push-small-slipway"), s("push-small-distribution"), "-", times("push-small-distribution", "push-small-slipway"))
        row("push of a blob of 1 GB", s("push-large-slipway"), s("push-large-distribution"), "-", times("push-large-distribution", "push-large-slipway"))
    }
    for (part = split("reads pushes mirror", parts, " "); part > 0; part--) {
        one = "memory-" parts[part]
        if (!((one "-slipway") in median)) continue
        row("resident at most, " parts[part], mb(one "-slipway"), mb(one "-distribution"), "-", 0)
        if (most[one "-slipway"] > memory) memory = most[one "-slipway"]
    }
    if ("pull-mirror-gigabit" in median) {
        print "\n| cold pull of 8 x 50 MB | through the mirror | from its upstream | mirror / upstream |\n|---|---:|---:|---:|"
        pull("upstream at 1 Gbit/s", "gigabit")
        pull("all on these processors", "none")
    }
    if ("catalog-fill" in median) {
        printf "\n| a catalog of %d repositories, ten tags each | |\n|---|---:|\n", repositories
        printf "| made in | %s |\n| all of it listed, by 1,000 | %s |\n| slowest page | %s |\n", s("catalog-fill"), s("catalog-list"), s("catalog-page")
        printf "| manifests of all repositories in turn, by tag | %s |\n| their lists of tags | %s |\n", per("catalog-get"), per("catalog-tags")
        printf "| start | %s |\n| start after kill -9: index rebuilt from the files | %s |\n", s("catalog-start"), s("catalog-rebuild")
        printf "| manifests removed with their tags and blobs | %s |\n| p99 of a GET, and beside that | %d us, %d us |\n", per("catalog-empties"), median["catalog-p99-alone"], median["catalog-p99-beside"]
        printf "| resident: empty, with all, after the rebuild, at most | %s, %s, %s, %s |\n", mb("catalog-empty"), mb("catalog-full"), mb("catalog-started"), mb("memory-catalog-slipway")
    }
    reads = both("manifest-slipway", "manifest-distribution")
    judge("manifest GET, 16 connections", x(times("manifest-slipway", "manifest-distribution")) " x docker-registry", "at least 20", reads ? times("manifest-slipway", "manifest-distribution") >= 20 : "")
    judge("small blob GET, 16 connections", x(times("small-slipway", "small-distribution")) " x docker-registry", "at least 20", reads ? times("small-slipway", "small-distribution") >= 20 : "")
    judge("140 MB blob GET", x(times("large-slipway", "large-distribution")) " x docker-registry, " sprintf("%.2f", times("large-slipway", "large-limit")) " x sendfile", "at least 2, or 0.9 x sendfile", reads ? times("large-slipway", "large-distribution") >= 2 || times("large-slipway", "large-limit") >= 0.9 : "")
    pushes = both("push-small-slipway", "push-small-distribution")
    judge("push of 1,000 small blobs", x(times("push-small-distribution", "push-small-slipway")) " x docker-registry", "at least 3", pushes ? times("push-small-distribution", "push-small-slipway") >= 3 : "")
    judge("push of a blob of 1 GB", x(times("push-large-distribution", "push-large-slipway")) " x docker-registry", "at least 3", pushes ? times("push-large-distribution", "push-large-slipway") >= 3 : "")
    judge("resident memory of registry-svc under load", sprintf("%.0f MB", memory / 1e6), "below 64 MB", memory ? memory < 64e6 : "")
    judge("cold pull through the mirror, upstream at 1 Gbit/s", sprintf("%.2f", times("pull-upstream-gigabit", "pull-mirror-gigabit")) " x the upstream's own speed", "at least 0.95", both("pull-mirror-gigabit", "pull-upstream-gigabit") ? times("pull-upstream-gigabit", "pull-mirror-gigabit") >= 0.95 : "")
    exit tell() && check
}
