#!/usr/bin/env python3
"""Measures the tunnel against direct connections and peers, in interleaved rounds on one machine. See README.md."""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field

import measure
import peers
import tunnel as tunnels
import workloads
from figures import Goal, Verdicts, both, short
from measure import Failure
from peers import ANYPROXY, ANYPROXY_TLS, DIRECT, PLAIN, RATHOLE, RELAY, SERIES, SERIES_TLS, TLS


@dataclass
class Test:
    """One table: what is run, on which tunnels, and what must come of it."""

    about: str
    run: object
    peers: list
    goals: list = field(default_factory=list)
    # Takes long and hardly differs from round to round.
    once: bool = False
    # Starts its tunnel itself, and takes its name and the tools instead.
    starts: bool = False


def at_most(figure, factor, of=None, label=ANYPROXY, over=None):
    return Goal((label, figure), "<=", factor, (of, figure) if of else None, over)


DIRECTIONS = ("down1", "down8", "up1", "up8")
TESTS = {
    "bulk": Test("1 and 8 streams, down and up", workloads.bulk, PLAIN, [
        *(at_most(f"{name}_cpu_s_per_gb", 1.15, SERIES) for name in ("down1", "down8")),
        *(Goal((ANYPROXY, f"{name}_cpu_s_per_gb"), "<", 1.0, (RATHOLE, f"{name}_cpu_s_per_gb")) for name in DIRECTIONS),
    ]),
    "small": Test("small requests on 1 and 64 connections", workloads.small, PLAIN, [
        at_most("conns64_us", 0.75, RATHOLE),
        at_most("conns1_p50", 1.0, RATHOLE, over=DIRECT),
    ]),
    "churn": Test("a connection for each request, 8 at once", workloads.churn, PLAIN, [at_most("us", 0.7, SERIES)]),
    "beside": Test("20 streams of small messages, alone and beside one bulk stream", workloads.beside(20), PLAIN, [
        at_most("beside_p50", 1000),
        at_most("beside_p99", 0.5, RATHOLE),
    ]),
    "beside100": Test("the same with 100 streams", workloads.beside(100), [ANYPROXY], [
        Goal((ANYPROXY, "beside_p99"), "<=", 3.0, (ANYPROXY, "alone_p99")),
    ]),
    "tls": Test("1 and 8 streams down, the way between the sides encrypted", workloads.bulk_down, TLS, [
        at_most(f"{name}_cpu_s_per_gb", 1.1, SERIES_TLS, label=ANYPROXY_TLS) for name in ("down1", "down8")
    ]),
    "restart": Test("the server side killed, and started again two seconds later", workloads.restart,
                    [RELAY, SERIES, RATHOLE, ANYPROXY], [at_most("back_s", 0.3)]),
    "intact": Test("half a gigabyte over 100 streams, every byte looked at", workloads.intact, PLAIN),
    "idle": Test("streams that were used once", workloads.idle, [SERIES, RATHOLE, ANYPROXY], [
        at_most("bytes", 2048), at_most("server_bytes", 1024), at_most("client_bytes", 1024), at_most("descriptors", 2),
    ], once=True),
    "stopped": Test("seven bulk streams beside one whose reader has stopped", workloads.stopped,
                    [SERIES, RATHOLE, ANYPROXY], [
        Goal((ANYPROXY, "kept"), ">=", 0.9), *(Goal((ANYPROXY, f"{side}_grown_mib"), "<", 16) for side in ("server", "client")),
    ], once=True, starts=True),
    "kills": Test("each side killed under load again and again", workloads.kills, [ANYPROXY], [
        *(at_most(f"{side}_{quantile}", most) for side in ("server", "client") for quantile, most in (("p50", 1), ("p99", 2))),
        at_most("left_descriptors", 0),
    ], once=True),
    "quiet": Test("what an idle tunnel says in 15 s", workloads.quiet, [ANYPROXY], [
        at_most("to_client", 1.3), at_most("to_server", 1.3), at_most("bytes", 60),
    ], once=True, starts=True),
    "instructions": Test("in user space, for each request, new stream and KiB, under callgrind", workloads.instructions,
                         [RATHOLE, ANYPROXY], once=True, starts=True),
}


