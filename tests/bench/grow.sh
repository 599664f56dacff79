# One container after the other up to $count, and what that does to everything else.

grow() {
    local n ids begun pid
    say "waiting two minutes until the services are idle"
    at_idle
    snapshot 0
    say "$count containers, one after the other"
    for ((n = 1; n <= count; n++)); do
        took start "$n" "$bin/ctl" run -d --name "c$n" --stop-signal KILL busybox busybox sleep 100000
        case $n in
            10 | 100 | 500) looks "$n"; [ "$n" != 100 ] || snapshot 100 ;;
            "$count") ;;
        esac
    done
    looks "$count"
    [ "$count" = 100 ] || snapshot "$count"

    say "$burst at once beside the others"
    "$bin/ctl" rm -f $(seq -f 'c%.0f' $((count - burst + 1)) "$count") >/dev/null
    quiet
    at_once slipway stay "$burst" beside
    quiet

    say "services killed and started again"
    pid=$(cat "$SLIPWAY_RUN_DIR/runtime.pid")
    killed "$pid"
    took recover-runtime "$count" up_again
    [ "$("$bin/ctl" ps -q | wc -l)" = "$count" ] || fail "runtime-svc lost containers"
    pid=$(cat "$SLIPWAY_RUN_DIR/netd.pid")
    killed "$pid"
    took recover-netd "$count" up_again
    [ "$("$bin/ctl" network inspect -f '{{len .Containers}}' bridge)" = "$count" ] || fail "netd lost endpoints"

    say "stop, start, down, remove"
    mapfile -t ids < <("$bin/ctl" ps -aq)
    took stop-all "$count" "$bin/ctl" stop "${ids[@]}"
    quiet
    took start-all "$count" "$bin/ctl" start "${ids[@]}"
    took down "$count" "$bin/ctl" down --containers
    "$bin/ctl" up >/dev/null
    took remove-all "$count" "$bin/ctl" rm "${ids[@]}"
    quiet
    snapshot after
    [ -z "$("$bin/ctl" ps -aq)" ] || fail "containers were left behind: $("$bin/ctl" ps -a)"
}

# With a thousand connections to close, a process that was killed takes a moment to be gone.
killed() { # PID
    kill -9 "$1"
    local left
    for ((left = 1000; left > 0; left--)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.01
    done
}

# Starts what does not run, and asks both services something.
up_again() {
    "$bin/ctl" up || return 1
    "$bin/ctl" ps -q || return 1
    "$bin/ctl" network ls
}

# Times a command: WHAT and HOW MANY it is about go with it.
took() { # WHAT COUNT COMMAND...
    local what=$1 number=$2 begun ended
    shift 2
    begun=$EPOCHREALTIME
    "$@" </dev/null >"$work/output" 2>&1 || fail "$* ended with $?: $(tail -n 3 "$work/output")"
    ended=$EPOCHREALTIME
    echo -e "took\t$what\t$number\t$((${ended/./} - ${begun/./}))" >>"$work/results/all"
}

# What people look at, with so many containers there. The middle of some counts.
looks() { # COUNT
    local i
    for ((i = 0; i < 15; i++)); do
        took ps "$1" "$bin/ctl" ps
        took inspect "$1" "$bin/ctl" inspect c7
        took exec "$1" "$bin/ctl" exec c7 true
    done
    took stats "$1" "$bin/ctl" stats --no-stream
}

# Waits until the kernel has taken the links of removed containers back.
quiet() {
    local left there
    for ((left = 1200; left > 0; left--)); do
        # A few are netd's own, prepared for the next.
        there=$(ip -o link show type veth 2>/dev/null | wc -l)
        [ "$there" -gt $(($("$bin/ctl" ps -q | wc -l) + 8)) ] || return 0
        sleep 0.05
    done
    fail "the kernel still has $there links"
}

# Memory of everything, and the descriptors and threads of the services.
snapshot() { # LABEL
    local label=$1 ids=() pids=() keepers=() service pid
    mapfile -t ids < <("$bin/ctl" ps -q)
    if [ ${#ids[@]} -gt 0 ]; then
        mapfile -t pids < <("$bin/ctl" inspect -f '{{.State.Pid}}' "${ids[@]}")
        mapfile -t keepers < <(parents "${pids[@]}")
    fi
    # Threads that were busy go after two seconds, memory after five.
    sleep 8
    for service in registry netd runtime builder; do
        pid=$(cat "$SLIPWAY_RUN_DIR/$service.pid")
        echo -e "service\t$label\t$(cat "/proc/$pid/comm")\t$(memory_sum $(with_descendants "$pid"))\t$(ls "/proc/$pid/fd" | wc -l)\t$(ls "/proc/$pid/task" | wc -l)"
    done >>"$work/results/all"
    echo -e "monitors\t$label\t${#keepers[@]}\t$(memory_sum "${keepers[@]}")\t$(memory_sum "${pids[@]}")" >>"$work/results/all"
    awk -v OFS='\t' -v label="$label" '
        /^(Slab|KernelStack|PageTables|Percpu|SUnreclaim):/ { v[$1] = $2 }
        END { print "kernel", label, v["SUnreclaim:"], v["KernelStack:"], v["PageTables:"], v["Percpu:"] }' /proc/meminfo >>"$work/results/all"
}
