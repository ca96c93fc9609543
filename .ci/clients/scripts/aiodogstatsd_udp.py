# The client Gr1N/aiodogstatsd.
import asyncio
import os
import random

random.random = lambda: 0.0  # the client samples by chance; now it takes all
import aiodogstatsd  # noqa: E402 (it copies random when it is imported)

n = 500


async def main():
    async with aiodogstatsd.Client(
        host=os.environ["STATSD_HOST"], port=int(os.environ["STATSD_PORT"]),
        namespace="aio", constant_tags={"env": "test"},
    ) as client:
        for i in range(n):
            client.increment("requests", value=i % 5, tags={"way": i % 3})
            client.decrement("stock", value=2)
            client.increment("sampled", value=3, sample_rate=0.25)
            client.gauge("temperature", value=i - 250.5)
            client.histogram("size", value=i / 2, tags={"part": "body"})
            client.distribution("price", value=-i)
            client.timing("time", value=i, sample_rate=0.5)
            if i % 20 == 19:
                await asyncio.sleep(0.005)


asyncio.run(main())
print("samples", 7 * n)
for way in range(3):
    print("counter aio.requests env:test,way:%d" % way, sum(i % 5 for i in range(way, n, 3)))
print("counter aio.stock env:test", -2 * n)
print("counter aio.sampled env:test", 12 * n)
print("gauge aio.temperature env:test", n - 1 - 250.5)
print("distribution aio.size env:test,part:body", n, sum(i / 2 for i in range(n)), 0, (n - 1) / 2)
print("distribution aio.price env:test", n, -sum(range(n)), 1 - n, 0)
print("distribution aio.time env:test", 2 * n, 2 * sum(range(n)), 0, n - 1)
