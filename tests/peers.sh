#!/bin/sh
# Obtains the programs nitrotap is tested against. Nothing but packages asked for by name touches the system:
# what can be unpacked instead of installed goes into the peers directory. See usage() below.
set -eu

usage() {
    cat <<'TEXT'
usage: tests/peers.sh gvproxy|vm|tools|rivals|all

  gvproxy  the host gateway enclaves use today
  vm       what the microVM test boots: qemu, a kernel with its vsock modules, a static busybox,
           vhost-device-vsock (built with cargo); x86_64 only
  tools    curl, iperf3, wrk, nginx, slowhttptest, ping, ip, ps
  rivals   what tests/bench/rivals.sh compares with: pasta, slirp4netns, haproxy
  all      everything above

Files go into $NITROTAP_PEERS, by default target/peers of this repository. What is there already is kept, so a second
run does nothing. System packages (qemu and the tools) are installed with apt-get when run as root; anyone else is
shown the command.

  NITROTAP_PEERS       where to put (and look for) the peers
  NITROTAP_KERNEL_DEB  a Debian or Ubuntu kernel package to use for the microVM instead of fetching Debian's
TEXT
}

main() {
    case "${1:-}" in
        gvproxy | vm | tools | rivals) "get_$1" ;;
        all) get_gvproxy; get_vm; get_tools; get_rivals ;;
        -h | --help | help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    say "$1: ready in $peers"
}

get_gvproxy() {
    [ -x "$peers/gvproxy" ] && return
    if found=$(find_gvproxy); then
        say "gvproxy: using $found"
        ln -sf "$found" "$peers/gvproxy"
        return
    fi
    have apt-get || no_gvproxy
    fetch_deb gvproxy trixie || no_gvproxy
    keep "$work/gvproxy/usr/bin/gvproxy" "$peers/gvproxy" 755
    "$peers/gvproxy" -version >/dev/null 2>&1 || { rm -f "$peers/gvproxy"; no_gvproxy; }
}

# Fedora and its kin keep gvproxy among podman's helpers, outside PATH.
find_gvproxy() {
    command -v gvproxy && return
    for file in /usr/libexec/podman/gvproxy /usr/local/libexec/podman/gvproxy /usr/lib/podman/gvproxy; do
        [ -x "$file" ] && echo "$file" && return
    done
    return 1
}

no_gvproxy() {
    die "gvproxy was not found and could not be fetched. How to get it:
    Debian 13, Ubuntu 25.04 and later:  apt-get install gvproxy
    Fedora:                             dnf install gvisor-tap-vsock
    elsewhere:                          build cmd/gvproxy of the Go project containers/gvisor-tap-vsock
  then put it on PATH, or at $peers/gvproxy"
}

get_vm() {
    [ "$(uname -m)" = x86_64 ] || die "vm: the microVM is an x86_64 machine; this one is $(uname -m)"
    get_kernel
    get_busybox
    get_vhost_device_vsock
    packages vm qemu-system-x86_64:qemu-system-x86
}

# The kernel image, and the modules a guest needs for vsock over virtio-mmio, numbered by the order file.
get_kernel() {
    [ -s "$peers/vmlinuz" ] && [ -s "$peers/modules/order" ] && return
    if [ -n "${NITROTAP_KERNEL_DEB:-}" ]; then
        unpack kernel "$NITROTAP_KERNEL_DEB"
    else
        have apt-get || die "vm: no apt-get here; set NITROTAP_KERNEL_DEB to Debian's linux-image-*-cloud-amd64 package file"
        fetch_deb linux-image-cloud-amd64 "${VERSION_CODENAME:-stable}" kernel ||
            die "vm: no linux-image-cloud-amd64 in this system's packages; set NITROTAP_KERNEL_DEB to Debian's package file"
    fi
    say "vm: collecting kernel modules"
    rm -rf "$peers/modules"
    mkdir "$work/modules"
    for wanted in virtio_mmio vmw_vsock_virtio_transport vsock_loopback tun; do
        module "$wanted"
    done
    mv "$work/modules" "$peers/modules"
    keep "$(find "$work/kernel/boot" -name 'vmlinuz-*' | head -n 1)" "$peers/vmlinuz" 644
}

