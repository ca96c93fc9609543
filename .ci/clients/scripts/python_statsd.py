# The client jsocol/pystatsd: python_statsd.py plain|pipeline
import os
import random
import sys
import time

import statsd

random.random = lambda: 0.0  # the client samples by chance; now it takes all
client = statsd.StatsClient(os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"]), prefix="app")
n = 500
samples = 0


def measure(c, i):
    c.incr("requests", i % 5)
    c.decr("stock", 2)
    c.incr("sampled", 3, rate=0.25)
    c.gauge("temperature", i - 250.5)  # below zero the client sends 0 first, then the value
    c.gauge("connections", 3 - i % 6, delta=True)
    c.timing("time", i / 2, rate=0.5)
    c.set("users", "user:%d" % (i % 61))
    return 8 if i - 250.5 < 0 else 7


if sys.argv[1] == "pipeline":
    for first in range(0, n, 50):
        with client.pipeline() as pipe:
            for i in range(first, first + 50):
                samples += measure(pipe, i)
        time.sleep(0.002)
else:
    for i in range(n):
        samples += measure(client, i)
        if i % 20 == 19:
            time.sleep(0.002)
client.close()

print("samples", samples)
print("counter app.requests -", sum(i % 5 for i in range(n)))
print("counter app.stock -", -2 * n)
print("counter app.sampled -", 12 * n)
print("gauge app.temperature -", n - 1 - 250.5)
print("gauge app.connections -", sum(3 - i % 6 for i in range(n)))
print("distribution app.time -", 2 * n, sum(i for i in range(n)), 0, (n - 1) / 2)
print("set app.users -", *("user:%d" % i for i in range(61)))
