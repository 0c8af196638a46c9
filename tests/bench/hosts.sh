#!/usr/bin/env bash
# nitrotap host beside the real gvproxy: the same client (nitrotap enclave), the same app, interleaved in one run, at MTU 1500
# and 65520.
#
#   tests/bench/hosts.sh [--smoke]
#
# ROUNDS (5) rounds of SECONDS_EACH (3) seconds per measurement; medians and their ratio are printed, of the speed, of the
# processor time that the gateway spent per unit, and of the 99th percentile of the response time. --smoke shows that it runs:
# one round of one second. The figures hold for this machine only, the ratios travel. Steal is the share of the run in which a
# hypervisor gave the processors to others: repeat a run with more than a few percent.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

rounds=${ROUNDS:-5}
each=${SECONDS_EACH:-3}
mtus=(1500 65520)
streams=(1 8)
connections=(1 8 64 256)
hosts=(gvproxy nitrotap)

main() {
    case "${1:-}" in
        "") ;;
        --smoke) rounds=1 each=1 streams=(1) connections=(64) ;;
        *) lab_fail "usage: tests/bench/hosts.sh [--smoke]" ;;
    esac
    lab_start iperf3 wrk nginx
    web=$(lab_port) tcp=$(lab_port)
    iperf3 --server --bind 127.0.0.1 --port "$tcp" >"$scratch/iperf3.log" 2>&1 {lab_hold}>&- &
    # The app listens as long as the namespace lives; the loopback that shows it comes with the first enclave.
    lab_gateway gvproxy
    lab_enclave
    lab_nginx 8080
    lab_stop "$enclave"
    lab_stop "$gateway"
    local steal_before round mtu host order
    steal_before=$(lab_steal)
    for ((round = 1; round <= rounds; round++)); do
        # The one that goes first changes every round, so that the machine's drift hits both alike.
        order=("${hosts[@]}")
        ((round % 2)) || order=("${hosts[1]}" "${hosts[0]}")
        for mtu in "${mtus[@]}"; do
            for host in "${order[@]}"; do
                measure
            done
        done
        echo "round $round of $rounds done" >&2
    done
    table
    lab_steal_since "$steal_before"
}

# Everything through one gateway at one MTU.
measure() {
    local n
    if [[ $host == gvproxy ]]; then lab_gateway gvproxy -mtu "$mtu"; else lab_gateway nitrotap --mtu "$mtu"; fi
    lab_enclave --mtu "$mtu"
    lab_expose "$web" 8080
    for n in "${streams[@]}"; do
        note "iperf3 out, $n streams, Gbit/s" Gbit lab_iperf3 "$tcp" "$n" "$each"
        note "iperf3 in, $n streams, Gbit/s" Gbit lab_iperf3 "$tcp" "$n" "$each" --reverse
    done
    for n in "${connections[@]}"; do
        note "wrk, $n connections, requests/s" request requests "$n"
    done
    lab_stop "$enclave"
    lab_stop "$gateway"
}

# Takes one measurement and notes speed, processor time of the gateway per gigabyte or request, and p99.
note() {
    local name=$1 unit=$2 before after speed p99
    shift 2
    before=$(ticks)
    read -r speed p99 < <("$@") || lab_fail "no figure for $name"
    # Throughput has none.
    p99=${p99:-0}
    after=$(ticks)
    awk -v OFS='\t' -v host="$host" -v mtu="$mtu" -v name="$name" -v unit="$unit" -v speed="$speed" -v p99="$p99" \
        -v each="$each" -v ticks="$((after - before))" -v hz="$(getconf CLK_TCK)" 'BEGIN {
            seconds = ticks / hz
            # Seconds per gigabyte, or microseconds per request.
            cost = unit == "Gbit" ? seconds / (speed * each / 8) : seconds * 1e6 / (speed * each)
            print host, mtu, name, speed, cost, p99 }' >>"$scratch/results"
}

ticks() {
    awk '{ print $14 + $15 }' "/proc/$gateway/stat"
}

# Requests per second, and the 99th percentile in microseconds.
requests() {
    wrk --threads "$(($1 < 2 ? 1 : 2))" --connections "$1" --duration "${each}s" --latency "http://127.0.0.1:$web/" \
        >"$scratch/wrk.log" || lab_fail "wrk failed: $(cat "$scratch/wrk.log")"
    ! grep 'Non-2xx' "$scratch/wrk.log" >&2
    awk '/99%/ { p99 = $2 ~ /us/ ? $2 + 0 : $2 ~ /ms/ ? $2 * 1000 : $2 * 1e6 } /Requests\/sec/ { print $2, p99 }' "$scratch/wrk.log"
}

table() {
    echo
    echo "gvproxy $(gvproxy -version 2>&1 | awk '{ print $NF }'), nitrotap host, client nitrotap enclave, app nginx," \
        "$(nproc) processors, medians of $rounds x $each s"
    awk -F '\t' '
        { key = $2 "\t" $3; if (!(key in seen)) { seen[key] = 1; keys[++count] = key }
          m = ++n[$1, key]; speed[$1, key, m] = $4; cost[$1, key, m] = $5; p99[$1, key, m] = $6 }
        function median(values, host, key,    i, j, m, v, sorted) {
            m = n[host, key]
            for (i = 1; i <= m; i++) {
                v = values[host, key, i]
                for (j = i - 1; j > 0 && sorted[j] > v; j--) sorted[j + 1] = sorted[j]
                sorted[j + 1] = v
            }
            return m % 2 ? sorted[(m + 1) / 2] : (sorted[m / 2] + sorted[m / 2 + 1]) / 2
        }
        function pair(values, key,    stock, ours, form) {
            stock = median(values, "gvproxy", key); ours = median(values, "nitrotap", key)
            form = stock < 100 ? " %9.2f %9.2f %6.2f" : " %9.0f %9.0f %6.2f"
            printf form, stock, ours, stock ? ours / stock : 0
        }
        END {
            printf "%-39s %26s %26s %26s\n", "", "speed", "gateway s per GB, us per req", "p99 us"
            printf "%-39s", ""
            for (i = 0; i < 3; i++) printf " %9s %9s %6s", "gvproxy", "nitrotap", "ratio"
            print ""
            for (i = 1; i <= count; i++) {
                split(keys[i], part, "\t")
                printf "%5d  %-32s", part[1], part[2]; pair(speed, keys[i]); pair(cost, keys[i])
                if (part[2] ~ /^wrk/) pair(p99, keys[i])
                print ""
            }
        }' "$scratch/results"
}

main "$@"
