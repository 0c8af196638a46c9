# nginx and `nitrotap proxy` in front of the same app, over loopback; to be sourced by bash.
#
# Sets `scratch`, the ports `app`, `nginx`, `ours` and `metrics`, `port_of` and `pid` by the name of a proxy (nginx, ours),
# and ends whatever was started with the script, by pid. The caller sets `smoke`.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Makes sure that the programs named are there, and the release binary.
proxies_need() {
    local tool
    for tool in nginx wrk curl "$@"; do
        command -v "$tool" >/dev/null || fail "no $tool found; get it with: sh tests/peers.sh tools"
    done
    [[ -n ${NITROTAP_BIN:-} ]] || (cd "$repository" && cargo build --quiet --release -p nitrotap)
}

# Makes the scratch directory and finds ports.
proxies_begin() {
    scratch=$(mktemp -d)
    chmod a+rx "$scratch"
    pids=()
    trap finish EXIT
    trap 'exit 130' INT TERM
    ulimit -n "$(ulimit -H -n)" || true
    app=$(port) nginx=$(port) ours=$(port) metrics=$(port)
    declare -gA pid port_of=([nginx]=$nginx [ours]=$ours)
}

# Starts both proxies in front of the app, nginx with these parameters of its upstream, ours with these arguments; returns
# once both answer a GET of a path with `hello`.
proxies_start() {
    local path=$1 upstream=$2
    shift 2
    start_nginx reverse <<CONF
        upstream app { $upstream }
        server {
            listen 127.0.0.1:$nginx backlog=4096;
            location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }
        }
CONF
    pid[nginx]=$!
    local binary=${NITROTAP_BIN:-${CARGO_TARGET_DIR:-$repository/target}/release/nitrotap}
    "$binary" proxy --listen "127.0.0.1:$ours" --upstream "http://127.0.0.1:$app" --workers 2 \
        --metrics "127.0.0.1:$metrics" "$@" 2>"$scratch/nitrotap.log" &
    pids+=($!)
    pid[ours]=$!
    local who tries
    for who in nginx ours; do
        for ((tries = 0; ; tries++)); do
            [[ $(curl -s "http://127.0.0.1:${port_of[$who]}$path") != hello ]] || break
            ((tries < 50)) || fail "no answer through $who: $(cat "$scratch"/*.log)"
            sleep 0.1
        done
    done
}

# Starts nginx with the http block on standard input; $! is its master.
start_nginx() {
    local paths="" kind user=""
    for kind in client_body proxy fastcgi uwsgi scgi; do
        paths+="${kind}_temp_path $scratch/$1-$kind; "
    done
    ((EUID != 0)) || user="user root;"
    cat >"$scratch/$1.conf" <<CONF
        $user
        daemon off;
        worker_processes 2;
        worker_rlimit_nofile 16384;
        pid $scratch/$1.pid;
        error_log $scratch/$1.log;
        events { worker_connections 8192; }
        http {
            access_log off;
            keepalive_requests 100000000;
            $paths
            $(cat)
        }
CONF
    nginx -e "$scratch/$1.log" -c "$scratch/$1.conf" &
    pids+=($!)
}

# The proxies in the order of a round: drift of the machine hits both alike, since the one that goes first changes.
proxies_in_turn() {
    (($1 % 2)) && echo nginx ours || echo ours nginx
}

median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        # One that was given out is not in use yet, and subshells may draw alike.
        ! grep -qsx "$port" "$scratch/ports" || continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port" | tee -a "$scratch/ports"
}

fail() {
    echo "$0: $*" >&2
    exit 2
}

# shellcheck disable=SC2317,SC2329 # The trap calls it.
finish() {
    local process
    for process in "${pids[@]}"; do kill "$process" 2>/dev/null || true; done
    for process in "${pids[@]}"; do wait "$process" 2>/dev/null || true; done
    rm -rf "$scratch"
}