# Copies one module and, before it, the modules it names as its dependencies.
module() {
    grep -qx "$1.ko" "$work/modules/order" 2>/dev/null && return
    # File names use - and _ as they please; module names use _.
    pattern=$(echo "$1" | sed 's/_/[-_]/g')
    file=$(find "$work/kernel/" -name "$pattern.ko*" | head -n 1)
    if [ -z "$file" ]; then
        find "$work/kernel/" -name modules.builtin -exec grep -q "/$pattern\.ko" {} + ||
            die "vm: the kernel package has no module $1"
        return 0
    fi
    case "$file" in
        *.ko) cp "$file" "$work/modules/$1.ko" ;;
        *.ko.xz) need xz xz-utils; xz -dc "$file" >"$work/modules/$1.ko" ;;
        *.ko.zst) need zstd zstd; zstd -qdc "$file" >"$work/modules/$1.ko" ;;
        *) die "vm: cannot unpack $file" ;;
    esac
    for dependency in $(tr '\0' '\n' <"$work/modules/$1.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
        # A subshell keeps this level's variables.
        (module "$dependency") || exit 1
    done
    echo "$1.ko" >>"$work/modules/order"
}

get_busybox() {
    [ -x "$peers/busybox" ] && return
    if have apt-get && fetch_deb busybox-static "${VERSION_CODENAME:-stable}"; then
        keep "$(find "$work/busybox-static" -type f -path '*/bin/busybox' | head -n 1)" "$peers/busybox" 755
    else
        die "vm: a statically linked busybox is needed at $peers/busybox"
    fi
}

get_vhost_device_vsock() {
    [ -x "$peers/vhost-device-vsock" ] && return
    have cargo || die "vm: cargo is needed to build vhost-device-vsock"
    say "vm: building vhost-device-vsock (one to two minutes)"
    if ! cargo install --quiet --locked --root "$work/cargo" --target-dir "$work/build" \
        --version '^0.3' vhost-device-vsock </dev/null >"$work/log" 2>&1; then
        cat "$work/log" >&2
        die "vm: cargo install vhost-device-vsock failed"
    fi
    keep "$work/cargo/bin/vhost-device-vsock" "$peers/vhost-device-vsock" 755
}

get_tools() {
    packages tools curl:curl iperf3:iperf3 wrk:wrk nginx:nginx-light slowhttptest:slowhttptest ping:iputils-ping ip:iproute2 ps:procps
}

get_rivals() {
    packages rivals pasta:passt slirp4netns:slirp4netns haproxy:haproxy perl:perl-base
}

# packages VERB COMMAND:PACKAGE... installs the packages of the commands that are missing.
packages() {
    verb=$1
    shift
    missing=
    for pair; do
        have "${pair%%:*}" || missing="$missing ${pair#*:}"
    done
    [ -z "$missing" ] && return
    if ! have apt-get; then
        die "$verb: missing here, by their Debian names:$missing"
    elif [ "$(id -u)" != 0 ]; then
        die "$verb: system packages are missing; as root: apt-get install --no-install-recommends$missing"
    fi
    say "$verb: installing$missing"
    # At run level 1 invoke-rc.d does not start the services that packages bring along (nginx).
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    was_running=$(nginx_pid)
    apt-get update </dev/null >"$work/log" 2>&1 || true
    # shellcheck disable=SC2086 # one word per package
    if ! apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 $missing </dev/null >>"$work/log" 2>&1; then
        tail -n 40 "$work/log" >&2
        die "$verb: apt-get install$missing failed"
    fi
    # Where systemd runs it is started all the same: the tests bring up their own on their own ports.
    case "$missing" in
        *nginx*) [ -n "$was_running" ] || [ -z "$(nginx_pid)" ] || service nginx stop >/dev/null 2>&1 || true ;;
    esac
}

