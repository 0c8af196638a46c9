#!/usr/bin/env bash
# Our frame loop beside one that moves a frame per read and write, as gvforwarder and nitriding do: the same binary with
# --frame-loop batched (its default) and single, through the real gvproxy at MTU 1500, interleaved in one run.
#
#   tests/bench/loops.sh [--smoke]
#
# ROUNDS (5) rounds of SECONDS_EACH (4) seconds per measurement; medians and their ratio are printed, of the speed and of
# the processor time that nitrotap spent per unit. --smoke shows that it runs: one round of one second. The figures hold for this machine only, the ratios travel. Steal is the share of the run
# in which a hypervisor gave the processors to others: repeat a run with more than a few percent.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

rounds=${ROUNDS:-5}
each=${SECONDS_EACH:-4}
streams=(1 8)
connections=(1 8 64 256)
loops=(single batched)

main() {
    case "${1:-}" in
        "") ;;
        --smoke) rounds=1 each=1 connections=(1 64) ;;
        *) lab_fail "usage: tests/bench/loops.sh [--smoke]" ;;
    esac
    lab_start iperf3 wrk
    web=$(lab_port) tcp=$(lab_port)
    iperf3 --server --bind 127.0.0.1 --port "$tcp" >"$scratch/iperf3.log" 2>&1 {lab_hold}>&- &
    lab_gateway
    # The app listens as long as the namespace lives; the loopback that shows it comes with the first enclave.
    lab_enclave
    serve_app
    lab_expose "$web" 8080
    lab_stop "$enclave"
    local steal_before round n
    steal_before=$(lab_steal)
    for ((round = 1; round <= rounds; round++)); do
        for n in "${streams[@]}"; do
            beside "iperf3 out, $n streams, Gbit/s" lab_iperf3 "$tcp" "$n" "$each"
            beside "iperf3 in, $n streams, Gbit/s" lab_iperf3 "$tcp" "$n" "$each" --reverse
        done
        for n in "${connections[@]}"; do
            beside "wrk, $n connections, requests/s" requests "$n"
        done
        echo "round $round of $rounds done" >&2
    done
    lab_stop "$lab_server"
    table
    lab_steal_since "$steal_before"
}

# Takes one measurement with either loop, one right after the other so that the machine's drift hits both alike; the one
# that goes first changes every round.
beside() {
    local name=$1 loop figure cost order=("${loops[@]}")
    shift
    ((round % 2)) || order=("${loops[1]}" "${loops[0]}")
    for loop in "${order[@]}"; do
        lab_enclave --frame-loop "$loop"
        figure=$("$@")
        # What nitrotap itself spent, in microseconds per megabit or request: other load on the machine moves it less.
        cost=$(awk -v hz="$(getconf CLK_TCK)" -v figure="$figure" -v each="$each" -v unit="${name##*, }" \
            '{ print ($14 + $15) / hz * 1e6 / (figure * each * (unit == "Gbit/s" ? 1000 : 1)) }' "/proc/$enclave/stat")
        printf '%s\t%s\t%s\t%s\n' "$loop" "$name" "$figure" "$cost" >>"$scratch/results"
        lab_stop "$enclave"
    done
}

# nginx with a tiny answer if there is one: it costs least beside what is measured.
serve_app() {
    if ! command -v nginx >/dev/null; then
        app="nitrotap-test-guest"
        lab_serve 8080 "$guest" http-server 0.0.0.0:8080
        return
    fi
    app=nginx
    lab_nginx 8080
}

requests() {
    wrk --threads "$(($1 < 2 ? 1 : 2))" --connections "$1" --duration "${each}s" "http://127.0.0.1:$web/" >"$scratch/wrk.log" ||
        lab_fail "wrk failed: $(cat "$scratch/wrk.log")"
    ! grep 'Non-2xx' "$scratch/wrk.log" >&2
    awk '/Requests\/sec/ { print $2 }' "$scratch/wrk.log"
}

table() {
    echo
    echo "gvproxy $(gvproxy -version 2>&1 | awk '{ print $NF }'), MTU 1500, app $app, $(nproc) processors, medians of $rounds x $each s"
    awk -F '\t' '
        !($2 in seen) { seen[$2] = 1; names[++count] = $2 }
        { m = ++n[$1, $2]; speed[$1, $2, m] = $3; cost[$1, $2, m] = $4 }
        function median(values, loop, name,    i, j, m, v, sorted) {
            m = n[loop, name]
            for (i = 1; i <= m; i++) {
                v = values[loop, name, i]
                for (j = i - 1; j > 0 && sorted[j] > v; j--) sorted[j + 1] = sorted[j]
                sorted[j + 1] = v
            }
            return m % 2 ? sorted[(m + 1) / 2] : (sorted[m / 2] + sorted[m / 2 + 1]) / 2
        }
        function pair(values, name,    one, ours, form) {
            one = median(values, "single", name); ours = median(values, "batched", name)
            form = one < 100 ? " %9.2f %9.2f %6.2f" : " %9.0f %9.0f %6.2f"
            printf form, one, ours, one ? ours / one : 0
        }
        END {
            printf "%-33s %26s %26s\n", "", "speed", "nitrotap us per Mbit, req"
            printf "%-33s %9s %9s %6s %9s %9s %6s\n", "", "single", "batched", "ratio", "single", "batched", "ratio"
            for (i = 1; i <= count; i++) {
                printf "%-33s", names[i]; pair(speed, names[i]); pair(cost, names[i]); print ""
            }
        }' "$scratch/results"
}

main "$@"
