#!/usr/bin/env bash
# What else gives a network namespace a network without privileges, beside nitrotap, in one run: throughput both ways and
# requests per second.
#
#   tests/bench/rivals.sh [--smoke] [ROW...]
#
# Rows:
#   go-pair      one frame per read and write, as gvforwarder and nitriding do, through gvproxy at MTU 1500
#                at MTU 65520: go-pair-65520
#   stock-1500   nitrotap enclave through gvproxy at MTU 1500         stock-65520  the same at MTU 65520
#   ours-1500    nitrotap enclave through nitrotap host at MTU 1500   ours-65520   the same at MTU 65520
#   kernel-1500  no gateway: two kernels' TCP, TAPs with offload and a stream between, as a gateway made of the kernel's TCP
#                would do at best; iperf3 and wrk are in the far namespace       kernel-65520 the same at MTU 65520
#   slirp4netns  one process, no stream between
#   pasta        one process, no stream between, through its TAP      pasta-splice socket to socket, past the TAP
#   relay        haproxy at both ends of a unix stream: TCP ends there, no TAP; the ceiling of everything with a stream
#
# "out" leaves the namespace, "in" enters it through a published port. ROUNDS (5) rounds of SECONDS_EACH (2) seconds per
# measurement, rows interleaved; medians, and their ratios to ours-65520. --smoke shows that it runs: one round of one second.
# The figures hold for this machine only, the ratios travel. Steal is the share of the run in which a hypervisor gave the
# processors to others: repeat a run with more than a few percent.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

rounds=${ROUNDS:-5}
each=${SECONDS_EACH:-2}
streams=(1 8)
all_rows=(go-pair go-pair-65520 stock-1500 stock-65520 ours-1500 ours-65520 kernel-1500 kernel-65520 slirp4netns pasta pasta-splice relay)
# The world is a namespace too: pasta tells an outside address from the loopback, and takes the loopback past its TAP.
WORLD=192.0.2.1
WORLD_GATEWAY=192.0.2.2

main() {
    if [[ ${NITROTAP_BENCH_WORLD:-} != yes ]]; then
        for program in pasta slirp4netns haproxy; do
            command -v "$program" >/dev/null || lab_fail "no $program found; get it with: sh tests/peers.sh rivals"
        done
        (cd "$lab_repository" && cargo build --quiet --release -p nitrotap -p nitrotap-tests --bins)
        export NITROTAP_BIN=${NITROTAP_BIN:-$lab_target/release/nitrotap} NITROTAP_BENCH_WORLD=yes
        export NITROTAP_TEST_GUEST=${NITROTAP_TEST_GUEST:-$lab_target/release/nitrotap-test-guest}
        exec unshare --user --map-root-user --net --mount bash "${BASH_SOURCE[0]}" "$@"
    fi
    rows=()
    while (($#)); do
        case $1 in
            --smoke) rounds=1 each=1 streams=(1) ;;
            *)
                [[ " ${all_rows[*]} " == *" $1 "* ]] || lab_fail "no row $1; there are: ${all_rows[*]}"
                rows+=("$1")
                ;;
        esac
        shift
    done
    ((${#rows[@]})) || rows=("${all_rows[@]}")
    ip link set lo up
    ip link add world0 type veth peer name world1
    ip address add "$WORLD/24" dev world0
    ip link set world0 up
    ip link set world1 up
    ip route add default via "$WORLD_GATEWAY"

    lab_start iperf3 wrk nginx ip pasta slirp4netns haproxy
    lab_holder=$holder
    tcp=$(lab_port)
    iperf3 --server --bind 127.0.0.1 --port "$tcp" >"$scratch/iperf3.log" 2>&1 {lab_hold}>&- &
    local steal_before round row
    steal_before=$(lab_steal)
    for ((round = 1; round <= rounds; round++)); do
        for row in "${rows[@]}"; do
            measure
        done
        echo "round $round of $rounds done" >&2
    done
    table
    lab_steal_since "$steal_before"
}

# Every row leaves behind: `holder`, whose namespace has the servers; `host`, the world's loopback as seen from there; `at`,
# where the world finds what is published; `ends`, what to end afterwards. `outside` leads to the world's clients if they are
# in another namespace.
measure() {
    local n
    outside=() ends=() at=127.0.0.1 host=$HOST holder=$lab_holder
    # Not the ones of the row before: its connections linger there.
    published=$(lab_port) web=$(lab_port)
    case $row in
        go-pair) tunnel gvproxy 1500 --frame-loop single ;;
        go-pair-*) tunnel gvproxy "${row##*-}" --frame-loop single ;;
        stock-*) tunnel gvproxy "${row#*-}" ;;
        ours-*) tunnel nitrotap "${row#*-}" ;;
        kernel-*) kernel "${row#*-}" ;;
        slirp4netns) slirp ;;
        pasta) at=$WORLD pasta_start ;;
        pasta-splice) pasta_start ;;
        relay) relay ;;
    esac
    for n in "${streams[@]}"; do
        # Past the TAP there is a way in only.
        [[ $row == pasta-splice ]] || note "out $n" gigabits inside iperf3 --client "$host" --port "$tcp" --parallel "$n" --time "$each" --json
        note "in $n" gigabits "${outside[@]}" iperf3 --client "$at" --port "$published" --parallel "$n" --time "$each" --json
    done
    note "req/s 64" requests
    for n in "${ends[@]}"; do
        lab_stop "$n"
    done
}

