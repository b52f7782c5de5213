"""What is measured, row by row. Peers take turns, so that a busy moment hits all of them."""

import math
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from lab import memory

NETWORK = "bench"
"""A network of the user's own, on every engine."""

SUBNET = "10.230.0.0/16"
"""Large enough for all containers of a row, whatever an engine's own pools are."""

FIRST_PORT = 20000


class Row:
    """Samples of one measurement, by peer; in seconds, connections per second or MiB."""

    def __init__(self, title, unit="ms", note=""):
        self.title = title
        self.unit = unit
        self.note = note
        self.samples = {}
        self.failures = {}

    def add(self, peer, value):
        self.samples.setdefault(peer, []).append(value)

    def fail(self, peer, error):
        self.failures[peer] = str(error).splitlines()[0][:600] if str(error) else repr(error)


class Bench:
    """The peers, how often they are asked, and how long they may take."""

    def __init__(self, lab, engines, runtimes, options):
        self.lab = lab
        self.engines = engines
        self.runtimes = runtimes
        self.runs = options.runs
        self.quick = options.quick
        self.cap = 20 if options.quick else 60
        self.tool = options.tool
        self.binaries = options.binaries
        self.say = options.say
        self.numbers = count(1)
        self.rows = []

    def row(self, title, unit="ms", note=""):
        row = Row(title, unit, note)
        self.rows.append(row)
        self.say(title)
        return row

    def name(self):
        return f"b{next(self.numbers)}"

    def rnet(self):
        return next(engine for engine in self.engines if engine.name == "rnet")

    def turns(self, row, peers, once, runs=None, warm=False):
        """Calls `once(peer)` for each peer in turn, one time for nothing. What it returns is kept.
        Every other turn goes the other way round: who comes after whom decides some rows.
        With `warm` it is called twice in each turn and counts once: a start that follows a removal
        by another engine pays for what that goes on with after its answer. The first turn of who takes
        too long for another one counts."""
        runs = runs or self.runs
        spent = dict.fromkeys(peers, 0.0)
        for turn in range(runs + 1):
            for peer in list(spent)[:: -1 if turn % 2 else 1]:
                begun = time.monotonic()
                try:
                    if warm:
                        once(peer)
                    value = once(peer)
                except Exception as error:  # Whatever a peer does wrong, the others go on.
                    row.fail(peer.name, error)
                    del spent[peer]
                    continue
                spent[peer] += time.monotonic() - begun
                is_last = spent[peer] > self.cap and not peer.ours
                if turn > 0 or is_last:
                    row.add(peer.name, value)
                if is_last:
                    del spent[peer]

    def each(self, row, once):
        """What `once` returns for each engine for which it succeeds."""
        done = {}
        for engine in self.engines:
            try:
                done[engine] = once(engine)
            except Exception as error:
                row.fail(engine.name, error)
        return done

    def start(self, engine, command=("trap", "0"), **options):
        """The time of a start, and the container that now runs."""
        id = engine.create(list(command), **options)
        try:
            taken = timed(engine.api.start, id)
        except Exception:
            engine.api.remove(id)
            raise
        return taken, id

    def start_once(self, engine, **options):
        taken, id = self.start(engine, **options)
        engine.api.remove(id)
        return taken


