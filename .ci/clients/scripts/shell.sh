# No library: a shell with what the system has.
# shell.sh dev|nc|nc-unixgram|nc-unix|ncat|ncat-unixgram|socat|socat-unixgram|socat-unix
set -euo pipefail

# send TEXT sends one packet.
case $1 in
dev) send() { printf '%s' "$1" >"/dev/udp/$STATSD_HOST/$STATSD_PORT"; } ;;
nc) send() { printf '%s' "$1" | nc.openbsd -u -q 0 "$STATSD_HOST" "$STATSD_PORT"; } ;;
nc-unixgram) send() { printf '%s' "$1" | nc.openbsd -U -u -q 0 "$STATSD_UNIXGRAM"; } ;;
nc-unix) send() { printf '%s' "$1" | nc.openbsd -U -N "$STATSD_UNIX"; } ;;
ncat) send() { printf '%s' "$1" | ncat -u --send-only "$STATSD_HOST" "$STATSD_PORT"; } ;;
ncat-unixgram) send() { printf '%s' "$1" | ncat -U -u --send-only "$STATSD_UNIXGRAM"; } ;;
socat) send() { printf '%s' "$1" | socat -u - "UDP-SENDTO:$STATSD_HOST:$STATSD_PORT"; } ;;
socat-unixgram) send() { printf '%s' "$1" | socat -u - "UNIX-SENDTO:$STATSD_UNIXGRAM"; } ;;
socat-unix) send() { printf '%s' "$1" | socat -u - "UNIX-CONNECT:$STATSD_UNIX"; } ;;
esac

n=8
for ((i = 1; i <= n; i++)); do
	send "sh.deploys:1|c"
	send "sh.disk:$i|g|#mount:/var/lib"$'\n'
	send $'sh.backup.time:'"$((i * 100))"$'|ms|@0.5\nsh.hosts:host-'"$((i % 5))"$'|s\n\n'
	send "_e{6,$((8 + ${#i}))}:deploy|version $i|#host:web-$i"
done

echo "samples $((5 * n))"
echo "counter sh.deploys - $n"
echo "gauge sh.disk mount:/var/lib $n"
echo "distribution sh.backup.time - $((2 * n)) $((100 * n * (n + 1))) 100 $((100 * n))"
echo "set sh.hosts - host-0 host-1 host-2 host-3 host-4"
for ((i = 1; i <= n; i++)); do
	echo "event deploy host:web-$i text=version%20$i alert_type=info priority=normal kind=event host=web-$i"
done