nginx_pid() {
    cat /run/nginx.pid 2>/dev/null || true
}

# fetch_deb PACKAGE SUITE [NAME] unpacks a package into $work/NAME: from what the system's own apt knows or, where it does
# not know the package (or only an outdated file of it), from SUITE on the same Debian mirror, seen by private lists only.
fetch_deb() {
    package=$1 suite=$2 name=${3:-$1}
    say "$package: fetching"
    mkdir -p "$work/deb-$name"
    rm -f "$work/private.conf"
    if apt_download; then
        :
    elif [ "${ID:-}" = debian ] && private_lists; then
        apt_download || { cat "$work/log" >&2; return 1; }
    else
        return 1
    fi
    unpack "$name" "$work/deb-$name/"*.deb
}

apt_download() {
    # A meta package stands for the package it depends on.
    case "$package" in
        linux-image-cloud-*)
            real=$(apt_private apt-cache depends "$package" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1) ;;
        *) real=$package ;;
    esac
    [ -n "$real" ] && (cd "$work/deb-$name" && apt_private apt-get download "$real") >"$work/log" 2>&1
}

apt_private() {
    command=$1
    shift
    if [ -f "$work/private.conf" ]; then
        "$command" -c "$work/private.conf" "$@" </dev/null
    else
        "$command" -o APT::Sandbox::User=root "$@" </dev/null
    fi
}

# Writes an apt configuration that sees one suite of the mirror this machine uses, and reads its lists.
private_lists() {
    # shellcheck disable=SC2016 # apt fills these in
    uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | awk '
        $1 !~ /-/ { print $2; exit }')
    [ -n "$uri" ] || { echo "no Debian entry among apt's sources" >"$work/log"; return 1; }
    key=$(signed_by "${uri%/}")
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    {
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: $suite"
        echo "Components: main"
        [ -z "$key" ] || echo "Signed-By: $key"
    } >"$work/apt/one.sources"
    cat >"$work/private.conf" <<TEXT
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::sourcelist "$work/apt/one.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
TEXT
    say "$package: reading the package list of Debian $suite"
    apt_private apt-get update >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
}

# The key file named for a mirror in either style of apt sources, else Debian's usual one, else none (apt's own keys).
signed_by() {
    etc=/etc/apt
    key=$(
        {
            cat "$etc"/sources.list "$etc"/sources.list.d/*.list 2>/dev/null |
                grep -F "$1" | sed -n 's/^deb[^#]*\[.*signed-by=\([^] ]*\).*/\1/p'
            for file in "$etc"/sources.list.d/*.sources; do
                [ -f "$file" ] && awk -v uri="$1" 'BEGIN { RS = "" } index($0, uri) { print }' "$file" |
                    sed -n 's/^[Ss]igned-[Bb]y: *\(\/[^ ]*\).*/\1/p'
            done
        } | head -n 1
    )
    default=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -n "$key" ] || [ ! -f "$default" ] || key=$default
    echo "$key"
}

unpack() {
    have dpkg-deb || die "dpkg-deb is needed to unpack $2"
    dpkg-deb -x "$2" "$work/$1"
}

# Puts a file in place in one step, so that whoever looks sees all of it or none.
keep() {
    cp "$1" "$2.$$"
    chmod "$3" "$2.$$"
    mv "$2.$$" "$2"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

need() {
    have "$1" || die "$1 is missing; as root: apt-get install --no-install-recommends $2"
}

say() {
    echo "peers: $*"
}

die() {
    echo "peers: $*" >&2
    exit 1
}

PATH=$PATH:/usr/sbin:/sbin
repository=$(cd "$(dirname "$0")/.." && pwd)
peers=${NITROTAP_PEERS:-$repository/target/peers}
ID='' VERSION_CODENAME=''
# shellcheck disable=SC1091
[ ! -r /etc/os-release ] || . /etc/os-release
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
work=$peers/.work.$$
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work"
main "$@"
