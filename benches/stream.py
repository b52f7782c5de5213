#!/usr/bin/env python3
"""The two ends of a measurement: `take`, `give`, `answer`, `ask`. The same for whoever is measured."""

import socket
import statistics
import sys
import time

PORT = 5001
CHUNK = 1 << 20
QUESTION = bytes(64)


def take():
    """Takes one stream and prints how many gigabits a second came."""
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        print("ready", flush=True)
        stream, _ = listener.accept()
        buffer = bytearray(CHUNK)
        total = stream.recv_into(buffer)
        begun = time.perf_counter()
        while size := stream.recv_into(buffer):
            total += size
        print(total * 8 / (time.perf_counter() - begun) / 1e9)


def give(address, seconds):
    chunk = bytes(CHUNK)
    with socket.create_connection((address, PORT), 10) as stream:
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            stream.sendall(chunk)


def answer():
    """Sends back what comes, until something empty comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", PORT))
        print("ready", flush=True)
        while True:
            packet, client = server.recvfrom(2048)
            if not packet:
                return
            server.sendto(packet, client)


def ask(address, count):
    """Prints the median time of a question of 64 bytes with its answer, in seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((address, PORT))
        times = []
        for _ in range(int(count)):
            begun = time.perf_counter()
            client.send(QUESTION)
            client.recv(2048)
            times.append(time.perf_counter() - begun)
        client.send(b"")
        print(statistics.median(times))


if __name__ == "__main__":
    {"take": take, "give": give, "answer": answer, "ask": ask}[sys.argv[1]](*sys.argv[2:])
