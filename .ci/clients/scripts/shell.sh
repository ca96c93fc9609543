# No library: a shell with what the system has.
# shell.sh dev|nc|nc-unixgram|ncat|ncat-unixgram|socat|socat-unixgram
set -euo pipefail

# send TEXT sends one packet.
case $1 in
dev) send() { printf '%s' "$1" >"/dev/udp/$STATSD_HOST/$STATSD_PORT"; } ;;
nc) send() { printf '%s' "$1" | nc.openbsd -u -q 0 "$STATSD_HOST" "$STATSD_PORT"; } ;;
nc-unixgram) send() { printf '%s' "$1" | nc.openbsd -U -u -q 0 "$STATSD_UNIXGRAM"; } ;;
ncat) send() { printf '%s' "$1" | ncat -u --send-only "$STATSD_HOST" "$STATSD_PORT"; } ;;
ncat-unixgram) send() { printf '%s' "$1" | ncat -U -u --send-only "$STATSD_UNIXGRAM"; } ;;
socat) send() { printf '%s' "$1" | socat -u - "UDP-SENDTO:$STATSD_HOST:$STATSD_PORT"; } ;;
socat-unixgram) send() { printf '%s' "$1" | socat -u - "UNIX-SENDTO:$STATSD_UNIXGRAM"; } ;;
esac

n=8
for ((i = 1; i <= n; i++)); do
	send "sh.deploys:1|c"
	send "sh.disk:$i|g|#mount:/var/lib"$'\n'
	send $'sh.backup.time:'"$((i * 100))"$'|ms|@0.5\nsh.hosts:host-'"$((i % 5))"$'|s\n\n'
done

echo "samples $((4 * n))"
echo "counter sh.deploys - $n"
echo "gauge sh.disk mount:/var/lib $n"
echo "distribution sh.backup.time - $((2 * n)) $((100 * n * (n + 1))) 100 $((100 * n))"
echo "set sh.hosts - host-0 host-1 host-2 host-3 host-4"