def timed(function, *arguments):
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def line(command):
    """The time of a command line; its failure is told with what it wrote."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    taken = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace").strip() or done.returncode)
    return taken


# --- the rows ---


def start(bench):
    row = bench.row("API start, no network")
    bare = {"network": "none"}
    bench.turns(row, bench.engines, lambda engine: bench.start_once(engine, **bare), warm=True)
    row = bench.row("API start, bridge + name + 1 published port")
    bench.turns(row, bench.engines, lambda engine: with_port(bench, engine), warm=True)


def with_port(bench, engine):
    return bench.start_once(engine, network=NETWORK, name=bench.name(), ports=[FIRST_PORT])


def runtime(bench):
    row = bench.row(
        "API start as above / `run --detach` by the runtime alone",
        note="the runtimes: same files, `spec`'s configuration, no network, no seccomp",
    )

    def once(peer):
        if peer in bench.engines:
            return with_port(bench, peer)
        begun = time.perf_counter()
        id = peer.run()
        taken = time.perf_counter() - begun
        peer.remove(id)
        return taken

    bench.turns(row, [bench.rnet(), *bench.runtimes], once, warm=True)


def run(bench):
    row = bench.row("`run --rm` by CLI, default network")
    bench.turns(row, bench.engines, lambda engine: line(engine.run_line(engine.image, "true")))


def execute(bench):
    row = bench.row("exec `true` by CLI")
    targets = bench.each(row, lambda engine: bench.start(engine, network="none")[1])
    bench.turns(row, targets, lambda engine: line(engine.cli("exec", targets[engine], "true")))
    row = bench.row("exec `true` by API, to the end of its output")
    bench.turns(
        row, targets, lambda engine: timed(engine.api.execute, targets[engine], ["true"])
    )
    for engine, id in targets.items():
        engine.api.remove(id)


def stop(bench):
    row = bench.row("API stop, the process ends on SIGTERM, bridge + 1 port")

    def once(engine):
        options = {"network": NETWORK, "name": bench.name(), "ports": [FIRST_PORT]}
        _, id = bench.start(engine, **options)
        # The program has to have its handler in place.
        time.sleep(0.1)
        taken = timed(engine.api.stop, id)
        engine.api.remove(id)
        return taken

    bench.turns(row, bench.engines, once)


def parallel(bench, engine, number, until=math.inf):
    """Creates and starts containers, 8 at a time. Returns each one's time of start and its id."""

    def one(_):
        if time.monotonic() > until:
            return None
        api = engine.api.again()
        try:
            id = api.create(engine.image, ["trap", "0"], bench.lab.parent, bench.name(), NETWORK)
            return timed(api.start, id), id
        finally:
            api.close()

    with ThreadPoolExecutor(8) as pool:
        return [done for done in pool.map(one, range(number)) if done]


def clear(engine, started):
    def one(done):
        api = engine.api.again()
        api.remove(done[1])
        api.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, started))


def fifty(bench):
    for number in (50,) if bench.quick else (50, 200):
        row = bench.row(f"{number} containers on a bridge, 8 at a time: all running")

        def once(engine, number=number):
            begun = time.perf_counter()
            started = parallel(bench, engine, number)
            taken = time.perf_counter() - begun
            clear(engine, started)
            return taken

        bench.turns(row, bench.engines, once, 1 if bench.quick else 3)


