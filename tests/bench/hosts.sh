# The hosts of `network`, each a network namespace: one with netd, one for each docker, one where the kernel does
# nothing but route; the LAN that they are all on; and what runs there. Sourced; `root` and `work` are set.

# A process in each namespace; where a contender's port is reached; who asks which resolver.
declare -A ns address resolver server
peers_here=()

# Sets `bin`, where the release programs are; builds them unless $1 is 0.
network_programs() { # BUILD
    bin=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/release
    if [ "$1" = 1 ]; then
        (cd "$root" && cargo build --release --locked -p netd -p slipway-traffic) || fail "the programs do not build"
    fi
    [ -x "$bin/netd" ] && [ -x "$bin/slipway-traffic" ] || fail "netd or slipway-traffic is missing in $bin: run me without --no-build"
    export bin
}

missing() { say "without $1: $why"; echo "$1: $why" >>"$work/missing"; }

# --- namespaces -------------------------------------------------------------------------------------------

namespace() { # NAME
    local left
    unshare --net sleep infinity &
    ns[$1]=$!
    for ((left = 1000; left > 0; left--)); do
        [ "$(readlink "/proc/${ns[$1]}/ns/net")" = "$(readlink /proc/self/ns/net)" ] || break
        sleep 0.01
    done
    inside "$1" ip link set lo up
}
close_namespace() { # NAME
    end_process "${ns[$1]}"
    unset "ns[$1]"
}
inside() { nsenter --net="/proc/${ns[$1]}/ns/net" "${@:2}"; } # NAME COMMAND...
# The same for the background: the command itself is the process that $! names.
instead() { exec nsenter --net="/proc/${ns[$1]}/ns/net" "${@:2}"; } # NAME COMMAND...

