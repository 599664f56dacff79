# Who is measured. Each has start_NAME (sets `why` and fails where it cannot take part) and once_NAME, the
# command that is timed; those with a command line for it also begin_exec_NAME, once_exec_NAME and
# end_exec_NAME, for a process in a container that runs. Each gets folders of its own below $work and $live.

# What the command itself is run by: nothing, or took.py.
launch=()
# Those that were started.
dockerd_pids=()

start_slipway() {
    "$bin/ctl" version --format '{{.Client.Version}}' >"$work/version-slipway" 2>/dev/null ||
        echo "$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)" >"$work/version-slipway"
}
once_slipway() { "${launch[@]}" "$bin/ctl" run --rm busybox true; }
begin_exec_slipway() { "$bin/ctl" run -d -i --name bench-exec busybox sh; }
once_exec_slipway() { "${launch[@]}" "$bin/ctl" exec bench-exec true; }
end_exec_slipway() { "$bin/ctl" rm -f bench-exec; }

# The lowest possible: an OCI runtime alone, without image, writable layer, log or network connection. All
# three run the very same bundle, but for the name of its cgroup.
bundle() { # NAME
    mkdir -p "$work/$1/bundle"
    "$bin/runtime-svc" oci spec --bundle "$work/$1/bundle"
    sed -i -e 's/"ociVersion": "[^"]*"/"ociVersion": "1.0.2"/' \
        -e 's/"terminal": true/"terminal": false/' -e 's/"sh"$/"true"/' \
        -e "s|\"path\": \"rootfs\"|\"path\": \"$work/rootfs\"|" \
        -e "s|^\([[:space:]]*\)\"linux\": {|\1\"linux\": {\n\1\t\"cgroupsPath\": \"/$group/$1\",|" "$work/$1/bundle/config.json"
    grep -q '"true"' "$work/$1/bundle/config.json" && grep -q "/$group/$1" "$work/$1/bundle/config.json" || {
        why="the example of a config.json is another than this script knows"
        return 1
    }
}

start_oci() {
    ln -sf "$bin/runtime-svc" "$work/slipway-oci"
    bundle oci || return 1
    "$work/slipway-oci" --version | awk 'NR == 1 { print $3 }' >"$work/version-oci"
}
once_oci() { "${launch[@]}" "$work/slipway-oci" --root "$live/oci" run --bundle "$work/oci/bundle" bench; }

start_crun() {
    why="crun is not installed (Debian: crun)"
    command -v crun >/dev/null || return 1
    bundle crun || return 1
    crun --version | awk 'NR == 1 { print $3 }' >"$work/version-crun"
}
once_crun() { "${launch[@]}" crun --root "$live/crun" --cgroup-manager cgroupfs run --bundle "$work/crun/bundle" bench; }

start_runc() {
    why="runc is not installed (Debian: runc)"
    command -v runc >/dev/null || return 1
    bundle runc || return 1
    runc --version | awk 'NR == 1 { print $3 }' >"$work/version-runc"
}
once_runc() { "${launch[@]}" runc --root "$live/runc" run --bundle "$work/runc/bundle" bench; }

# The peers' own root file system, where they are not the host's programs: empty, or chroot and its folder.
peer=()

# In the peers' namespaces: $peers, if it is set, becomes what they see, with the folders that they are given.
enter_peers() {
    [ -n "${peers-}" ] || return 0
    # runc's pivot_root(2) wants a mount for its root.
    mount --bind "$peers" "$peers"
    # What stands for the folders below goes with us.
    mount -t tmpfs tmpfs "$peers${work%/*}"
    local folder
    for folder in /proc /sys /dev /run "$work"; do
        mkdir -p "$peers$folder"
        mount --rbind "$folder" "$peers$folder"
    done
    peer=(chroot "$peers")
}
has() { # PROGRAM...
    local one
    for one; do "${peer[@]}" sh -c 'command -v "$0" >/dev/null' "$one" || return 1; done
}

start_docker() { start_dockerd docker '{}'; }
# With containerd's image store, which docker 29 has by default: layers are compressed when they are made.
start_docker-containerd() {
    start_dockerd docker-containerd '{"features":{"containerd-snapshotter":true}}' || return 1
    why="this docker knows no other image store than its own (docker 24 does)"
    docker_at docker-containerd info --format '{{.DriverStatus}}' | grep -q containerd.snapshotter
}
start_dockerd() { # NAME CONFIGURATION
    run_dockerd "$@" || return 1
    why="$1 does not take the image"
    docker_at "$1" load -q -i "$work/image.tar" >/dev/null 2>&1
}
run_dockerd() { # NAME CONFIGURATION
    local own=$work/$1 pid left
    why="docker is not installed (Debian: docker.io iptables)"
    has dockerd docker iptables || return 1
    mkdir -p "$own"
    # A configuration file of the host's would be merged with these.
    echo "$2" >"$own/daemon.json"
    "${peer[@]}" dockerd --config-file "$own/daemon.json" --data-root "$own/data" --exec-root "$live/$1" \
        --pidfile "$own/pid" --host "unix://$own/sock" --group "$(id -gn)" \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$group" >"$own/log" 2>&1 &
    pid=$!
    dockerd_pids+=("$pid")
    for ((left = 300; left > 0; left--)); do
        ! docker_at "$1" version >/dev/null 2>&1 || break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    why="dockerd does not start: $(tail -n 1 "$own/log")"
    docker_at "$1" version --format '{{.Server.Version}}' >"$work/version-$1"
}
docker_at() { "${launch[@]}" "${peer[@]}" docker --host "unix://$work/$1/sock" --config "$work/$1/client" "${@:2}"; }
docker_client() { docker_at docker "$@"; }
once_docker() { docker_client run --rm busybox true; }
begin_exec_docker() { docker_client run -d -i --name bench-exec busybox sh; }
once_exec_docker() { docker_client exec bench-exec true; }
end_exec_docker() { docker_client rm -f bench-exec; }
memory_docker() { memory_of_trees docker "dockerd + containerd" "${dockerd_pids[@]}"; }

start_podman() {
    why="podman is not installed (Debian: podman crun iptables)"
    command -v podman >/dev/null || return 1
    mkdir -p "$work/podman/networks"
    why="podman does not work here"
    podman_client load -q -i "$work/image.tar" >"$work/podman/log" 2>&1 || {
        why+=": $(tail -n 1 "$work/podman/log")"
        return 1
    }
    podman --version | awk '{ print $3 }' >"$work/version-podman"
}
podman_client() {
    "${launch[@]}" podman --root "$work/podman/data" --runroot "$live/podman" --tmpdir "$work/podman/tmp" \
        --network-config-dir "$work/podman/networks" --cgroup-manager cgroupfs --events-backend file "$@"
}
# Explicit limits, below the 32 Ki processes that podman lowers itself to: its own defaults of a million each
# are refused where root may not raise limits.
once_podman() {
    podman_client run --rm --pull never --cgroup-parent "/$group" --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
        localhost/busybox true
}

begin_exec_podman() {
    podman_client run -d -i --name bench-exec --pull never --cgroup-parent "/$group" --ulimit nofile=1024:1024 \
        --ulimit nproc=4096:4096 localhost/busybox sh
}
once_exec_podman() { podman_client exec bench-exec true; }
end_exec_podman() { podman_client rm -f -t 0 bench-exec; }

# Ends what was started here, by pid; the namespaces do the rest.
stop_contenders() {
    local pid
    for pid in "${dockerd_pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # Both keep mounts on their own folders, which stand in the way of rm.
    local place
    while read -r place; do
        umount -l "$place" 2>/dev/null || true
    done < <(awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
}
