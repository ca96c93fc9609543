# No library: Python's urllib, with the published examples of Flux, Pulse and
# DataCat. What they come to is in published.txt.
import datetime
import gzip
import json
import os
import urllib.error
import urllib.request

base = os.environ["STATSD_HTTP"]


def post(path, body, want, headers={}):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    request = urllib.request.Request(base + path, body, {"Content-Type": "application/json", "Authorization": "Bearer sk_live_xxx", **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as e:
        status, text = e.code, e.read()
    assert status == want, (path, status, text)
    return json.loads(text) if text.startswith(b"{") else text.decode()


def same(got, want):
    assert got == want, (got, want)


now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
tags = {"endpoint": "/users", "method": "GET", "status": "200"}

# Flux: one by one, a batch, a combined batch.
example = {"name": "api.response_time", "type": "distribution", "value": 145.2, "timestamp": now, "tags": tags}
answer = post("/api/v1/metrics", example, 201)
same(answer["data"]["name"], "api.response_time")
same(answer["data"]["value"], 145.2)
post("/api/v1/metrics", {"name": "users.online", "type": "gauge", "value": 230}, 201)
post("/api/v1/metrics", {"name": "daily_active_users", "type": "set", "value": "user_123"}, 201)
batch = {"metrics": [
    {"name": "users.online", "type": "gauge", "value": 234},
    {"name": "api.requests", "type": "counter", "value": 1},
    {"name": "response_time", "type": "distribution", "value": 145.2},
]}
for path in "/api/v1/metrics/batch", "/flux/api/v1/metrics/batch":
    answer = post(path, batch, 201)
    same(answer["data"], {"accepted": 3, "rejected": 0})
answer = post("/api/v1/metrics/batch", gzip.compress(json.dumps(batch["metrics"]).encode()), 201, {"Content-Encoding": "gzip"})
same(answer["ingested"], 3)
many = [{"name": "many", "type": "counter", "value": i} for i in range(500)]
same(post("/api/v1/metrics/batch", {"metrics": many}, 201)["data"]["accepted"], 500)
answer = post("/api/v1/flux/batch", {
    "events": [{"name": "order.placed", "value": 99.99}],
    "metrics": [{"name": "orders.count", "type": "counter", "value": 1}],
}, 201)
same(answer["data"], {"events": {"accepted": 1, "rejected": 0}, "metrics": {"accepted": 1, "rejected": 0}})

# What Flux refuses.
same(post("/api/v1/metrics", {"type": "gauge", "value": 1}, 400)["code"], "missing_name")
same(post("/api/v1/metrics", {"name": "a", "type": "timer", "value": 1}, 400)["code"], "invalid_type")
same(post("/api/v1/metrics", {"name": "a", "type": "gauge", "value": "x"}, 400)["code"], "invalid_value")
same(post("/api/v1/metrics", {**example, "timestamp": "2024-01-15T10:30:00Z"}, 400)["code"], "invalid_timestamp")
same(post("/api/v1/metrics/batch", {"metrics": many + many[:1]}, 413)["code"], "batch_too_large")

# Pulse.
answer = post("/pulse/api/v1/metrics", {"name": "queue_size", "value": 42, "type": "gauge", "tags": {"queue": "default"}}, 201)
same(answer["data"]["type"], "gauge")
post("/api/v1/metrics", {"name": "pulse.response_time", "value": 245, "kind": "histogram"}, 201)
answer = post("/pulse/api/v1/metrics/batch", {"metrics": [
    {"name": "queue_size", "value": 42, "type": "gauge", "tags": {"queue": "default"}},
    {"name": "queue_size", "value": 15, "type": "gauge", "tags": {"queue": "priority"}},
    {"name": "jobs_processed", "value": 100, "type": "counter"},
]}, 201)
same(answer["processed"], 3)

# DataCat. Its Python client writes bare Infinity; a counter is a running total.
session = post("/api/sessions", {"product": "shop", "version": "1.0"}, 200)["session_id"]
path = "/api/sessions/%s/metrics" % session
post(path, {"name": "memory_mb", "value": 512.5, "tags": ["backend"]}, 200)
post(path, {"name": "http_requests", "value": 100, "type": "histogram", "tags": ["endpoint:users", "method:GET"],
            "metadata": {"bound": float("inf")}}, 200)
for total in 5, 8, 3:
    post(path, {"name": "error_count", "value": total, "type": "counter"}, 200)
same(post(path, {"name": "a", "value": "x"}, 400), "Invalid request body\n")
post("/api/sessions/%s/end" % session, {}, 200)
same(post("/api/sessions/550e8400/metrics", {"name": "a", "value": 1}, 404), "session not found\n")