end_process() { # PID
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# Two ends of a cable.
connect() { # NAMESPACE LINK ADDRESS NAMESPACE LINK ADDRESS
    ip link add "wire-a" netns "${ns[$1]}" type veth peer name "wire-b" netns "${ns[$4]}"
    inside "$1" ip link set wire-a name "$2" up
    inside "$4" ip link set wire-b name "$5" up
    inside "$1" ip address add "$3/24" dev "$2"
    inside "$4" ip address add "$6/24" dev "$5"
}

# A host on the LAN; its address there is 10.9.NUMBER.1, that of the LAN's client 10.9.NUMBER.2.
begin_host() { # NAME NUMBER
    [ -n "${ns[lan]-}" ] || namespace lan
    namespace "$1"
    connect "$1" lan0 "10.9.$2.1" lan "to$2" "10.9.$2.2"
    address[$1]=10.9.$2.1
}
end_host() { # NAME
    # The other end is to be gone as well: the kernel takes its time with a namespace.
    inside "$1" ip link delete lan0
    close_namespace "$1"
}

# What a published port leads to in that many steps when nobody translates: the kernel routes, and one pair is inside.
begin_plain() {
    begin_host plain 4
    namespace container_plain
    connect plain inner 10.8.0.1 container_plain eth0 10.8.0.2
    inside container_plain ip route add default via 10.8.0.1
    inside lan ip route add 10.8.0.0/24 via 10.9.4.1
    inside plain sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    address[plain]=10.8.0.2
}
end_plain() {
    close_namespace container_plain
    end_host plain
}

# What any published port on a bridge costs: a bridge, and one rule that translates. No address is looked at, no network
# kept from another.
begin_bare() {
    why="nft is not installed (Debian: nftables)"
    command -v nft >/dev/null || return 1
    begin_host bare 5
    namespace container_bare
    inside bare ip link add bridge0 type bridge
    inside bare ip address add 10.7.0.1/24 dev bridge0
    inside bare ip link set bridge0 up
    connect bare inner 10.7.1.1 container_bare eth0 10.7.0.2
    inside bare ip address flush dev inner
    inside bare ip link set inner master bridge0
    inside container_bare ip route add default via 10.7.0.1
    inside bare sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    local hook
    inside bare nft add table ip bare
    for hook in prerouting output; do
        inside bare nft "add chain ip bare $hook { type nat hook $hook priority -100; }"
        inside bare nft add rule ip bare "$hook" ip daddr "${address[bare]}" tcp dport "$first_port" dnat to 10.7.0.2
    done
}
end_bare() {
    [ -n "${ns[bare]-}" ] || return 0
    close_namespace container_bare
    end_host bare
}

# --- netd -------------------------------------------------------------------------------------------------

start_netd() { # SETTING...
    local left
    netd=$SLIPWAY_RUN_DIR/netd.sock
    rm -rf "${SLIPWAY_STATE_DIR:?}" "${SLIPWAY_RUN_DIR:?}"
    mkdir -p "$SLIPWAY_CONFIG_DIR"
    printf '%s\n' "$@" >"$SLIPWAY_CONFIG_DIR/netd.toml"
    instead slipway "$bin/netd" >>"$work/netd.log" 2>&1 &
    netd_pid=$!
    for ((left = 3000; left > 0; left--)); do
        ! traffic ready "$netd" >/dev/null 2>&1 || return 0
        kill -0 "$netd_pid" 2>/dev/null || break
        sleep 0.01
    done
    fail "netd does not start: $(tail -n 5 "$work/netd.log")"
}
stop_netd() {
    end_process "$netd_pid"
    # Its links and rules stay without it.
    inside slipway sh -c 'for link in /proc/sys/net/ipv4/conf/slipway*; do ip link delete "${link##*/}"; done' 2>/dev/null || true
}

traffic() { inside slipway "$bin/slipway-traffic" "$@"; }

# --- who publishes ports ----------------------------------------------------------------------------------
# Each sets `took`, microseconds: of a port where they are published, and of all where they are withdrawn.

publish_slipway() { # COUNT
    namespace container_slipway
    took=$(traffic publish "$netd" --netns "/proc/${ns[container_slipway]}/ns/net" --name bench --ports "$1" --first "$first_port" --calls 1) ||
        fail "netd does not publish $1 ports: $(tail -n 5 "$work/netd.log")"
}
withdraw_slipway() {
    took=$(traffic withdraw "$netd" --name bench)
    close_namespace container_slipway
}

# docker with its process for each port, as it is configured unless something else is said, and without.
begin_peers() {
    peers_here=()
    local one number=2
    for one in docker docker-direct; do
        begin_host "$one" "$number"
        peer=(nsenter "--net=/proc/${ns[$one]}/ns/net")
        local proxy=true
        [ "$one" = docker ] || proxy=false
        if start_dockerd "$one" "{\"userland-proxy\":$proxy}"; then
            peers_here+=("$one")
            base_of "$one"
        else
            missing "$one"
        fi
        number=$((number + 1))
    done
}
end_peers() {
    stop_contenders
    dockerd_pids=()
    local one
    for one in docker docker-direct; do [ -z "${ns[$one]-}" ] || end_host "$one"; done
    rm -rf "$work/docker" "$work/docker-direct"
}

declare -A base
# What a container without ports takes, so that what the ports take can be told.
base_of() { # NAME
    local number begun
    for number in 1 2 3; do
        begun=${EPOCHREALTIME/./}
        run_docker "$1"
        base[$1]=$((${EPOCHREALTIME/./} - begun))
        docker_at "$1" rm -f bench >/dev/null
    done
}
run_docker() { # NAME OPTION...
    docker_at "$1" run -d --name bench "${@:2}" busybox busybox sleep 86400 >"$work/output" 2>&1 || fail "$1: $(cat "$work/output")"
}
publish_with_docker() { # NAME COUNT
    local begun last=$((first_port + $2 - 1)) range=$first_port options=() ports=$(($2 + 1))
    if [ "$2" -gt 1 ]; then
        range+=-$last ports=$(($2 + 2))
        options=(-p "$last:$last/udp")
    fi
    options+=(-p "$range:$range/tcp" -p "$first_port:$first_port/udp")
    begun=${EPOCHREALTIME/./}
    run_docker "$1" "${options[@]}"
    took=$(awk -v t=$((${EPOCHREALTIME/./} - begun - base[$1])) -v n="$ports" 'BEGIN { printf "%.1f", (t < 0 ? 0 : t) / n }')
    ns[container_$1]=$(docker_at "$1" inspect --format '{{.State.Pid}}' bench)
}
withdraw_with_docker() { # NAME
    local begun=${EPOCHREALTIME/./}
    docker_at "$1" rm -f bench >/dev/null
    took=$((${EPOCHREALTIME/./} - begun))
    unset "ns[container_$1]"
}
publish_docker() { publish_with_docker docker "$@"; }
withdraw_docker() { withdraw_with_docker docker; }
publish_docker-direct() { publish_with_docker docker-direct "$@"; }
withdraw_docker-direct() { withdraw_with_docker docker-direct; }

# --- what runs in their containers ------------------------------------------------------------------------

# Clients and servers have a processor each, as different hosts have. Who waits for every answer shares the server's: a
# round is then the work of both and of what is between them, and not how long the machine takes to wake a processor.
# Left alone, the scheduler would choose one or the other from moment to moment.
if [ "$(nproc)" -gt 1 ]; then
    processors=$(awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status)
    client=(taskset -c "${processors%%[-,]*}") servers=(taskset -c "${processors##*[-,]}")
else
    client=() servers=()
fi

# What a client does.
asking() { # NAMESPACE ARGUMENT...
    local place=("${client[@]}")
    [ "$2" = rate ] || [ "$2" = stream ] || place=("${servers[@]}")
    inside "$1" "${place[@]}" "$bin/slipway-traffic" "${@:2}"
}

serve_in() { # CONTENDER PORT...
    local left
    rm -f "$work/serving-$1"
    instead "container_$1" "${servers[@]}" "$bin/slipway-traffic" serve "${@:2}" >"$work/serving-$1" 2>&1 &
    server[$1]=$!
    for ((left = 1000; left > 0; left--)); do
        ! grep -qs ready "$work/serving-$1" || return 0
        sleep 0.01
    done
    fail "nothing serves for $1: $(cat "$work/serving-$1")"
}
stop_serving() { # CONTENDER
    end_process "${server[$1]}"
    unset "server[$1]"
}

# --- resolvers --------------------------------------------------------------------------------------------

# What all of them ask for names that they do not know: on the LAN, it knows everything.
start_upstream() {
    echo "nameserver 10.9.1.2" >"$work/resolv.conf"
    # Where aardvark-dns looks.
    echo "nameserver 10.9.4.2" >"$work/resolv.conf.plain"
    mount --bind "$work/resolv.conf.plain" /etc/resolv.conf
    command -v dnsmasq >/dev/null || fail "dnsmasq is missing (Debian: dnsmasq-base): it is also the resolver that all others ask"
    dnsmasq_in lan upstream --listen-address=10.9.1.2,10.9.4.2 --address=/test/192.0.2.9 --local-ttl=600 --no-hosts
}
dnsmasq_in() { # NAMESPACE NAME OPTION...
    instead "$1" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --no-resolv --bind-interfaces --log-facility=- "${@:3}" >"$work/$2.log" 2>&1 &
    server[$2]=$!
}
start_dnsmasq() {
    echo "10.8.0.2 web" >"$work/names"
    dnsmasq_in plain dnsmasq --listen-address=10.8.0.1 --no-hosts --addn-hosts="$work/names" --server=10.9.4.2 --cache-size=1000
    resolver[dnsmasq]=10.8.0.1:53
    answers_names dnsmasq
}
start_aardvark() {
    local program=/usr/lib/podman/aardvark-dns
    why="aardvark-dns is not installed (Debian: aardvark-dns)"
    [ -x "$program" ] || return 1
    mkdir -p "$work/aardvark"
    printf '10.8.0.1\n%064d 10.8.0.2  web\n' 1 >"$work/aardvark/bench"
    # It goes to the background by itself.
    inside plain "$program" --config "$work/aardvark" --port 5353 run >"$work/aardvark.log" 2>&1
    server[aardvark]=$(cat "$work/aardvark/aardvark.pid")
    resolver[aardvark]=10.8.0.1:5353
    answers_names aardvark
}
answers_names() { # NAME
    local left
    for ((left = 50; left > 0; left--)); do
        ! inside container_plain "$bin/slipway-traffic" dns "${resolver[$1]}" --name web --seconds 0 >/dev/null 2>&1 || return 0
        kill -0 "${server[$1]}" 2>/dev/null || break
        sleep 0.1
    done
    why="$1 does not answer: $(tail -n 1 "$work/$1.log")"
    unset "resolver[$1]"
    return 1
}
stop_resolvers() {
    local one
    for one in upstream dnsmasq aardvark; do
        [ -z "${server[$one]-}" ] || end_process "${server[$one]}"
        unset "server[$one]"
    done
    umount /etc/resolv.conf
}

# All processes end with their namespace; mounts of dockerd stand in the way of its folders.
stop_hosts() { stop_contenders; }