# What is in the namespace: an app, and an iperf3 that the world can reach.
serve() {
    lab_serve 7000 iperf3 --server --port 7000
    ends=("$lab_server" "${ends[@]}")
    lab_nginx 8080
    ends=("$lab_server" "${ends[@]}")
}

tunnel() {
    local kind=$1 mtu=$2
    shift 2
    if [[ $kind == gvproxy ]]; then lab_gateway gvproxy -mtu "$mtu"; else lab_gateway nitrotap --mtu "$mtu"; fi
    lab_enclave --mtu "$mtu" "$@"
    ends=("$enclave" "$gateway")
    serve
    lab_expose "$published" 7000
    lab_expose "$web" 8080
}

# Another namespace, held by a process.
namespace() {
    unshare --user --map-root-user --net --mount sleep 3600 2>"$scratch/holder.log" {lab_hold}>&- &
    holder=$!
    until [[ $(readlink "/proc/$holder/ns/net" 2>/dev/null) != "$(readlink /proc/self/ns/net)" ]]; do
        kill -0 "$holder" 2>/dev/null || lab_fail "cannot make a namespace: $(cat "$scratch/holder.log")"
        sleep 0.01
    done
    ends=("$holder" "${ends[@]}")
}

# Both ends are namespaces, and the world's programs are in the far one.
kernel() {
    local mtu=$1 far pipe=$scratch/pipe.sock
    rm -f "$pipe"
    namespace
    far=$holder
    outside=(nsenter --target "$far" --user --net --mount --preserve-credentials --)
    pipe_end "$mtu" --listen
    lab_serve "$tcp" iperf3 --server --port "$tcp"
    ends=("$lab_server" "${ends[@]}")
    namespace
    pipe_end "$mtu" --connect
    serve
    host=$GATEWAY at=$ENCLAVE published=7000 web=8080
}

pipe_end() {
    local mtu=$1 how=$2 log=$scratch/pipe$2.log
    rm -f "$log"
    enter "$nitrotap" bench-agent pipe "$how" "unix://$pipe" --tap tap0 --mtu "$mtu" >"$log" 2>&1 &
    ends=("$!" "${ends[@]}")
    until_there "the end of the stream" grep ready "$log"
}

slirp() {
    local api=$scratch/slirp.sock port
    namespace
    rm -f "$api"
    slirp4netns --configure --mtu=65520 --api-socket "$api" "$holder" tap0 >"$scratch/slirp.log" 2>&1 {lab_hold}>&- &
    ends=("$!" "${ends[@]}")
    until_there "slirp4netns" inside ip link show tap0 up
    host=10.0.2.2
    serve
    for port in "$published:7000" "$web:8080"; do
        perl -MIO::Socket::UNIX -e '
            my $api = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n";
            print $api qq({"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":$ARGV[1],"guest_port":$ARGV[2]}});
            shutdown $api, 1;
            my $answer = join "", <$api>;
            die "$answer\n" if $answer =~ /error/' "$api" "${port%:*}" "${port#*:}" || lab_fail "slirp4netns publishes nothing"
    done
}

pasta_start() {
    pasta --foreground --config-net --tcp-ports "$published:7000,$web:8080" --tcp-ns none --udp-ports none --udp-ns none -- \
        sleep 3600 >"$scratch/pasta.log" 2>&1 {lab_hold}>&- &
    ends=("$!")
    until_there "pasta" pgrep --parent "$!" sleep
    holder=$(pgrep --parent "$!" sleep)
    ends=("$holder" "${ends[@]}")
    until_there "pasta" inside ip route show default
    host=$WORLD_GATEWAY
    serve
}

