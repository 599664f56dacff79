# Resident memory of processes and all their descendants, from /proc/PID/smaps_rollup.
#
# Pss counts a page that n processes share as 1/n, so that a sum of Pss is what the machine really spends;
# a sum of RSS counts it n times.

# Notes a line for each of Slipway's services: SET NAME PROCESSES PSS RSS (KiB)
memory_of() { # SET SERVICE...
    local set=$1 service pid
    shift
    for service in "$@"; do
        pid=$(cat "$SLIPWAY_RUN_DIR/$service.pid") || fail "no pid file of $service"
        memory_of_trees "$set" "$(cat "/proc/$pid/comm")" "$pid"
    done
}

# Idle is who has had nothing to do for a moment: three seconds after a start a service forgets what only that
# needed.
at_rest() { sleep 5; }
# And who was busy: a minute after the last call, which is looked for once a minute.
at_idle() { sleep 125; }

memory_of_trees() { # SET NAME PID...
    local set=$1 name=$2 pid
    shift 2
    for pid in $(with_descendants "$@"); do
        # Gone meanwhile is fine: an idle service has no such children.
        awk '/^Pss:/ { p = $2 } /^Rss:/ { r = $2 } END { print 1, p + 0, r + 0 }' "/proc/$pid/smaps_rollup" 2>/dev/null || true
    done | awk -v OFS='\t' -v set="$set" -v name="$name" '
        { n += $1; p += $2; r += $3 } END { print "memory", set, name, n, p, r }' >>"$work/memory"
}

with_descendants() { # PID...
    local pid child
    for pid in "$@"; do
        echo "$pid"
        for child in $(cat "/proc/$pid"/task/*/children 2>/dev/null); do with_descendants "$child"; done
    done
}
