// The client node-statsd, the oldest that is still in use.
const StatsD = require('node-statsd');

Math.random = () => 0;
const n = 300;
const client = new StatsD({
  host: process.env.STATSD_HOST, port: Number(process.env.STATSD_PORT), prefix: 'old.', global_tags: ['env:test'],
});
let open = 0;
const sent = (err) => {
  if (err) throw err;
  open--;
};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function main() {
  for (let i = 0; i < n; i++) {
    open += 7;
    client.increment('requests', 1 + (i % 5), 1, [`way:${i % 3}`], sent);
    client.decrement('stock', 2, 1, [], sent);
    client.increment('sampled', 3, 0.25, [], sent);
    client.gauge('temperature', i - 150.5, 1, [], sent);
    client.histogram('size', i / 2, 1, ['part:body'], sent);
    client.timing('time', i, 0.5, [], sent);
    client.set('users', `user:${i % 61}`, 1, [], sent);
    if (i % 10 === 9) await pause(2);
  }
  while (open > 0) await pause(5);
  client.close();

  const sum = (f, from = 0, step = 1) => {
    let s = 0;
    for (let i = from; i < n; i += step) s += f(i);
    return s;
  };
  const say = console.log;
  say('samples', 7 * n);
  for (let way = 0; way < 3; way++) say(`counter old.requests env:test,way:${way}`, sum((i) => 1 + (i % 5), way, 3));
  say('counter old.stock env:test', -2 * n);
  say('counter old.sampled env:test', 12 * n);
  say('gauge old.temperature env:test', n - 1 - 150.5);
  say('distribution old.size env:test,part:body', n, sum((i) => i / 2), 0, (n - 1) / 2);
  say('distribution old.time env:test', 2 * n, 2 * sum((i) => i), 0, n - 1);
  say('set old.users env:test', ...Array.from({ length: 61 }, (_, i) => `user:${i}`));
}

main();
