#!/usr/bin/env python3
"""The two ends of a measurement: `take`, `give`, `answer`, `ask`, `await`. The same for whoever is measured."""

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


def until_reached(name):
    """Asks for a name every millisecond until it is known, then there until something comes back; prints when
    that was. Who asks for an address before it is known waits for the kernel's next attempt instead."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"
    print("ready", flush=True)
    answer = repeated(("127.0.0.11", 53), query, lambda packet: packet[7] > 0)
    repeated((socket.inet_ntoa(answer[-4:]), PORT), QUESTION, lambda packet: packet == QUESTION)
    print(time.monotonic())


def repeated(server, question, good):
    """The first good answer to a question that is sent every millisecond."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.001)
        client.connect(server)
        while True:
            try:
                client.send(question)
                answer = client.recv(2048)
                if good(answer):
                    return answer
            except OSError:
                continue


if __name__ == "__main__":
    {"take": take, "give": give, "answer": answer, "ask": ask, "await": until_reached}[sys.argv[1]](*sys.argv[2:])
