#!/usr/bin/env python3
"""Measures an event loop against a bare epoll loop, in interleaved rounds on one machine. See README.md."""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field

import measure
from figures import Goal, Verdicts, both, ratio_text, ratios, short
from measure import Failure, Server

RAW, TOKIO, POLLER = "raw", "tokio-ct", "poller"


@dataclass
class Sample:
    """One line of a workload's table."""

    label: str
    server: str
    load: list
    warm_up: bool = True


@dataclass
class Workload:
    protocol: str
    samples: list
    goals: list = field(default_factory=list)


def each(servers, load):
    return [Sample(server, server, load) for server in servers]


def cost(factor):
    return Goal((POLLER, "us"), "<=", factor, (RAW, "us"))


def rate(factor):
    return Goal((POLLER, "req_per_s"), ">=", factor, (RAW, "req_per_s"))


HTTP64 = ["--conns", "64"]
PEERS = [RAW, POLLER, TOKIO]
HINT, HINT_ALONE, COLD = "poller-hint", "poller-hint, undisturbed", "poller, cold"
SLOW = [*HTTP64, "--slowpct", "1"]
PINGS = ["--conns", "100", "--size", "1024"]
WORKLOADS = {
    "lplain": Workload("http", each(PEERS, HTTP64), [cost(1.03), rate(0.97)]),
    "lpipe16": Workload("http", each(PEERS, [*HTTP64, "--pipeline", "16"]), [rate(0.95)]),
    "rpc100": Workload("rpc", each(PEERS, PINGS), [cost(1.03)]),
    "rpc1000": Workload("rpc", each(PEERS, ["--conns", "1000", "--size", "1024"]), [
        cost(1.03),
        Goal((POLLER, "req_per_s"), ">", 1.0, (TOKIO, "req_per_s")),
        Goal((POLLER, "p99"), "<=", 1.1, (RAW, "p99")),
    ]),
    "slow1": Workload("http", [
        Sample(HINT_ALONE, HINT, HTTP64),
        Sample(HINT, HINT, SLOW),
        Sample(COLD, POLLER, SLOW, warm_up=False),
        Sample(RAW, RAW, SLOW),
    ], [
        Goal((HINT, "req_per_s"), ">=", 0.85, (HINT_ALONE, "req_per_s")),
        Goal((HINT, "p99"), "<=", 1.2, (HINT_ALONE, "p99")),
        Goal((COLD, "first_p99"), "<=", 1700),
        Goal((COLD, "first_req_per_s"), ">=", 0.4, (HINT_ALONE, "req_per_s")),
        Goal((COLD, "later_req_per_s"), ">=", 0.85, (HINT_ALONE, "req_per_s")),
        Goal((COLD, "later_p99"), "<=", 1.2, (HINT_ALONE, "p99")),
    ]),
    "churn": Workload("http", each(["raw-defer", "poller-defer", RAW, POLLER, TOKIO], [*HTTP64, "--churn"]), [
        Goal(("poller-defer", "us"), "<=", 1.05, ("raw-defer", "us")),
    ]),
    "firehose": Workload("rpc", [
        Sample("poller, alone", POLLER, PINGS),
        Sample(POLLER, POLLER, [*PINGS, "--firehose"]),
        Sample("raw, alone", RAW, PINGS),
        Sample(RAW, RAW, [*PINGS, "--firehose"]),
    ], [Goal((POLLER, "p99"), "<=", 2.0, ("poller, alone", "p99"))]),
}
IDLE_CONNS, IDLE_BYTES_MAX = 10_000, 200
INSTRUCTIONS_MAX = {1: 1400, 16: 700}


def commands(programs, lab):
    """How each server is started for a protocol; its port and protocol follow."""

    def floor(*flags):
        return lambda _: [os.path.join(lab, "raw"), *flags]

    def example(*flags):
        return lambda protocol: [os.path.join(programs, "examples", protocol), *flags]

    return {
        RAW: floor(),
        "raw-defer": floor("--defer"),
        TOKIO: lambda _: [os.path.join(lab, "tokio_ct")],
        POLLER: example(),
        HINT: example("--hint"),
        "poller-defer": example("--defer"),
    }


