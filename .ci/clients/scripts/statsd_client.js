// The client statsd-client, which gathers lines into packets by itself.
const SDC = require('statsd-client');

const n = 500;
const client = new SDC({
  host: process.env.STATSD_HOST, port: Number(process.env.STATSD_PORT), prefix: 'sdc', tags: { env: 'test' }, socketTimeout: 500,
});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function main() {
  for (let i = 0; i < n; i++) {
    client.increment('requests', i % 5, { way: i % 3 });
    client.decrement('stock', 2);
    client.gauge('temperature', i - 250.5);
    client.gaugeDelta('connections', 3 - (i % 6));
    client.histogram('size', i / 2, { part: 'body' });
    client.distribution('price', -i);
    client.timing('time', i);
    client.set('users', `user:${i % 61}`);
    if (i % 10 === 9) await pause(2);
  }
  await pause(500); // it has no way to tell when all is sent
  client.close();

  const sum = (f, from = 0, step = 1) => {
    let s = 0;
    for (let i = from; i < n; i += step) s += f(i);
    return s;
  };
  const say = console.log;
  say('samples', 8 * n);
  for (let way = 0; way < 3; way++) say(`counter sdc.requests env:test,way:${way}`, sum((i) => i % 5, way, 3));
  say('counter sdc.stock env:test', -2 * n);
  say('gauge sdc.temperature env:test', n - 1 - 250.5);
  say('gauge sdc.connections env:test', sum((i) => 3 - (i % 6)));
  say('distribution sdc.size env:test,part:body', n, sum((i) => i / 2), 0, (n - 1) / 2);
  say('distribution sdc.price env:test', n, -sum((i) => i), 1 - n, 0);
  say('distribution sdc.time env:test', n, sum((i) => i), 0, n - 1);
  say('set sdc.users env:test', ...Array.from({ length: 61 }, (_, i) => `user:${i}`));
}

main();
