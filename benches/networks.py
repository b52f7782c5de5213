"""Many networks on one host."""

import time


def networks(bench):
    """The same create with few networks and with many, each with a subnet of the default pools. An
    engine whose pools are empty earlier says so."""
    many = 200 if bench.quick else 2000
    first = bench.row("network create (default pools), the first ones")
    last = bench.row(f"network create (default pools), with {many} there")

    def timed(engine, names):
        begun = time.perf_counter()
        names.append(engine.api.create_network("many" + bench.name()))
        return time.perf_counter() - begun

    def fill(engine):
        made = []
        try:
            for _ in range(bench.runs):
                first.add(engine.name, timed(engine, made))
            while len(made) < many:
                timed(engine, made)
            for _ in range(bench.runs):
                last.add(engine.name, timed(engine, made))
        except Exception as error:
            last.fail(engine.name, f"after {len(made)} networks: {error}")
        finally:
            for network in made:
                engine.api.remove_network(network)

    for engine in bench.engines:
        fill(engine)


ROWS = {"networks": networks}
