// No library: Node's fetch, with the published examples of Flux, Pulse and
// DataCat. What they come to is in published.txt.
const assert = require('assert');
const zlib = require('zlib');

async function post(path, body, want, headers = {}) {
  const answer = await fetch(process.env.STATSD_HTTP + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: 'Bearer sk_live_xxx', ...headers },
    body: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body),
  });
  const text = await answer.text();
  assert.strictEqual(answer.status, want, `${path}: ${text}`);
  return text.startsWith('{') ? JSON.parse(text) : text;
}

async function main() {
  const example = {
    name: 'api.response_time', type: 'distribution', value: 145.2, timestamp: new Date().toISOString(),
    tags: { endpoint: '/users', method: 'GET', status: '200' },
  };
  const one = await post('/api/v1/metrics', example, 201);
  assert.strictEqual(one.data.name, 'api.response_time');
  assert.strictEqual(one.data.value, 145.2);
  await post('/api/v1/metrics', { name: 'users.online', type: 'gauge', value: 230 }, 201);
  await post('/api/v1/metrics', { name: 'daily_active_users', type: 'set', value: 'user_123' }, 201);
  const metrics = [
    { name: 'users.online', type: 'gauge', value: 234 },
    { name: 'api.requests', type: 'counter', value: 1 },
    { name: 'response_time', type: 'distribution', value: 145.2 },
  ];
  for (const path of ['/api/v1/metrics/batch', '/flux/api/v1/metrics/batch']) {
    assert.deepStrictEqual((await post(path, { metrics }, 201)).data, { accepted: 3, rejected: 0 });
  }
  const zipped = zlib.gzipSync(JSON.stringify(metrics));
  assert.strictEqual((await post('/api/v1/metrics/batch', zipped, 201, { 'Content-Encoding': 'gzip' })).ingested, 3);
  const many = Array.from({ length: 500 }, (_, i) => ({ name: 'many', type: 'counter', value: i }));
  assert.strictEqual((await post('/api/v1/metrics/batch', { metrics: many }, 201)).data.accepted, 500);
  const both = await post('/api/v1/flux/batch', {
    events: [{ name: 'order.placed', value: 99.99 }],
    metrics: [{ name: 'orders.count', type: 'counter', value: 1 }],
  }, 201);
  assert.deepStrictEqual(both.data, { events: { accepted: 1, rejected: 0 }, metrics: { accepted: 1, rejected: 0 } });

  const code = async (path, body, want) => (await post(path, body, want)).code;
  assert.strictEqual(await code('/api/v1/metrics', { type: 'gauge', value: 1 }, 400), 'missing_name');
  assert.strictEqual(await code('/api/v1/metrics', { name: 'a', type: 'timer', value: 1 }, 400), 'invalid_type');
  assert.strictEqual(await code('/api/v1/metrics', { name: 'a', type: 'gauge', value: 'x' }, 400), 'invalid_value');
  assert.strictEqual(await code('/api/v1/metrics', { ...example, timestamp: '2024-01-15T10:30:00Z' }, 400), 'invalid_timestamp');
  assert.strictEqual(await code('/api/v1/metrics/batch', { metrics: [...many, many[0]] }, 413), 'batch_too_large');

  const size = (queue, value) => ({ name: 'queue_size', value, type: 'gauge', tags: { queue } });
  assert.strictEqual((await post('/pulse/api/v1/metrics', size('default', 42), 201)).data.type, 'gauge');
  await post('/api/v1/metrics', { name: 'pulse.response_time', value: 245, kind: 'histogram' }, 201);
  const pulse = { metrics: [size('default', 42), size('priority', 15), { name: 'jobs_processed', value: 100, type: 'counter' }] };
  assert.strictEqual((await post('/pulse/api/v1/metrics/batch', pulse, 201)).processed, 3);

  const id = (await post('/api/sessions', { product: 'shop', version: '1.0' }, 200)).session_id;
  const path = `/api/sessions/${id}`;
  await post(`${path}/metrics`, { name: 'memory_mb', value: 512.5, tags: ['backend'] }, 200);
  await post(`${path}/metrics`, '{"name":"http_requests","value":100,"type":"histogram","tags":["endpoint:users","method:GET"],"metadata":{"bound":Infinity}}', 200);
  for (const value of [5, 8, 3]) await post(`${path}/metrics`, { name: 'error_count', value, type: 'counter' }, 200);
  assert.strictEqual(await post(`${path}/metrics`, { name: 'a', value: 'x' }, 400), 'Invalid request body\n');
  await post(`${path}/end`, {}, 200);
  assert.strictEqual(await post('/api/sessions/550e8400/metrics', { name: 'a', value: 1 }, 404), 'session not found\n');
}

main();
