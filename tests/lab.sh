# A pseudo-enclave for scripts, to be sourced by bash: namespaces, a gateway, `nitrotap enclave`, and an app inside.
#
# The caller runs `lab_start`; whatever is started ends with the script, by pid. Traffic stays on the loopback and in the
# namespace. Programs inside reach the machine's loopback as $HOST; the machine reaches ports inside with `lab_expose`.

GATEWAY=192.168.127.1
HOST=192.168.127.254
ENCLAVE=192.168.127.2
METRICS=127.0.0.1:9100

lab_repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lab_target=${CARGO_TARGET_DIR:-$lab_repository/target}
export PATH=${NITROTAP_PEERS:-$lab_repository/target/peers}:$PATH

# Finds or builds everything and makes the namespaces. Arguments: further programs that are needed.
lab_start() {
    local program
    for program in gvproxy unshare nsenter curl "$@"; do
        command -v "$program" >/dev/null || lab_fail "no $program found; get it with: sh tests/peers.sh all"
    done
    if [[ -z ${NITROTAP_BIN:-} || -z ${NITROTAP_TEST_GUEST:-} ]]; then
        (cd "$lab_repository" && cargo build --quiet --release -p nitrotap -p nitrotap-tests --bins)
    fi
    nitrotap=${NITROTAP_BIN:-$lab_target/release/nitrotap}
    guest=${NITROTAP_TEST_GUEST:-$lab_target/release/nitrotap-test-guest}

    scratch=$(mktemp -d)
    socket=$scratch/net.sock
    trap lab_end EXIT
    trap 'exit 130' INT TERM
    # The holder of the namespaces ends when this script's end of the pipe is closed, however that comes.
    mkfifo "$scratch/hold"
    unshare --user --map-root-user --net --mount sh -c 'exec cat >/dev/null' <"$scratch/hold" 2>"$scratch/holder.log" &
    holder=$!
    exec {lab_hold}>"$scratch/hold"
    until [[ $(readlink "/proc/$holder/ns/net" 2>/dev/null) != "$(readlink /proc/self/ns/net)" ]]; do
        kill -0 "$holder" 2>/dev/null || lab_fail "cannot make namespaces: $(cat "$scratch/holder.log")"
        sleep 0.01
    done
}

lab_fail() {
    echo "$*" >&2
    exit 1
}

# Runs a program inside.
inside() {
    (enter "$@")
}

# Runs a program inside in place of this shell: behind `&`, `$!` is then the program itself.
enter() {
    exec nsenter --target "$holder" --user --net --mount --preserve-credentials -- "$@" {lab_hold}>&-
}

# Starts a gateway, gvproxy or nitrotap, with further arguments, and returns once it listens.
lab_gateway() {
    local kind=${1:-gvproxy}
    shift $(($# > 0))
    rm -f "$socket" "$scratch/services.sock"
    case $kind in
        gvproxy)
            services=$socket
            gvproxy -listen "unix://$socket" -ssh-port -1 "$@" >>"$scratch/gateway.log" 2>&1 {lab_hold}>&- &
            ;;
        nitrotap)
            services=$scratch/services.sock
            "$nitrotap" host --listen "unix://$socket" --services "unix://$services" --allow-host-loopback "$@" \
                >>"$scratch/gateway.log" 2>&1 {lab_hold}>&- &
            ;;
    esac
    gateway=$!
    until lab_ask /services/forwarder/all >/dev/null 2>&1; do
        kill -0 "$gateway" 2>/dev/null || lab_fail "the gateway ended: $(cat "$scratch/gateway.log")"
        sleep 0.02
    done
}

lab_ask() {
    curl --silent --show-error --fail-with-body --max-time 5 --unix-socket "$services" "http://gateway$@"
}

# Makes port $1 of the machine's loopback lead to port $2 inside.
lab_expose() {
    local answer
    answer=$(lab_ask /services/forwarder/expose --data \
        "{\"local\":\"127.0.0.1:$1\",\"remote\":\"$ENCLAVE:$2\",\"protocol\":\"tcp\"}") ||
        lab_fail "the gateway does not expose port $1: $answer"
}

# Starts `nitrotap enclave` with further arguments and returns once its link is up.
lab_enclave() {
    enter "$nitrotap" enclave --host "unix://$socket" --metrics "$METRICS" --resolv-conf "$scratch/resolv.conf" "$@" \
        >>"$scratch/nitrotap.log" 2>&1 &
    enclave=$!
    lab_until_up
}

