# No library: Python's own sockets, as many programs do it.
import os
import socket
import struct

n = 1000
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect((os.environ["STATSD_HOST"], int(os.environ["STATSD_PORT"])))
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unix.connect(os.environ["STATSD_UNIXGRAM"])

# A value that a float cannot hold, 12 KB in one datagram, and a line that breaks off.
lines = ["packed.count:9007199254740993|c", "packed.count:-9007199254740992|c"] + ["packed.time:%d|ms|#way:%d" % (i, i % 3) for i in range(n)]
packet = "\r\n".join(lines).encode()
assert len(packet) > 12 * 1024
udp.send(packet)
unix.send(packet)
unix.send(b"packed.values:" + b":".join(b"%d" % i for i in range(n)) + b"|d|@0.5\n")
udp.send("größe:1|c|#straße:ä b".encode())
unix.send(b"\n")
unix.send(b"")
unix.send(b"packed.bad:1|q\npacked.bad\npacked.good:1|c")

stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect(os.environ["STATSD_UNIX"])
stream.sendall(struct.pack("<I", len(packet)) + packet)
for byte in struct.pack("<I", 11) + b"trickle:1|c":
    stream.send(bytes([byte]))
stream.close()
unix.send(b"_e{6,4}:deploy|text|t:error|#a:b\n_sc|db.up|3|m:gone\n_sc|db.up|4\n_e{9,9}:x|y")

print("samples", 3 * (n + 2) + n + 2 + 3)
print("rejected bad_type 1")
print("rejected malformed_line 1")
print("rejected bad_event 1")
print("rejected bad_service_check 1")
print("counter packed.count -", 3)
print("counter trickle - 1")
for way in range(3):
    values = range(way, n, 3)
    print("distribution packed.time way:%d" % way, 3 * len(values), 3 * sum(values), values[0], values[-1])
print("distribution packed.values -", 2 * n, 2 * sum(range(n)), 0, n - 1)
print("counter packed.good -", 1)
print("counter größe straße:ä%20b 1")
print("event deploy a:b text=text alert_type=error priority=normal kind=event")
print("event db.up - value=3 status=unknown message=gone kind=service_check")
