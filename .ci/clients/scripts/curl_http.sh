# No library: curl, with the published examples of Flux, Pulse and DataCat. What
# they come to is in published.txt.
set -euo pipefail

# post STATUS PATH BODY [OPTION...] fails unless the answer has that status.
post() {
	local want=$1 path=$2 body=$3 answer
	shift 3
	answer=$(printf '%s' "$body" | curl -sS -w '\n%{http_code}' "$STATSD_HTTP$path" -H 'Content-Type: application/json' \
		-H 'Authorization: Bearer sk_live_xxx' --data-binary @- "$@")
	[ "${answer##*$'\n'}" = "$want" ] || { echo "$path: $answer, want $want" >&2; exit 1; }
	printf '%s' "${answer%$'\n'*}"
}
# has TEXT fails unless the answer on the standard input has it.
has() {
	local answer
	answer=$(cat)
	[[ $answer == *"$1"* ]] || { echo "answer $answer, want $1" >&2; exit 1; }
}

now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
example() {
	echo '{
    "name": "api.response_time",
    "type": "distribution",
    "value": 145.2,
    "timestamp": "'"$1"'",
    "tags": {
      "endpoint": "/users",
      "method": "GET",
      "status": "200"
    }
  }'
}
post 201 /api/v1/metrics "$(example "$now")" | has '"name":"api.response_time","type":"distribution","value":145.2'
post 201 /api/v1/metrics '{"name": "users.online", "type": "gauge", "value": 230}' | has users.online
post 201 /api/v1/metrics '{"name": "daily_active_users", "type": "set", "value": "user_123"}' | has user_123
batch='[
      { "name": "users.online", "type": "gauge", "value": 234 },
      { "name": "api.requests", "type": "counter", "value": 1 },
      { "name": "response_time", "type": "distribution", "value": 145.2 }
    ]'
post 201 /api/v1/metrics/batch '{"metrics": '"$batch}" | has '"accepted":3,"rejected":0'
post 201 /flux/api/v1/metrics/batch '{"metrics": '"$batch}" | has '"accepted":3,"rejected":0'
printf '%s' "$batch" | gzip | curl -sS --fail "$STATSD_HTTP/api/v1/metrics/batch" -H 'Content-Type: application/json' \
	-H 'Content-Encoding: gzip' --data-binary @- | has '"ingested":3'
many=$(for ((i = 0; i < 500; i++)); do printf ',{"name":"many","type":"counter","value":%d}' "$i"; done)
post 201 /api/v1/metrics/batch '{"metrics":['"${many:1}]}" | has '"accepted":500'
post 201 /api/v1/flux/batch '{
    "events": [
      { "name": "order.placed", "value": 99.99 }
    ],
    "metrics": [
      { "name": "orders.count", "type": "counter", "value": 1 }
    ]
  }' | has '"data":{"events":{"accepted":1,"rejected":0},"metrics":{"accepted":1,"rejected":0}}'

post 400 /api/v1/metrics '{"type": "gauge", "value": 1}' | has '"missing_name"'
post 400 /api/v1/metrics '{"name": "a", "type": "timer", "value": 1}' | has '"invalid_type"'
post 400 /api/v1/metrics '{"name": "a", "type": "gauge", "value": "x"}' | has '"invalid_value"'
post 400 /api/v1/metrics "$(example 2024-01-15T10:30:00Z)" | has '"invalid_timestamp"'
post 413 /api/v1/metrics/batch '{"metrics":['"${many:1}$many]}" -H 'Expect:' | has '"batch_too_large"'

post 201 /pulse/api/v1/metrics '{"name": "queue_size", "value": 42, "type": "gauge", "tags": {"queue": "default"}}' | has '"type":"gauge"'
post 201 /api/v1/metrics '{"name": "pulse.response_time", "value": 245, "kind": "histogram"}' | has pulse.response_time
post 201 /pulse/api/v1/metrics/batch '{
    "metrics": [
      { "name": "queue_size", "value": 42, "type": "gauge", "tags": { "queue": "default" } },
      { "name": "queue_size", "value": 15, "type": "gauge", "tags": { "queue": "priority" } },
      { "name": "jobs_processed", "value": 100, "type": "counter" }
    ]
  }' | has '"processed":3'

session=$(post 200 /api/sessions '{"product": "shop", "version": "1.0"}')
session=${session#*'"session_id":"'}
path=/api/sessions/${session%%\"*}
post 200 "$path/metrics" '{"name": "memory_mb", "value": 512.5, "tags": ["backend"]}' | has '"success":true'
post 200 "$path/metrics" '{"name": "http_requests", "value": 100, "type": "histogram", "tags": ["endpoint:users", "method:GET"],
	"metadata": {"bound": Infinity}}' | has '"success":true'
for total in 5 8 3; do
	post 200 "$path/metrics" '{"name": "error_count", "value": '"$total"', "type": "counter"}' | has '"success":true'
done
post 400 "$path/metrics" '{"name": "a", "value": "x"}' | has 'Invalid request body'
post 200 "$path/end" '{}' | has ok
post 404 /api/sessions/550e8400/metrics '{"name": "a", "value": 1}' | has 'session not found'