relay() {
    local side
    namespace
    inside ip link set lo up
    host=127.0.0.1
    for side in inner outer; do
        {
            printf 'global\n maxconn 4096\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n'
            if [[ $side == inner ]]; then
                forward out "127.0.0.1:$tcp" "unix@$scratch/relay-out"
                forward in "unix@$scratch/relay-in" 127.0.0.1:7000
                forward web "unix@$scratch/relay-web" 127.0.0.1:8080
            else
                forward out "unix@$scratch/relay-out" "127.0.0.1:$tcp"
                forward in "127.0.0.1:$published" "unix@$scratch/relay-in"
                forward web "127.0.0.1:$web" "unix@$scratch/relay-web"
            fi
        } >"$scratch/haproxy-$side.cfg"
    done
    serve
    enter haproxy -db -f "$scratch/haproxy-inner.cfg" >"$scratch/haproxy-inner.log" 2>&1 &
    ends=("$!" "${ends[@]}")
    haproxy -db -f "$scratch/haproxy-outer.cfg" >"$scratch/haproxy-outer.log" 2>&1 {lab_hold}>&- &
    ends=("$!" "${ends[@]}")
    until_there haproxy curl --silent --max-time 1 "http://127.0.0.1:$web/"
}

forward() {
    printf 'listen %s\n bind %s\n server one %s\n' "$1" "$2" "$3"
}

# Waits until a command succeeds and says something.
until_there() {
    local what=$1 tries=0
    shift
    until [[ -n $("$@" 2>/dev/null) ]]; do
        ((++tries < 500)) || lab_fail "$what does not come up: $(tail -n 3 "$scratch"/*.log)"
        sleep 0.02
    done
}

# Takes one measurement.
note() {
    local name=$1 figure
    shift
    figure=$("$@") || lab_fail "$row: no figure for $name"
    printf '%s\t%s\t%s\n' "$row" "$name" "$figure" >>"$scratch/results"
}

# What arrived, in Gbit/s; an iperf3 server needs a moment between two clients.
gigabits() {
    local tries
    for tries in 1 2 3 4 5; do
        if "$@" >"$scratch/iperf3.json" 2>"$scratch/iperf3.err"; then
            awk '/"sum_received"/ { found = 1 } found && /"bits_per_second"/ { gsub(/[^0-9.e+]/, "", $2); print $2 / 1e9; exit }' \
                "$scratch/iperf3.json"
            return
        fi
        sleep 0.5
    done
    lab_fail "iperf3 failed after $tries tries: $(tail -n 3 "$scratch/iperf3.json" "$scratch/iperf3.err")"
}

requests() {
    "${outside[@]}" wrk --threads 2 --connections 64 --duration "${each}s" --latency "http://$at:$web/" >"$scratch/wrk.log" ||
        lab_fail "wrk failed: $(cat "$scratch/wrk.log")"
    awk '/Requests\/sec/ { print $2 }' "$scratch/wrk.log"
}

table() {
    echo
    echo "gvproxy $(gvproxy -version 2>&1 | awk '{ print $NF }'), $(slirp4netns --version | head -n 1)," \
        "$(pasta --version | head -n 1), $(haproxy -v | awk 'NR == 1 { print $1, $3 }'), $(nproc) processors," \
        "medians of $rounds x $each s; in brackets: times what ours-65520 does"
    awk -F '\t' -v rows="${rows[*]}" '
        { m = ++n[$1, $2]; value[$1, $2, m] = $3; if (!($2 in seen)) { seen[$2] = 1; names[++count] = $2 } }
        function median(row, name,    i, j, m, v, sorted) {
            m = n[row, name]
            for (i = 1; i <= m; i++) {
                v = value[row, name, i]
                for (j = i - 1; j > 0 && sorted[j] > v; j--) sorted[j + 1] = sorted[j]
                sorted[j + 1] = v
            }
            return m % 2 ? sorted[(m + 1) / 2] : (sorted[m / 2] + sorted[m / 2 + 1]) / 2
        }
        END {
            printf "%-14s", ""
            for (i = 1; i <= count; i++) printf " %16s", names[i] (names[i] ~ /^(in|out)/ ? " Gbit/s" : "")
            print ""
            all = split(rows, row, " ")
            for (r = 1; r <= all; r++) {
                printf "%-14s", row[r]
                for (i = 1; i <= count; i++) {
                    if (!n[row[r], names[i]]) { printf " %16s", "-"; continue }
                    v = median(row[r], names[i]); ours = n["ours-65520", names[i]] ? median("ours-65520", names[i]) : 0
                    printf " %8s %7s", sprintf(v < 1000 ? "%.2f" : "%d", v), ours ? sprintf("(%.2f)", v / ours) : ""
                }
                print ""
            }
        }' "$scratch/results"
}

main "$@"
