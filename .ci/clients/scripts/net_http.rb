# No library: Ruby's Net::HTTP, with the published examples of Flux, Pulse and
# DataCat. What they come to is in published.txt.
require "bigdecimal"
require "json"
require "net/http"
require "time"
require "zlib"

BASE = URI(ENV["STATSD_HTTP"])

def post(path, body, want, headers = {})
  request = Net::HTTP::Post.new(path, { "Content-Type" => "application/json", "Authorization" => "Bearer sk_live_xxx" }.merge(headers))
  request.body = body.is_a?(String) ? body : JSON.generate(body)
  answer = Net::HTTP.start(BASE.host, BASE.port) { |http| http.request(request) }
  raise "#{path}: #{answer.code} #{answer.body}" unless answer.code == want.to_s
  answer.body.start_with?("{") ? JSON.parse(answer.body) : answer.body
end

def same(got, want)
  raise "got #{got.inspect}, want #{want.inspect}" unless got == want
end

example = {
  name: "api.response_time", type: "distribution", value: BigDecimal("145.2").to_s, # as a price arrives: "0.1452e3"
  timestamp: Time.now.utc.iso8601, tags: { endpoint: "/users", method: "GET", status: 200 }
}
same post("/api/v1/metrics", example, 201)["data"]["value"], 145.2
post "/api/v1/metrics", { name: "users.online", type: "gauge", value: 230 }, 201
post "/api/v1/metrics", { name: "daily_active_users", type: "set", value: "user_123" }, 201
metrics = [
  { name: "users.online", type: "gauge", value: 234 },
  { name: "api.requests", type: "counter", value: 1 },
  { name: "response_time", type: "distribution", value: 145.2 }
]
%w[/api/v1/metrics/batch /flux/api/v1/metrics/batch].each do |path|
  same post(path, { metrics: metrics }, 201)["data"], { "accepted" => 3, "rejected" => 0 }
end
zipped = Zlib.gzip(JSON.generate(metrics))
same post("/api/v1/metrics/batch", zipped, 201, "Content-Encoding" => "gzip")["ingested"], 3
many = Array.new(500) { |i| { name: "many", type: "counter", value: i } }
same post("/api/v1/metrics/batch", { metrics: many }, 201)["data"]["accepted"], 500
both = post("/api/v1/flux/batch", {
  events: [{ name: "order.placed", value: 99.99 }],
  metrics: [{ name: "orders.count", type: "counter", value: 1 }]
}, 201)
same both["data"]["events"], { "accepted" => 1, "rejected" => 0 }
same both["data"]["metrics"], { "accepted" => 1, "rejected" => 0 }

same post("/api/v1/metrics", { type: "gauge", value: 1 }, 400)["code"], "missing_name"
same post("/api/v1/metrics", { name: "a", type: "timer", value: 1 }, 400)["code"], "invalid_type"
same post("/api/v1/metrics", { name: "a", type: "gauge", value: nil }, 400)["code"], "invalid_value"
same post("/api/v1/metrics", example.merge(timestamp: "2024-01-15T10:30:00Z"), 400)["code"], "invalid_timestamp"
same post("/api/v1/metrics/batch", { metrics: many + many.first(1) }, 413)["code"], "batch_too_large"

size = ->(queue, value) { { name: "queue_size", value: value, type: "gauge", tags: { queue: queue } } }
same post("/pulse/api/v1/metrics", size["default", 42], 201)["data"]["type"], "gauge"
post "/api/v1/metrics", { name: "pulse.response_time", value: 245, kind: "histogram" }, 201
pulse = { metrics: [size["default", 42], size["priority", 15], { name: "jobs_processed", value: 100, type: "counter" }] }
same post("/pulse/api/v1/metrics/batch", pulse, 201)["processed"], 3

path = "/api/sessions/" + post("/api/sessions", { product: "shop", version: "1.0" }, 200)["session_id"]
post "#{path}/metrics", { name: "memory_mb", value: 512.5, tags: ["backend"] }, 200
post "#{path}/metrics", { name: "http_requests", value: 100, type: "histogram", tags: %w[endpoint:users method:GET] }, 200
[5, 8, 3].each { |total| post "#{path}/metrics", { name: "error_count", value: total, type: "counter" }, 200 }
same post("#{path}/metrics", { name: "a", value: "x" }, 400), "Invalid request body\n"
post "#{path}/end", {}, 200
same post("/api/sessions/550e8400/metrics", { name: "a", value: 1 }, 404), "session not found\n"
