#!/usr/bin/env bash
# The demo: two containers on a network of their own, one published port, by rnet and by docker;
# then the daemon is killed, and everything goes on. Usage: tests/demo.sh DIRECTORY-WITH-BINARIES
#
# It runs in a network and a mount namespace of its own and in a temporary directory, so that it
# changes nothing on this machine and nothing is left when it ends.
set -euo pipefail

binaries=$(cd "${1:?usage: tests/demo.sh DIRECTORY}" && pwd)
if [ -z "${RNET_DEMO_INSIDE:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "the demo makes namespaces: run it as root" >&2; exit 1; }
    work=$(mktemp -d /tmp/rnet-demo.XXXXXX)
    status=0
    RNET_DEMO_INSIDE="$work" unshare --net --mount --propagation private \
        "${BASH_SOURCE[0]}" "$binaries" || status=$?
    rm -rf "$work"
    exit "$status"
fi

work=$RNET_DEMO_INSIDE
rnet=$binaries/rnet
image=rnet/toolbox
export RNET_HOST=unix://$work/run/rnet.sock DOCKER_HOST=unix://$work/run/rnet.sock
daemon=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
step() { printf '\033[36m$ %s\033[0m\n' "$*"; }
show() { step "${*/#$rnet/rnet}" && "$@"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

start_daemon() {
    "$rnet" daemon --host "$RNET_HOST" --data-root "$work/lib" --exec-root "$work/run" \
        --pidfile "$work/rnet.pid" --log-level warn \
        2>>"$work/daemon.log" &
    daemon=$!
    for _ in $(seq 200); do
        "$rnet" version >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || break
        read -rt 0.05 <> <(:) || true
    done
    cat "$work/daemon.log" >&2
    fail "the daemon did not start"
}

finish() {
    status=$?
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        "$rnet" system reset --force >/dev/null 2>&1 || status=1
        wait "$daemon" 2>/dev/null || true
    fi
    [ "$status" = 0 ] || tail -n 20 "$work/daemon.log" >&2
    exit "$status"
}
trap finish EXIT

# An HTTP request from the host, without any client but the shell.
fetch() { # fetch HOST PORT
    exec 3<>"/dev/tcp/$1/$2" || return 1
    printf 'GET / HTTP/1.0\r\nHost: demo\r\n\r\n' >&3
    cat <&3
    exec 3>&-
}
answers() { # answers WHAT COMMAND...
    local what=$1 answer
    shift
    answer=$("$@" 2>&1) || fail "$what: $answer"
    printf '  %s: %s\n' "$what" "$(tail -n +1 <<<"$answer" | tr -d '\r' | grep -v '^$' | tail -n 4 | paste -sd' ')"
}

ip link set lo up
say "1. The daemon, in a network namespace of its own"
start_daemon
show "$rnet" version

say "2. A network with IPv4 and IPv6, and two containers on it"
show "$rnet" network create --subnet 10.77.0.0/24 --ipv6 --subnet fd00:77::/64 blue
show "$rnet" run -d --name web --network blue -p 8080:80 "$image" httpd
show "$rnet" run -d --name peer --network blue "$image" sleep infinity
show "$rnet" ps

say "3. They find each other by name, over both families"
show "$rnet" exec peer lookup web
show "$rnet" exec peer get -4 http://web/
show "$rnet" exec peer get -6 http://web/

say "4. The published port answers: on the host's loopback, by IPv4 and IPv6"
answers "127.0.0.1:8080" fetch 127.0.0.1 8080
answers "[::1]:8080" fetch ::1 8080

say "5. The same with the docker client you know"
if command -v docker >/dev/null; then
    show docker version --format '{{.Client.Version}} talks to {{.Server.Version}}'
    show docker network create --subnet 10.78.0.0/24 green
    show docker run -d --name shop --network green -p 8081:80 "$image" httpd
    show docker run --rm --network green "$image" get http://shop/
    show docker ps
    show docker port shop
    answers "127.0.0.1:8081" fetch 127.0.0.1 8081
    show docker rm -f shop
    show docker network rm green
else
    echo "there is no docker client on this machine; this part is left out"
fi

say "6. The daemon is killed with SIGKILL; ports answer and names resolve"
step "kill -9 $daemon"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
answers "127.0.0.1:8080" fetch 127.0.0.1 8080

say "7. Somebody flushes the firewall"
show nft flush ruleset
answers "127.0.0.1:8080" fetch 127.0.0.1 8080

say "8. A new daemon adopts what it finds"
start_daemon
show "$rnet" ps
show "$rnet" exec peer get http://web/
show "$rnet" logs --tail 3 web

say "9. And all of it goes away"
show "$rnet" rm -f web peer
show "$rnet" network rm blue
show "$rnet" system reset --force
wait "$daemon" 2>/dev/null || true
daemon=
[ -z "$(ip -o link show | grep -v ' lo:')" ] || fail "links are left: $(ip -o link show)"
[ -z "$(nft list tables)" ] || fail "tables are left: $(nft list tables)"
say "The demo went well; nothing is left."
