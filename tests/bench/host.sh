# What every benchmark needs of the host: root and tools, the programs, a temporary folder that goes at the
# end, and the view of the machine that the peers get. Sourced; `here` and `root` are set.

fail() { echo "Error: $*" >&2; exit 1; }
say() { echo "bench: $*" >&2; }

# Whether this machine can be measured at all.
need_host() {
    [ "$(id -u)" = 0 ] || fail "run me as root: containers and namespaces need it"
    local tool
    for tool in unshare curl tar gzip sha256sum awk ip python3; do
        command -v "$tool" >/dev/null || fail "$tool is missing (Debian: util-linux curl tar gzip coreutils gawk iproute2 python3)"
    done
    [ -x /bin/busybox ] || fail "/bin/busybox is missing: it becomes the image (Debian: busybox-static)"
    ! ldd /bin/busybox >/dev/null 2>&1 || fail "/bin/busybox is not static: install busybox-static"
}

# Names of contenders, separated by commas.
check_names() {
    local name
    for name in ${1//,/ }; do
        case $name in slipway | oci | crun | runc | docker | podman) ;; *) fail "--only $name: slipway, oci, crun, runc, docker or podman" ;; esac
    done
}

# Sets `bin`, where the release programs are; builds them unless $1 is 0.
programs() { # BUILD
    local target=${CARGO_TARGET_DIR:-$root/target}
    bin=$(realpath -m "$target")/release
    if [ "$1" = 1 ]; then
        (cd "$root" && cargo build --release --locked -p ctl -p registry-svc -p builder-svc -p runtime-svc -p netd) ||
            fail "the programs do not build"
    fi
    [ -x "$bin/ctl" ] || fail "$bin/ctl is missing: run me without --no-build"
    export bin
}

# Sets `work`, a folder for everything, `live`, one in memory for what everybody has in /run, and `group`;
# all go when the script ends.
workplace() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/slipway-bench.XXXXXX")
    live=$work
    [ "$(stat -f -c %T /dev/shm 2>/dev/null)" != tmpfs ] || live=$(mktemp -d /dev/shm/slipway-bench.XXXXXX)
    # Also the name of the cgroup that the peers' containers are made in.
    group=slipway-bench-$$
    trap clean_host EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$work/results"
    export work live group
    export SLIPWAY_STATE_DIR=$work/state SLIPWAY_RUN_DIR=$live/run SLIPWAY_CONFIG_DIR=$work/etc
    export XDG_CONFIG_HOME=$work/xdg SLIPWAY_CONTEXT=default
}

# What the stages leave when they were killed, and what no namespace takes away.
clean_host() {
    local folder id
    if [ -d "$work" ]; then
        "$bin/ctl" down --timeout 5 >/dev/null 2>&1 || true
        # Containers outlive their services: those that are left are of a run that failed.
        for id in $(ls "$SLIPWAY_STATE_DIR/runtime/containers" 2>/dev/null); do
            cat /sys/fs/cgroup/{,*/}"slipway/$id/cgroup.procs" 2>/dev/null | sort -u | xargs -r kill -9 2>/dev/null || true
            group+="|$id"
        done
        rm -rf --one-file-system "$work" "$live" || echo "bench: $work could not be removed" >&2
    fi
    while read -r folder; do
        rmdir "$folder" 2>/dev/null || true
    done < <(find /sys/fs/cgroup -depth -type d -regextype posix-extended -regex ".*/($group).*" 2>/dev/null)
}

# In the peers' own namespaces: what they must see of this machine, and what they must not reach.
peers_view() {
    ip link set lo up
    # crun refuses a hybrid layout ("cgroups in hybrid mode not supported"); alone, v1 and v2 suit all.
    ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
    # Whatever the peers keep outside of the folders that they are given lands here and goes with us.
    mount -t tmpfs tmpfs /run
    mkdir -p /run/netns /run/lock
    local folder
    for folder in /var/lib/cni /etc/cni/net.d; do
        [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
    done
}

# Starts those of $only that can take part: `contenders`.
start_all() {
    contenders=()
    local one
    for one in ${only//,/ }; do
        if "start_$one"; then contenders+=("$one"); else say "without $one: $why"; echo "$one: $why" >>"$work/missing"; fi
    done
    printf '%s\n' "${contenders[@]}" >"$work/contenders"
}
