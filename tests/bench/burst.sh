# Many containers begun at the same moment. For each contender: stay_NAME starts one that stays, gone_NAME runs
# one to its end and removes it, clear_of takes all away.

stay_slipway() { "$bin/ctl" run -d --stop-signal KILL busybox busybox sleep 100000; }
gone_slipway() { "$bin/ctl" run --rm busybox true; }
all_slipway() { "$bin/ctl" ps -aq --no-trunc; }
remove_slipway() { "$bin/ctl" rm -f "$@"; }
pids_slipway() { "$bin/ctl" inspect -f '{{.State.Pid}}' "$@"; }

stay_docker() { docker_client run -d --stop-signal KILL busybox busybox sleep 100000; }
gone_docker() { docker_client run --rm busybox true; }
all_docker() { docker_client ps -aq --no-trunc; }
remove_docker() { docker_client rm -f "$@"; }
pids_docker() { docker_client inspect -f '{{.State.Pid}}' "$@"; }

podman_run() {
    podman_client run --pull never --cgroup-parent "/$group" --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 "$@"
}
stay_podman() { podman_run -d --stop-signal KILL localhost/busybox busybox sleep 100000; }
gone_podman() { podman_run --rm localhost/busybox true; }
all_podman() { podman_client ps -aq --no-trunc; }
remove_podman() { podman_client rm -f "$@"; }

# Begins NUMBER of KIND (stay, gone) at the same moment, and notes how long each took.
#
# Their shells are made first and wait at a gate, so that what is measured is the contender's work.
at_once() { # CONTENDER KIND NUMBER [LABEL]
    local one=$1 kind=$2 number=$3 label=${4:-$2} folder=$work/burst n begun ended first last failed
    rm -rf "$folder"
    mkdir -p "$folder"
    mkfifo "$folder/gate" "$folder/here"
    exec 8<>"$folder/gate" 9<>"$folder/here"
    local waiting=()
    for ((n = 1; n <= number; n++)); do
        (
            printf . >&9
            read -r -N 1 -u 8
            begun=$EPOCHREALTIME
            if "${kind}_$one" </dev/null >"$folder/output.$n" 2>&1 8<&- 9<&-; then
                ended=$EPOCHREALTIME
                echo $((${ended/./} - ${begun/./})) >"$folder/took.$n"
            fi
        ) &
        waiting+=($!)
    done
    read -r -N "$number" -u 9
    first=$EPOCHREALTIME
    printf "%${number}s" "" >&8
    wait "${waiting[@]}"
    last=$EPOCHREALTIME
    exec 8<&- 9<&-
    failed=$((number - $(find "$folder" -name "took.*" | wc -l)))
    if [ "$failed" -gt 0 ]; then
        for ((n = 1; n <= number; n++)); do
            [ -e "$folder/took.$n" ] || { say "$one: $(tail -n 1 "$folder/output.$n")"; break; }
        done
        # A peer that fails some is told; we must not fail any.
        [ "$one" != slipway ] || fail "$failed of $number containers did not start"
    fi
    cat "$folder"/took.* 2>/dev/null | sort -n | awk -v OFS='\t' -v name="$one" -v kind="$label" -v failed="$failed" \
        -v version="$(cat "$work/version-$one" 2>/dev/null || echo -)" -v took=$((${last/./} - ${first/./})) '
        { v[NR] = $1 }
        function at(share,  i) { i = int(NR * share); if (i < NR * share) i++; return v[i] }
        END { if (NR) print "burst", name, version, kind, NR, failed, took, at(0.5), at(0.99), v[NR] }' >>"$work/results/all"
}

clear_of() { # CONTENDER
    local ids
    mapfile -t ids < <("all_$1")
    [ ${#ids[@]} = 0 ] || "remove_$1" "${ids[@]}" >/dev/null || fail "$1 does not remove its containers"
}

# What a container costs in memory: of processes, its own and the one that looks after it.
memory_each() { # CONTENDER NUMBER
    local ids pids keepers
    mapfile -t ids < <("all_$1")
    mapfile -t pids < <("pids_$1" "${ids[@]}")
    mapfile -t keepers < <(parents "${pids[@]}")
    echo -e "each\t$1\t$2\t$(memory_sum "${keepers[@]}")\t$(memory_sum "${pids[@]}")" >>"$work/results/all"
}

parents() { # PID...
    local pid
    for pid in "$@"; do awk '/^PPid:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true; done | sort -un
}

# Pss, RSS and private memory of processes together, KiB, separated by tabs.
memory_sum() { # PID...
    local pid
    for pid in "$@"; do cat "/proc/$pid/smaps_rollup" 2>/dev/null || true; done | awk -v OFS='\t' '
        /^Pss:/ { p += $2 } /^Rss:/ { r += $2 } /^Private_/ { o += $2 } END { print p + 0, r + 0, o + 0 }'
}
