"""The table, and the machine it was made on."""

import os
import platform
import time
from pathlib import Path
from statistics import median

INTRODUCTION = """\
# Benchmarks

`make bench` measures rnet beside the peers that are installed and prints this table;
`benches/run.py target/release --write` keeps it here. Every engine runs in namespaces of its own on
the same machine, with the same image (the toolbox that is built into rnet). The peers take turns,
so that a busy moment hits all of them. A cell is the median of its runs with the least and the
most; *×* says how many times rnet's figure that is, with the least and the most of the single
turns. The API is spoken over one kept connection to the unix socket; *CLI* includes the start of
the command. Connections come from another network namespace, over a veth pair. What engines and
runtimes keep no longer than the machine is up is on a tmpfs, as /run is.

A removed memory cgroup stays in the kernel as long as pages of its files are cached, and makes new ones
slower: with more than 1,000 of them a start of rnet took 12 to 14 ms instead of 9.5 ms. So caches are
dropped before each group of rows.

"""


def table(rows, peers):
    lines = ["| | " + " | ".join(peers) + " |", "|---|" + "---:|" * len(peers)]
    notes = []
    for row in rows:
        cells = [cell(row, peer, notes) for peer in peers]
        if row.note:
            notes.append(row.note)
            row_title = f"{row.title} [{len(notes)}]"
        else:
            row_title = row.title
        lines.append(f"| {row_title} | " + " | ".join(cells) + " |")
    lines += [""] + [f"[{number}] {note}  " for number, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def cell(row, peer, notes):
    samples = row.samples.get(peer)
    if not samples:
        if peer in row.failures:
            notes.append(f"{peer}: {row.failures[peer]}")
            return f"– [{len(notes)}]"
        return ""
    text = value(row.unit, median(samples))
    if len(samples) > 1:
        text += f" ({number(row.unit, min(samples))}–{number(row.unit, max(samples))})"
    ours = row.samples.get("rnet")
    if ours and peer != "rnet" and median(ours) > 0:
        turns = [theirs / own for theirs, own in zip(samples, ours) if own > 0]
        text += f" **{ratio(median(samples) / median(ours))}**"
        if len(turns) > 1:
            text += f" ({ratio(min(turns))}–{ratio(max(turns))})"
    return text


def number(unit, sample):
    if unit == "/s":
        return f"{sample:,.0f}"
    scaled = sample * 1000 if unit == "ms" else sample
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"


def value(unit, sample):
    return f"{number(unit, sample)} {unit}" if unit != "/s" else f"{number(unit, sample)}/s"


def ratio(figure):
    return f"×{figure:.0f}" if figure >= 10 else f"×{figure:.2g}"


# What slows a machine down that seems to be at rest.
BURDEN = []


def machine(versions):
    cpu = "unknown processor"
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            cpu = text.split(":", 1)[1].strip()
            break
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cgroups = "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1"
    busy = " ".join(f"{load:.1f}" for load in os.getloadavg())
    lines = [
        f"- {time.strftime('%Y-%m-%d')}, {cpu}, {os.cpu_count()} processors, {total:.0f} GiB",
        f"- Linux {platform.release()}, cgroup {cgroups}, load when it ended: {busy}",
        f"- before anything ran: {', '.join(BURDEN) or 'not looked at'}",
        f"- {', '.join(versions)}",
    ]
    return "\n".join(lines) + "\n"


def document(rows, peers, versions, runs):
    runs = f"At least {runs} runs, fewer where a row takes seconds.\n"
    return INTRODUCTION + machine(versions) + "\n" + runs + "\n" + table(rows, peers)
