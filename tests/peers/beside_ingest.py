#!/usr/bin/env python3
"""What honest requests wait for while the appliance ingests hostile documents.

    python tests/peers/beside_ingest.py target/release/cloister [--seconds 20] [--rounds 3] [--threads N]

Makes an installation in a temporary directory, trains a tiny model, and serves it. Then it asks, one request after another
over one connection, for `/v1/models` and for eight tokens: in turns with nothing beside it, and while `data ingest` eats
documents that bite, over and over. Prints percentiles of each, by kind of turn. Asserts nothing. Needs Python alone.
"""

import argparse
import http.client
import io
import json
import pathlib
import re
import ssl
import subprocess
import tempfile
import threading
import time
import zipfile
import zlib

RUN = """layers = 2
dim = 64
heads = 4
kv_heads = 2
ffn = 128
context = 128
micro_batch = 4
batch_tokens = 512
steps = 20
learning_rate = 1e-3
[purpose]
for_whom = "measuring"
for_what = "measuring"
not_for_what = "anything else"
"""


# What one token may ask for must not be what is measured.
UNBOUNDED = ["--requests-a-minute", "1000000", "--tokens-a-minute", "100000000"]


def docx(parts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in parts:
            package.writestr(name, content)
    return file.getvalue()


def laughs(element):
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 30)
    )
    return f'<?xml version="1.0"?><!DOCTYPE x [{entities}]><x><{element}>&a29;</{element}></x>'


def pdf(objects, content=b"", pages=1):
    kids = " ".join(f"{10 + page} 0 R" for page in range(pages))
    file = b"%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n"
    file += f"2 0 obj <</Type/Pages/Kids[{kids}]/Count {pages}>> endobj\n".encode()
    for page in range(pages):
        file += f"{10 + page} 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R{objects}>> endobj\n".encode()
    packed = zlib.compress(content, 1)
    file += f"4 0 obj <</Length {len(packed)}/Filter/FlateDecode>> stream\n".encode() + packed
    return file + b"\nendstream endobj\nstartxref\n0\n%%EOF"


def hostile(folder):
    """What src/corpus/hostile_tests.rs makes, as far as it takes its reader any time."""
    external = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x><w:t>&e;</w:t></x>'
    files = {
        "bomb.docx": docx([("word/document.xml", b" " * (40 << 20))]),
        "bomb-in-parts.docx": docx([("word/document.xml", b" " * (1 << 20))] + [(f"word/header{n}.xml", b" " * (1 << 20)) for n in range(140)]),
        "many-parts.docx": docx([(f"word/{n}", b"") for n in range(20_001)]),
        "deep.docx": docx([("word/document.xml", "<a>" * 100_000)]),
        "laughs.docx": docx([("word/document.xml", laughs("w:t"))]),
        "external.docx": docx([("word/document.xml", external)]),
        "laughs.xml": laughs("t").encode(),
        "deep.html": b"<!doctype html>" + b"<div>" * 300_000,
        "deep.json": b'{"text": ' + b"[" * 200_000,
        "deep.md": b"# a\n\n" + b">" * 50_000 + b" kept words",
        "bomb.pdf": pdf("", b" " * (900 << 20)),
        "deep.pdf": pdf("/Box " + "[" * 10_000 + "]" * 10_000),
        "endless.pdf": pdf("", b"q 1 0 0 1 0 0 cm Q " * 20_000, pages=5000),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return len(files)


class Site:
    def __init__(self, binary, folder, threads):
        self.folder, self.command = folder, [binary, "--data-dir", str(folder / "data")]
        self.run("init", "--key-file", str(folder / "root.key"))
        letters = folder / "letters"
        letters.mkdir()
        for number in range(20):
            text = "The registrar shall enter the title within ten days of the application. " * 40
            (letters / f"{number}.txt").write_text(f"{number}. {text}\n")
        (folder / "run.toml").write_text(RUN)
        self.run("data", "ingest", str(letters), "--collection", "letters")
        self.run("model", "pretrain", "--data", "letters", "--vocab-size", "300", "--config", str(folder / "run.toml"), "--name", "tiny")
        self.token = json.loads(self.run("token", "new", "--role", "user", "--json"))["token"]
        serve = ["serve", "--listen", "127.0.0.1:0", "--device", "cpu", *UNBOUNDED]
        more = ["--threads", str(threads)] if threads else []
        self.daemon = subprocess.Popen(self.command + more + serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(re.search(r"https://127\.0\.0\.1:(\d+)", self.daemon.stdout.readline()).group(1))
        threading.Thread(target=self.daemon.stdout.read, daemon=True).start()

    def run(self, *arguments):
        return subprocess.run(self.command + list(arguments), check=True, capture_output=True, text=True).stdout

    def connect(self):
        context = ssl.create_default_context(cafile=str(self.folder / "data/keys/tls.pem"))
        context.check_hostname = False
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)


def ask(connection, site, method, path, body=None):
    started = time.perf_counter()
    headers = {"Authorization": f"Bearer {site.token}", "Content-Type": "application/json"}
    connection.request(method, path, body and json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return (time.perf_counter() - started) * 1000


def turn(site, seconds):
    connection, models, tokens = site.connect(), [], []
    ask(connection, site, "GET", "/v1/models")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        models.append(ask(connection, site, "GET", "/v1/models"))
        body = {"model": "tiny", "prompt": "The registrar", "max_tokens": 8, "ignore_eos": True}
        tokens.append(ask(connection, site, "POST", "/v1/completions", body))
        # Some thinking, so that the appliance is not the only one at work.
        time.sleep(0.005)
    return models, tokens


def ingest_while(site, documents, stop, rounds):
    number = 0
    while not stop.is_set():
        started = time.monotonic()
        # A collection of its own: nothing counts as unchanged.
        command = site.command + ["data", "ingest", str(documents), "--collection", f"hostile-{len(rounds)}-{number}"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and not stop.is_set():
            time.sleep(0.05)
        if child.poll() is None:
            child.send_signal(2)
            child.wait()
        else:
            rounds.append(time.monotonic() - started)
        number += 1


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        site = Site(given.binary, folder, given.threads)
        documents = folder / "hostile"
        documents.mkdir()
        count = hostile(documents)
        results = {"alone": ([], []), "beside": ([], [])}
        ingested = []
        try:
            for _ in range(given.rounds):
                for kind, (models, tokens) in results.items():
                    stop = threading.Event()
                    beside = threading.Thread(target=ingest_while, args=(site, documents, stop, ingested))
                    if kind == "beside":
                        beside.start()
                        time.sleep(0.5)
                    more_models, more_tokens = turn(site, given.seconds)
                    models += more_models
                    tokens += more_tokens
                    stop.set()
                    if kind == "beside":
                        beside.join()
        finally:
            site.daemon.terminate()
            site.daemon.wait()
        print(f"{len(ingested)} whole ingests of {count} hostile documents, {sum(ingested):.0f} s")
        for which, name in enumerate(["/v1/models", "eight tokens"]):
            for kind, timed in results.items():
                values = timed[which]
                shown = "  ".join(f"p{share * 100:g} {percentile(values, share):7.2f} ms" for share in (0.5, 0.9, 0.99))
                print(f"{name:13} {kind:7} n {len(values):6}  {shown}")


main()
