// The client hot-shots: node hot_shots.js plain|datadog|telegraf|buffered|aggregated|uds|stream
const net = require('net');
const StatsD = require('hot-shots');

Math.random = () => 0; // the client samples by chance; now it takes all
const mode = process.argv[2];
const n = 500;
const connection = mode === 'stream' ? net.connect(process.env.STATSD_UNIX) : undefined;
const options = {
  host: process.env.STATSD_HOST, port: Number(process.env.STATSD_PORT),
  prefix: 'js', globalTags: { env: 'test' }, datadog: false,
  errorHandler: (err) => { throw err; },
  ...{
    plain: {},
    datadog: {
      datadog: true, containerID: '8f3b0d6c'.repeat(8), cardinality: 'low', telemetryFlushInterval: 100, maxBufferSize: 1432,
    },
    telegraf: { telegraf: true },
    buffered: { maxBufferSize: 1432, bufferFlushInterval: 100 },
    aggregated: { aggregation: { flushInterval: 200 } },
    stream: { protocol: 'stream', stream: connection, host: undefined, port: undefined },
    uds: { protocol: 'uds', path: process.env.STATSD_UNIXGRAM, host: undefined, port: undefined },
  }[mode],
};
const client = new StatsD(options);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const last = Math.floor(Date.now() / 1000) - 60;

async function main() {
  for (let i = 0; i < n; i++) {
    client.increment('requests', i % 5, { way: String(i % 3), method: 'GET' });
    client.decrement('stock', 2);
    client.increment('sampled', 3, 0.25);
    client.gauge('temperature', i - 250.5);
    client.gaugeDelta('connections', 3 - (i % 6));
    client.histogram('size', i / 2, ['part:body']);
    client.distribution('price', -i);
    client.timing('time', i, 0.5);
    client.set('users', `user:${i % 61}`);
    if (i % 10 === 9) await pause(2);
  }
  if (mode !== 'telegraf') {
    client.increment('past', 5, { timestamp: last });
    client.event('größer', 'line 1\nline 2 | 😀', { // its lengths count UTF-16 units
      hostname: 'web-1', aggregation_key: 'key 1', priority: 'low', source_type_name: 'nagios', alert_type: 'success',
    }, ['a:b']);
    client.event('deploy');
    client.check('db.up', client.CHECKS.CRITICAL, { hostname: 'web-1', message: 'it is down' }, { a: 'b' });
  }
  if (mode === 'datadog') await pause(300); // for its telemetry
  await new Promise((done, fail) => client.close((err) => (err ? fail(err) : done())));

  const sum = (f, from = 0, step = 1) => {
    let s = 0;
    for (let i = from; i < n; i += step) s += f(i);
    return s;
  };
  const say = console.log;
  if (mode !== 'aggregated') say('samples', 9 * n + (mode === 'telegraf' ? 0 : 4));
  if (mode === 'datadog') say('telemetry');
  for (let way = 0; way < 3; way++) say(`counter js.requests env:test,method:GET,way:${way}`, sum((i) => i % 5, way, 3));
  say('counter js.stock env:test', -2 * n);
  say('counter js.sampled env:test', 12 * n);
  say('gauge js.temperature env:test', n - 1 - 250.5);
  say('gauge js.connections env:test', sum((i) => 3 - (i % 6)));
  say('distribution js.size env:test,part:body', n, sum((i) => i / 2), 0, (n - 1) / 2);
  say('distribution js.price env:test', n, -sum((i) => i), 1 - n, 0);
  say('distribution js.time env:test', 2 * n, 2 * sum((i) => i), 0, n - 1);
  say('set js.users env:test', ...Array.from({ length: 61 }, (_, i) => `user:${i}`));
  if (mode !== 'telegraf') {
    say('counter js.past env:test', 5);
    say('event js.größer a:b,env:test alert_type=success priority=low aggregation_key=key%201 source_type_name=nagios',
      'kind=event host=web-1 environment=test text=line%201%0Aline%202%20|%20😀');
    say('event js.deploy env:test text=deploy alert_type=info priority=normal kind=event environment=test');
    say('event js.db.up a:b,env:test value=2 status=critical message=it%20is%20down kind=service_check host=web-1 environment=test');
  }
}

main();
