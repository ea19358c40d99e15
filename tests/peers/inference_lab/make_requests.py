"""make_requests.py TRACE OUT-FOLDER: requests that inference-lab and lenaware both read.

trace.csv: Azure's conversation trace in order of arrival. many.csv: 100,000 of its lengths, drawn
with replacement (seed 1), Poisson arrivals at RATE a second. Both with the trace's columns.
"""

import csv
import datetime
import random
import sys

RATE = 6.0
trace, out = sys.argv[1:3]
start = datetime.datetime(2023, 11, 16)


def seconds(stamp):
    whole, _, part = stamp.partition(".")
    return (datetime.datetime.fromisoformat(whole) - start).total_seconds() + float("0." + (part or "0"))


def write(name, requests):
    with open(f"{out}/{name}", "w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for at, prompt, answer in requests:
            day = start + datetime.timedelta(seconds=int(at))
            file.write(f"{day:%Y-%m-%d %H:%M:%S}.{int((at - int(at)) * 1e7):07d},{prompt},{answer}\n")


with open(trace) as file:
    rows = [(seconds(r["TIMESTAMP"]), int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(file)]
rows.sort()
rows = [(at - rows[0][0], prompt, answer) for at, prompt, answer in rows]
write("trace.csv", rows)
draw = random.Random(1)
now, many = 0.0, []
for _ in range(100_000):
    many.append((now, *draw.choice(rows)[1:]))
    now += draw.expovariate(RATE)
write("many.csv", many)