class Bench:
    def __init__(self, options):
        self.options = options
        self.tools = tunnels.Tools(peers.Programs(
            options.anyproxy, options.rathole, descriptors_max=measure.descriptors_max()), options.lab)
        self.verdicts = Verdicts()
        self.failures = 0
        self.results = {}
        self.there = [name for name in options.peers if not self.is_missing(name)]

    def is_missing(self, name):
        why = self.tools.programs.missing(name)
        if why:
            print(f"SKIPPED {name}: {why}", file=sys.stderr, flush=True)
        return why is not None

    def measure(self, name):
        test, options = TESTS[name], self.options
        rows = {peer: [] for peer in test.peers if peer in self.there}
        rounds, lists = 1 if test.once else options.rounds, []
        for turn in range(rounds):
            for peer in rows:
                start = time.monotonic()
                try:
                    figures = self.one(test, peer)
                    lists += [(peer, *one) for one in figures.pop("lists", [])]
                    rows[peer].append(figures)
                    if figures.get("errors"):
                        raise Failure(f"{figures['errors']} errors")
                except measure.FAILURES as failure:
                    self.failures += 1
                    print(f"FAILED {name}, {peer}: {failure}", file=sys.stderr, flush=True)
                if options.verbose:
                    print(f"{name}, {peer}, round {turn + 1}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        self.results[name] = rows
        self.print(name, test, rows, rounds)
        for peer, title, functions in lists:
            if functions:
                print(f"\n{peer}, {title}:")
            for function, count in functions:
                print(f"{count:8.1f}  {function}")

    def one(self, test, peer):
        if test.starts:
            return test.run(peer, self.tools, self.options)
        with tunnels.Tunnel(peer, self.tools) as tunnel:
            return test.run(tunnel, self.options)

    def print(self, name, test, rows, rounds):
        print(f"\n## {name}: {test.about}; {'once' if rounds == 1 else f'{rounds} rounds, best / median'}\n")
        columns = list(dict.fromkeys(column for figures in rows.values() for one in figures for column in one))
        columns = [c for c in columns if c not in ("errors", "foreign")]
        measured = any("foreign" in one for figures in rows.values() for one in figures)
        print("| | " + " | ".join(columns + ["errors", "foreign %"] * measured) + " |")
        print("|---|" + "---:|" * (len(columns) + 2 * measured))
        for peer, figures in rows.items():
            cells = []
            for column in columns:
                # A direct connection has no processes between, and so no costs.
                pair = (None, None) if peer == DIRECT and is_cost(column) else both(figures, column)
                cells.append(short(pair[0]) if rounds == 1 or pair[0] is None else "{} / {}".format(*map(short, pair)))
            if measured:
                cells.append(str(sum(one.get("errors", 0) for one in figures)))
                cells.append(short(max((one["foreign"] for one in figures), default=None)))
            print(f"| {peer} | " + " | ".join(cells) + " |", flush=True)
        self.verdicts.table([goal for goal in test.goals if goal.of[0] in self.options.peers], rows)


def is_cost(column):
    return column.endswith(("_us", "cpu_s_per_gb")) or column == "us"


def chosen(parser, text, there, what):
    names = text.split(",") if text else list(there)
    for name in names:
        if name not in there:
            parser.error(f"{name}: no such {what}; there are {', '.join(there)}")
    return names


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench tunnel", description=__doc__)
    parser.add_argument("tests", nargs="?", help="of " + ",".join(TESTS) + "; all without it")
    parser.add_argument("--rounds", type=int, default=5, help="how often each tunnel is measured (5)")
    parser.add_argument("--secs", type=float, default=3, help="seconds of each measurement (3)")
    parser.add_argument("--peers", help="of " + ",".join(peers.NAMES) + "; all without it")
    parser.add_argument("--idle-streams", type=int, default=10_000, help="streams of anyproxy in `idle` (10,000)")
    parser.add_argument("--stop-secs", type=float, default=60, help="how long the reader in `stopped` stops (60)")
    parser.add_argument("--kills", type=int, default=50, help="how often each side is killed in `kills` (50)")
    parser.add_argument("--quiet-secs", type=float, default=90, help="how long is listened in `quiet` (90)")
    parser.add_argument("--functions", type=int, default=0, help="functions to list with `instructions` (0)")
    parser.add_argument("--json", help="a file for every single figure")
    parser.add_argument("--strict", action="store_true", help="fail when a goal is missed or has no figure, too")
    parser.add_argument("--verbose", action="store_true", help="say how long each measurement took")
    for hidden in ("--anyproxy", "--rathole", "--lab"):
        parser.add_argument(hidden, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tests = chosen(parser, options.tests, TESTS, "test")
    options.peers = chosen(parser, options.peers, peers.NAMES, "tunnel")
    if options.rounds < 1 or options.secs <= 0 or options.idle_streams < 1 or options.kills < 1:
        parser.error("at least one round of more than zero seconds, one stream and one kill")
    if len(measure.CPUS) < 2:
        print("only one processor: tunnel and load share it", file=sys.stderr)
    measure.end_by_signals()
    bench = Bench(options)
    print("; ".join(bench.tools.programs.versions()), flush=True)
    for name in tests:
        bench.measure(name)
        if options.json:
            with open(options.json, "w") as file:
                json.dump(bench.results, file, indent=1)
    print(f"\n{bench.verdicts.text()}, {bench.failures} measurements failed")
    sys.exit(1 if bench.failures or (options.strict and not bench.verdicts.are_good) else 0)


main()
