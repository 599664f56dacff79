# The registries that are measured, how each is started and stopped, and what loads them. Sourced; `root`, `work`
# and `store` are set.

declare -A address server

# Sets `bin`, where the release programs are; builds them unless $1 is 0.
registry_programs() { # BUILD
    bin=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/release
    if [ "$1" = 1 ]; then
        (cd "$root" && cargo build --release --locked -p registry-svc -p slipway-load) ||
            fail "the programs do not build"
    fi
    [ -x "$bin/registry-svc" ] && [ -x "$bin/slipway-load" ] || fail "registry-svc or slipway-load is missing in $bin: run me without --no-build"
    export bin
}

load() { "$bin/slipway-load" "$@"; }

# Waits until a server answers.
answers() { # NAME PATH
    local left
    for ((left = 6000; left > 0; left--)); do
        ! curl -sf --noproxy '*' -o /dev/null "http://${address[$1]}$2" || return 0
        kill -0 "${server[$1]}" 2>/dev/null || break
        sleep 0.01
    done
    fail "$1 does not answer: $(tail -n 5 "$work/$1.log")"
}

start_slipway() { # NAME-OF-STORE
    export SLIPWAY_STATE_DIR=$store/slipway-$1
    address[slipway]=127.0.0.1:5000
    "$bin/registry-svc" 2>"$work/slipway.log" &
    server[slipway]=$!
    answers slipway /v2/
}

stop_slipway() {
    kill "${server[slipway]}"
    wait "${server[slipway]}" 2>/dev/null || true
    unset "server[slipway]"
}

# As Debian's package configures it, but with less to write into its log.
start_distribution() { # NAME-OF-STORE
    address[distribution]=127.0.0.1:5001
    cat >"$work/distribution.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {cache: {blobdescriptor: inmemory}, filesystem: {rootdirectory: $store/distribution-$1}, delete: {enabled: true}}
http: {addr: "${address[distribution]}", headers: {X-Content-Type-Options: [nosniff]}}
END
    distribution_root=$store/distribution-$1
    docker-registry serve "$work/distribution.yml" 2>"$work/distribution.log" &
    server[distribution]=$!
    answers distribution /v2/
}

# What a server can do at best here, with the same answers.
start_limits() {
    local digest
    curl -sf --noproxy '*' -H "Accept: $accept" -o "$work/manifest" "http://${address[slipway]}/v2/bench/small/manifests/latest"
    curl -sf --noproxy '*' -o "$store/large" "http://${address[slipway]}$(tail -n 1 "$work/large-slipway")"
    address[limit]=127.0.0.1:5002 address[large-limit]=127.0.0.1:5003
    "$bin/slipway-load" serve "${address[limit]}" "$work/manifest" &
    server[limit]=$!
    "$bin/slipway-load" serve "${address[large-limit]}" "$store/large" &
    server[large-limit]=$!
    answers limit /
    answers large-limit /
}

# registry-svc asks this one for everything that it does not have.
mirrored_from() { # ADDRESS
    mkdir -p "$SLIPWAY_CONFIG_DIR"
    printf '[[upstream]]\nhost = "docker.io"\nurl = "http://%s"\ninsecure = true\n' "$1" >"$SLIPWAY_CONFIG_DIR/registry.toml"
}

# Takes a pushed image away, so that there is room for the next.
forget_slipway() { # REPOSITORY
    local digest
    digest=$(curl -sfI --noproxy '*' -H "Accept: $accept" "http://${address[slipway]}/v2/$1/manifests/latest" |
        tr -d '\r' | awk 'tolower($1) == "docker-content-digest:" { print $2 }')
    curl -sf --noproxy '*' -X DELETE "http://${address[slipway]}/v2/$1/manifests/$digest"
}
# It has no way to free anything while it runs.
forget_distribution() { # REPOSITORY
    find "$distribution_root/docker/registry/v2/blobs" -type f -size +900M -delete
}

# Resident memory, bytes: what it is now, and what it was at most.
resident() { awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/${server[$1]}/status"; }
note_memory() { # PART
    local one
    for one in slipway distribution; do
        [ -z "${server[$one]-}" ] || awk '/^VmHWM:/ { print $2 * 1024 }' "/proc/${server[$one]}/status" >>"$work/results/memory-$1-$one"
    done
}

stop_servers() {
    local one
    for one in "${!server[@]}"; do
        kill "${server[$one]}" 2>/dev/null || true
        wait "${server[$one]}" 2>/dev/null || true
        unset "server[$one]"
    done
    rm -rf "${store:?}"/*
}

stop() {
    stop_servers
    ! mountpoint -q "$store" || umount -d "$store"
}