class Bench:
    def __init__(self, options):
        self.servers = commands(options.programs, options.lab)
        self.load = os.path.join(options.lab, "load")
        self.options = options
        self.failures = 0
        self.verdicts = Verdicts()
        self.results = {}

    def server(self, name, protocol):
        return Server(self.servers[name](protocol), protocol)

    def fail(self, what, failure):
        self.failures += 1
        print(f"FAILED {what}: {failure}", file=sys.stderr, flush=True)

    def throughput(self, name):
        workload, options = WORKLOADS[name], self.options
        rows = {sample.label: [] for sample in workload.samples}
        for _ in range(options.rounds):
            for sample in workload.samples:
                try:
                    with self.server(sample.server, workload.protocol) as server:
                        figures = measure.sample(
                            self.load, server, [*sample.load, "--secs", str(options.secs)], sample.warm_up)
                    rows[sample.label].append(figures)
                    if figures["errors"]:
                        raise Failure(f"{figures['errors']} errors")
                except measure.FAILURES as failure:
                    self.fail(f"{name}, {sample.label}", failure)
        self.results[name] = rows
        print(f"\n## {name}: {options.rounds} rounds of {options.secs:g} s, best / median\n")
        columns = ["req_per_s", "us", "p50", "p99", "p999"]
        if any(not sample.warm_up for sample in workload.samples):
            columns += ["first_req_per_s", "first_p99", "later_req_per_s", "later_p99", "slow_p50"]
        if name == "firehose":
            columns.append("firehose_mb_per_s")
        columns += ["sleeps", "client_us"]
        compared = [(figure, RAW) for figure in ("req_per_s", "us", "p99") if RAW in rows]
        print("| server | " + " | ".join([*columns, *(f"{f} / {b}" for f, b in compared), "errors", "foreign %"]) + " |")
        print("|---|" + "---:|" * (len(columns) + len(compared) + 2))
        for label, figures in rows.items():
            cells = ["{} / {}".format(*map(short, both(figures, column))) for column in columns]
            cells += ["{} / {}".format(*map(ratio_text, ratios(rows, (label, f), (b, f)))) for f, b in compared]
            cells.append(str(sum(f["errors"] for f in figures)))
            cells.append(short(max((f["foreign"] for f in figures), default=None)))
            print(f"| {label} | " + " | ".join(cells) + " |")
        self.verdicts.table(workload.goals, rows)

    def idle(self):
        print(f"\n## idle: {IDLE_CONNS} connections, each used once\n")
        print("| server | bytes each | KiB before | with them | after them | goal |\n|---|---:|---:|---:|---:|---|")
        for name in PEERS:
            try:
                with self.server(name, "http") as server:
                    each_bytes, *kib = measure.idle_memory(self.load, server, IDLE_CONNS)
            except measure.FAILURES as failure:
                self.fail(f"idle, {name}", failure)
                continue
            self.results.setdefault("idle", {})[name] = each_bytes
            goal = f"<= {IDLE_BYTES_MAX}: {self.verdicts.of(each_bytes <= IDLE_BYTES_MAX)}" if name == POLLER else ""
            print(f"| {name} | {each_bytes:.0f} | {kib[0]} | {kib[1]} | {kib[2]} | {goal} |", flush=True)

    def instructions(self):
        print("\n## instructions: user space, for each request, 64 connections\n")
        print("| server | depth | instructions | goal |\n|---|---:|---:|---|")
        lists = []
        for name in (RAW, POLLER):
            for depth, most in INSTRUCTIONS_MAX.items():
                try:
                    each_request, top = measure.instructions(
                        self.load, self.servers[name]("http"), "http", depth, 20_000 * depth, self.options.functions)
                except measure.FAILURES as failure:
                    self.fail(f"instructions, {name}, depth {depth}", failure)
                    continue
                self.results.setdefault("instructions", {})[f"{name} {depth}"] = each_request
                goal = f"<= {most}: {self.verdicts.of(each_request <= most)}" if name == POLLER else ""
                print(f"| {name} | {depth} | {each_request:.0f} | {goal} |", flush=True)
                lists.append((f"{name}, depth {depth}", top))
        for title, top in lists:
            if top:
                print(f"\n{title}:")
            for function, count in top:
                print(f"{count:8.1f}  {function}")

    def quiet(self):
        seconds = max(self.options.secs, 3)
        print(f"\n## quiet: wake-ups of an idle process in {seconds:g} s\n")
        print("| server | after its start | after load, with 100 idle connections | goal |\n|---|---:|---:|---|")
        for name in PEERS:
            try:
                with self.server(name, "http") as server:
                    time.sleep(1)
                    started = measure.wake_ups(server, seconds)
                    measure.run_load(self.load, server, [*HTTP64, "--secs", "1"])
                    with measure.held_connections(self.load, server, 100):
                        time.sleep(1)
                        used = measure.wake_ups(server, seconds)
            except measure.FAILURES as failure:
                self.fail(f"quiet, {name}", failure)
                continue
            self.results.setdefault("quiet", {})[name] = [started, used]
            goal = f"0: {self.verdicts.of(started + used == 0)}" if name == POLLER else ""
            print(f"| {name} | {started} | {used} | {goal} |", flush=True)


def main():
    names = [*WORKLOADS, "idle", "instructions", "quiet"]
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("subject", help="what is measured: poller")
    parser.add_argument("workloads", nargs="?", help="of " + ",".join(names) + "; all without it")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is measured (5)")
    parser.add_argument("--secs", type=float, default=3, help="seconds of each measurement (3)")
    parser.add_argument("--functions", type=int, default=0, help="functions to list with `instructions` (0)")
    parser.add_argument("--json", help="a file for every single figure")
    parser.add_argument("--programs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--lab", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subject != "poller":
        parser.error(f"{options.subject}: cannot be measured; there is poller")
    chosen = options.workloads.split(",") if options.workloads else names
    for name in chosen:
        if name not in names:
            parser.error(f"{name}: no such workload; there are {', '.join(names)}")
    if options.rounds < 1 or options.secs <= 0:
        parser.error("at least one round of more than zero seconds")
    if len(measure.CPUS) < 2:
        print("only one processor: server and client share it", file=sys.stderr)
    measure.end_by_signals()
    bench = Bench(options)
    for name in chosen:
        if name in WORKLOADS:
            bench.throughput(name)
        else:
            getattr(bench, name)()
        if options.json:
            with open(options.json, "w") as file:
                json.dump(bench.results, file, indent=1)
    print(f"\n{bench.verdicts.text()}, {bench.failures} measurements failed")
    sys.exit(1 if bench.failures else 0)


main()