def density(bench):
    """With few, with many, and with few again: machines drift in the time that it takes. What was
    started is removed after each row, for a removal goes on in the kernel long after its answer.
    """
    many = 50 if bench.quick else 500
    first = bench.row(
        "API start (bridge + name + 1 port) with 1 running",
        note="before and after the next row, half of the runs each",
    )
    others = bench.each(first, lambda engine: parallel(bench, engine, 1))
    half = max(1, bench.runs // 2)
    in_addition(bench, first, others, half)
    second = bench.row(f"API start (bridge + name + 1 port) with {many} running")
    resting = Row(f"memory with {many} running: daemon RSS", "MiB")
    for engine in list(others):
        until = math.inf if engine.ours else time.monotonic() + 2 * bench.cap
        try:
            others[engine] += parallel(bench, engine, many - 1, until)
            if len(others[engine]) < many:
                raise RuntimeError(f"only {len(others[engine])} in {2 * bench.cap} s")
            in_addition(bench, second, [engine], bench.runs)
        except Exception as error:
            second.fail(engine.name, error)
        if engine.ours and engine.name in second.samples:
            daemons = engine.daemons()["daemon"]
            resting.add(engine.name, sum(memory(pid, "VmRSS") for pid in daemons))
        clear(engine, others[engine][1:])
    bench.rows.append(resting)
    in_addition(bench, first, others, half)
    for engine, started in others.items():
        clear(engine, started[:1])


def in_addition(bench, row, engines, runs):
    """Starts containers with a port each that stay until the last has started."""
    numbers = count(FIRST_PORT)
    started = []

    def once(engine):
        options = {"network": NETWORK, "name": bench.name(), "ports": [next(numbers)]}
        done = bench.start(engine, **options)
        started.append((engine, done[1]))
        return done[0]

    settle(bench)
    try:
        bench.turns(row, engines, once, runs)
    finally:
        for engine, id in started:
            engine.api.remove(id)


def settle(bench):
    """Waits until the kernel has nothing left to do: it removes namespaces long after their end."""

    def idle():
        return int(Path("/proc/stat").read_text().split()[4])

    for _ in range(bench.cap):
        before, begun = idle(), time.monotonic()
        time.sleep(0.5)
        ticks = (time.monotonic() - begun) * os.sysconf("SC_CLK_TCK") * os.cpu_count()
        if idle() - before > 0.95 * ticks:
            return


def network(bench):
    row = bench.row("network create (bridge)")

    def once(engine):
        begun = time.perf_counter()
        id = engine.api.create_network("n" + bench.name())
        taken = time.perf_counter() - begun
        engine.api.remove_network(id)
        return taken

    bench.turns(row, bench.engines, once)


def ports(bench):
    """What publishing adds to a start: its time less that of the same start without a port."""
    bare = bench.row("API start, bridge + name, no port")
    bench.turns(
        bare,
        bench.engines,
        lambda engine: bench.start_once(engine, network=NETWORK, name=bench.name()),
        warm=True,
    )
    peers = [engine for engine in bench.engines if engine.name in bare.samples]
    for number in (1, 100, 10_000):
        row = bench.row(f"publishing {number:,} ports: what they add to that start")
        for peer in list(peers):
            if number > 100 and not peer.ours:
                row.fail(peer.name, f"not tried: 100 took {slowest(previous, peer):.1f} s")
                peers.remove(peer)
        wanted = range(FIRST_PORT, FIRST_PORT + number)

        def once(engine, wanted=wanted):
            base = sorted(bare.samples[engine.name])[len(bare.samples[engine.name]) // 2]
            # Both families, if it is rnet: that is what `-p` without an address asks for.
            address = "" if engine.ours else "0.0.0.0"
            options = {"network": NETWORK, "name": bench.name(), "ports": wanted,
                       "address": address}
            return max(0.0, bench.start_once(engine, **options) - base)

        few = number < 1000
        bench.turns(row, peers, once, bench.runs if few else max(5, bench.runs // 4), warm=few)
        previous = row
    programming(bench)


def programming(bench):
    """The kernel's part of publishing, as rnet's own log tells it."""
    row = bench.row(
        "publishing 10,000 ports of both families: the transaction in the kernel",
        note="20,000 elements, as the daemon's log has it",
    )

    def once(engine):
        lines = []
        options = {"network": NETWORK, "name": bench.name()}
        id = engine.create(
            ["trap", "0"], ports=range(FIRST_PORT, FIRST_PORT + 10_000), address="", **options
        )
        with engine.log_of(lines):
            engine.api.start(id)
        engine.api.remove(id)
        found = [re.search(r"programmed elements=(\d+) us=(\d+)", line) for line in lines]
        taken = [int(match[2]) for match in found if match and int(match[1]) >= 10_000]
        if not taken:
            raise RuntimeError("the daemon's log does not tell")
        return taken[0] / 1e6

    bench.turns(row, [bench.rnet()], once, max(5, bench.runs // 4))


def slowest(row, peer):
    return max(row.samples.get(peer.name, [0]))


def figures(output):
    """The `name=value` line of a load generator."""
    found = dict(re.findall(r"(rate|p50|p99|count|failed)=([\d.]+)", output))
    if "rate" not in found:
        raise RuntimeError(output.strip(" \0\1\2\n") or "the load generator said nothing")
    if float(found["failed"]) > float(found["count"]) / 1000:
        raise RuntimeError(f"{found['failed']} of {found['count']} failed")
    return {name: float(value) for name, value in found.items()}


def load(bench):
    """From another machine, a connection for each request, the published ports in turn."""
    seconds = "0.5" if bench.quick else "2"
    for number in (10, 10_000):
        rate = bench.row(f"connections/s through {number:,} published ports", "/s")
        half = bench.row(f"p50 of a connection with its request, {number:,} ports")
        wanted = range(FIRST_PORT, FIRST_PORT + number)
        last = FIRST_PORT + number - 1

        def server(engine, number=number, wanted=wanted):
            if number > 10 and not engine.ours:
                raise RuntimeError("not tried: it takes minutes to publish them")
            options = {"network": NETWORK, "name": bench.name(), "ports": wanted}
            return bench.start(engine, ["httpd"], **options)[1]

        targets = bench.each(rate, server)

        def once(engine, half=half, last=last):
            command = [bench.tool, "load", "-t", seconds, engine.host.address,
                       f"{FIRST_PORT}-{last}"]
            found = figures(output_of(bench.lab.client.enter(command)))
            half.add(engine.name, found["p50"] / 1e6)
            return found["rate"]

        bench.turns(rate, targets, once, 2 if bench.quick else 10)
        for engine, id in targets.items():
            engine.api.remove(id)


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def dns(bench):
    """Asked from inside a container, as a program there would."""
    upstream = bench.lab.spawn(bench.lab.client.enter([bench.tool, "dns-server"]), "upstream.log")
    seconds = "0.5" if bench.quick else "2"
    targets = None

    def pair(engine):
        if engine.name == "podman":
            raise RuntimeError("its containers ask the host's resolver, without a plugin for names")
        started = [bench.start(engine, network=NETWORK, name=bench.name()) for _ in range(2)]
        return [id for _, id in started]

    for title, arguments in (
        ("local name", lambda engine: [targets[engine][0][:12]]),
        ("forwarded, each another name", lambda _: ["-u", "example.org"]),
    ):
        rate = bench.row(f"DNS queries/s, {title}", "/s")
        most = bench.row(f"DNS p99, {title}")
        if targets is None:
            targets = bench.each(rate, pair)

        def once(engine, most=most, arguments=arguments):
            command = ["dns-load", "-t", seconds, *arguments(engine)]
            answer = engine.api.execute(targets[engine][1], command).decode(errors="replace")
            found = figures(answer)
            most.add(engine.name, found["p99"] / 1e6)
            return found["rate"]

        bench.turns(rate, targets, once, 2 if bench.quick else 10)
    for engine, ids in targets.items():
        for id in ids:
            engine.api.remove(id)
    upstream.terminate()


def resting(bench):
    """Before all else, idle but for one container, and after ten seconds of that: engines give back
    what they do not need when they have nothing to do."""
    total = bench.row("memory: daemons together, RSS", "MiB")
    shims = bench.row("memory: what stands by one container, PSS", "MiB")
    one = bench.each(shims, lambda engine: bench.start(engine, network=NETWORK)[1])
    time.sleep(10)
    for engine in bench.engines:
        daemons = {
            name: sum(memory(pid, "VmRSS") for pid in found)
            for name, found in engine.daemons().items()
        }
        total.add(engine.name, sum(daemons.values()))
        parts = ", ".join(f"{name} {value:.1f}" for name, value in daemons.items())
        total.note += f"{'; ' if total.note else ''}{parts}"
        if engine in one:
            # One may be ending, and one may wait for the next container.
            shims.add(engine.name, max(filter(None, map(pss, engine.shims()))))
    for engine, id in one.items():
        engine.api.remove(id)


def pss(pid):
    try:
        return memory(pid, "Pss")
    except OSError:
        return None


ROWS = {
    "memory": resting,
    "start": start,
    "runtime": runtime,
    "run": run,
    "exec": execute,
    "stop": stop,
    "network": network,
    "fifty": fifty,
    "ports": ports,
    "load": load,
    "dns": dns,
    "density": density,
}
