#!/usr/bin/env bash
# Connections that are closed as fast as they are opened, by the end in the enclave first, until its ports have gone round.
#
#   tests/soak/churn.sh [CONNECTIONS]      60000 by default
#
# To a published port whose server closes first, with `net.ipv4.tcp_tw_reuse` off and on, and out of an enclave that closes
# first and has it on. $HOST_KIND (nitrotap) may be gvproxy. Prints what each did; fails if a connection failed or took longer
# than 100 ms.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

connections=${1:-60000}

lab_start
published=$(lab_port) outside=$(lab_port)
lab_gateway "${HOST_KIND:-nitrotap}"
lab_enclave
lab_serve 7007 "$guest" churn-server 0.0.0.0:7007
lab_expose "$published" 7007
"$guest" churn-server "127.0.0.1:$outside" >"$scratch/outside.log" 2>&1 {lab_hold}>&- &

reuse() {
    inside sh -c "echo $1 > /proc/sys/net/ipv4/tcp_tw_reuse"
}

result=0
try() {
    echo -n "$1: "
    shift
    "$@" || result=1
}
reuse 0
try "in, the enclave closes first" "$guest" churn "127.0.0.1:$published" "$connections" server
reuse 1
try "in, the same with tcp_tw_reuse" "$guest" churn "127.0.0.1:$published" "$connections" server
try "out, the same with tcp_tw_reuse" inside "$guest" churn "$HOST:$outside" "$connections" client
exit $result