lab_until_up() {
    local tries=0
    until [[ $(lab_metric nitrotap_link_up) == 1 ]]; do
        lab_enclave_runs
        ((++tries < 3000)) || lab_fail "no link after half a minute: $(tail -n 3 "$scratch/nitrotap.log")"
        sleep 0.01
    done
}

lab_enclave_runs() {
    kill -0 "$enclave" 2>/dev/null || lab_fail "nitrotap ended: $(tail -n 5 "$scratch/nitrotap.log")"
}

# All metrics, as they are now.
lab_metrics() {
    inside "$guest" http-get "http://$METRICS/metrics" 2>/dev/null
}

# The sum of all series of a name, or the one of a name with labels.
lab_metric() {
    { lab_metrics || true; } | lab_sum "$1"
}

lab_sum() {
    awk -v name="$1" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { print sum + 0 }'
}

# Starts a server inside and returns once it accepts connections on a port of the enclave.
lab_serve() {
    local port=$1 tries=0
    shift
    enter "$@" >>"$scratch/server-$port.log" 2>&1 &
    lab_server=$!
    until inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2>/dev/null; do
        ((++tries < 500)) || lab_fail "nothing listens on port $port inside: $(tail -n 3 "$scratch/server-$port.log")"
        sleep 0.02
    done
}

# Starts nginx with a tiny answer, which costs least beside what is measured, on a port of the enclave.
lab_nginx() {
    mkdir -p "$scratch/nginx"
    cat >"$scratch/nginx/nginx.conf" <<TEXT
daemon off; user root; worker_processes 1; pid $scratch/nginx/pid; error_log $scratch/nginx/error.log;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path $scratch/nginx; proxy_temp_path $scratch/nginx; fastcgi_temp_path $scratch/nginx;
    uwsgi_temp_path $scratch/nginx; scgi_temp_path $scratch/nginx;
    server { listen $1 backlog=4096; location / { return 200 "hello\n"; } }
}
TEXT
    lab_serve "$1" nginx -c "$scratch/nginx/nginx.conf" -e "$scratch/nginx/error.log"
}

# Gbit/s that arrive between the enclave and an iperf3 on port $1 of the machine's loopback, over $2 streams for $3 seconds;
# further arguments are the client's.
lab_iperf3() {
    local port=$1 streams=$2 seconds=$3
    shift 3
    # Its server needs a moment between two clients.
    for _ in 1 2 3 4 5; do
        if inside iperf3 --client "$HOST" --port "$port" --parallel "$streams" --time "$seconds" --json "$@" \
            >"$scratch/iperf3.json"; then
            # What arrived, whichever way it went: the last total of the report.
            awk '/"sum_received"/ { found = 1 } found && /"bits_per_second"/ { gsub(/[^0-9.e+]/, "", $2); print $2 / 1e9; exit }' \
                "$scratch/iperf3.json"
            return
        fi
        sleep 0.5
    done
    lab_fail "iperf3 failed: $(tail -n 3 "$scratch/iperf3.json")"
}

# Ticks stolen by a hypervisor, and ticks in all; and what came of them since an earlier look.
lab_steal() {
    awk '$1 == "cpu" { for (i = 2; i <= 9; i++) all += $i; print $9, all }' /proc/stat
}

lab_steal_since() {
    awk -v a="$1" -v b="$(lab_steal)" 'BEGIN {
        split(a, x); split(b, y); all = y[2] - x[2]
        printf "steal during the run: %.1f %%\n", all ? 100 * (y[1] - x[1]) / all : 0 }'
}

# A port of the loopback that is free now, below those that the kernel hands out by itself.
lab_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        # One that was given out is not in use yet, and subshells may draw alike.
        ! grep -qsx "$port" "$scratch/ports" || continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port" | tee -a "$scratch/ports"
}

# Ends a process started here and waits for it.
lab_stop() {
    kill "${2:--TERM}" "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

lab_end() {
    local status=$? own pid
    trap - EXIT
    set +e
    # The shell would tell of everything that is killed here.
    exec 2>/dev/null
    own=$(readlink "/proc/$holder/ns/net")
    if [[ -n $own && $own != "$(readlink /proc/self/ns/net)" ]]; then
        for pid in /proc/[0-9]*; do
            [[ $(readlink "$pid/ns/net" 2>/dev/null) == "$own" ]] && kill -KILL "${pid#/proc/}" 2>/dev/null
        done
    fi
    for pid in $(jobs -p); do
        kill -KILL "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf "$scratch"
    exit "$status"
}
