#!/usr/bin/env python3
"""Drives a running Cloister with the `openai` package from PyPI, as an application would.

    python tests/peers/openai_client.py --url https://127.0.0.1:8443 --cacert DATA/keys/tls.pem \
        --token "$TOKEN" [--operator-token "$OPERATOR"] [--model NAME]

Needs: openai (tried with 3.54.0; it brings its HTTP client along) and the openssl command (3.x) to check a receipt. TOKEN has the role `user` or `service`, OPERATOR the role `operator`
(for /metrics and a refusal; without it those parts are skipped, and the script says so). Every check is an assertion; the last
line says how many there were.
"""

import argparse
import json
import pathlib
import resource
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import openai

CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(f"ok   {what}")


def expect(error_type, what, status, code, param, ask):
    """`ask` must raise the client's own exception for this status, with OpenAI's fields filled in."""
    try:
        ask()
    except error_type as error:
        check(error.status_code == status, f"{what}: status {status} ({error.status_code})")
        check(error.code == code, f"{what}: code {code} ({error.code})")
        check(error.param == param, f"{what}: param {param} ({error.param})")
        check(error.type, f"{what}: type {error.type}")
        return error
    sys.exit(f"FAILED: {what}: no error was raised")


def models(client, model):
    listed = [entry.id for entry in client.models.list()]
    check(model in listed, f"models: {listed} holds {model}")
    check(client.models.retrieve(model).id == model, "models: one can be looked up")
    expect(openai.NotFoundError, "models: an unknown one", 404, "model_not_found", "model",
           lambda: client.models.retrieve("no-such-model"))


def completion(client, model):
    ask = dict(model=model, prompt="The Licensee shall", max_tokens=24, temperature=0, seed=1)
    first = client.completions.create(**ask)
    check(first.object == "text_completion" and first.id.startswith("ans_"), "completion: shape")
    check(first.usage.completion_tokens <= 24 and first.usage.prompt_tokens > 0, "completion: usage")
    check(first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens,
          "completion: usage adds up")
    check(first.choices[0].finish_reason in ("stop", "length"), "completion: finish reason")
    again = client.completions.create(**ask)
    check(again.choices[0].text == first.choices[0].text, "completion: greedy answers repeat")
    sampled = dict(ask, temperature=1.0, top_p=0.9, seed=7, extra_body={"top_k": 40, "min_p": 0.01})
    one, two = (client.completions.create(**sampled).choices[0].text for _ in range(2))
    check(one == two, "completion: the same seed gives the same answer")
    whole = client.completions.create(**dict(ask, max_tokens=48, extra_body={"ignore_eos": True}))
    text = whole.choices[0].text
    stop = text[len(text) // 2:len(text) // 2 + 3]
    stopped = client.completions.create(**dict(ask, max_tokens=48, stop=[stop], extra_body={"ignore_eos": True}))
    check(stop not in stopped.choices[0].text and stopped.choices[0].text == text[:text.index(stop)],
          f"completion: stops before {stop!r}")
    return first


def chat(client, model):
    answer = client.chat.completions.create(
        model=model, max_tokens=8, temperature=0, logprobs=True, user="somebody", metadata={"team": "legal"},
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who may copy it?"}])
    check(answer.object == "chat.completion", "chat: shape")
    check(answer.choices[0].message.role == "assistant", "chat: the assistant speaks")
    check(len(answer.choices[0].logprobs.content) == answer.usage.completion_tokens, "chat: log probabilities")


def streams(client, model):
    ask = dict(model=model, prompt="Copyright", max_tokens=24, temperature=0)
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **ask))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    check(text == whole.choices[0].text, "stream: the pieces make the whole")
    check(len(chunks) > 2, f"stream: it comes in pieces ({len(chunks)})")
    check(chunks[-1].usage == whole.usage and not chunks[-1].choices, "stream: usage comes last")
    check({chunk.id for chunk in chunks} == {chunks[0].id}, "stream: one answer, one id")
    chat = list(client.chat.completions.create(
        model=model, max_tokens=8, stream=True, messages=[{"role": "user", "content": "Hello"}]))
    check(chat[0].choices[0].delta.role == "assistant", "stream: a chat begins with its role")
    check(chat[-1].choices[0].finish_reason in ("stop", "length"), "stream: a chat says why it ended")
    check(all(chunk.usage is None for chunk in chat), "stream: no usage where none was asked for")


def refusals(client, model, stranger, operator):
    ask = dict(model=model, prompt="a", max_tokens=4)
    complete = client.completions.create
    expect(openai.AuthenticationError, "a wrong token", 401, "invalid_api_key", None,
           lambda: stranger.models.list())
    expect(openai.AuthenticationError, "a wrong token, asking", 401, "invalid_api_key", None,
           lambda: stranger.completions.create(**ask))
    expect(openai.NotFoundError, "an unknown model", 404, "model_not_found", "model",
           lambda: complete(**dict(ask, model="gpt-4o")))
    expect(openai.BadRequestError, "a prompt that is too long", 400, "context_length_exceeded", "prompt",
           lambda: complete(**dict(ask, prompt="the quick brown fox " * 20000)))
    expect(openai.BadRequestError, "a chat that is too long", 400, "context_length_exceeded", "messages",
           lambda: client.chat.completions.create(
               model=model, messages=[{"role": "user", "content": "the quick brown fox " * 20000}]))
    expect(openai.BadRequestError, "max_tokens 0", 400, "integer_below_min_value", "max_tokens",
           lambda: complete(**dict(ask, max_tokens=0)))
    expect(openai.BadRequestError, "max_tokens huge", 400, "context_length_exceeded", "max_tokens",
           lambda: complete(**dict(ask, max_tokens=10**9)))
    expect(openai.BadRequestError, "max_tokens of the wrong type", 400, "invalid_type", "max_tokens",
           lambda: complete(**dict(ask, max_tokens="many")))
    expect(openai.BadRequestError, "temperature out of range", 400, "decimal_out_of_range", "temperature",
           lambda: complete(**dict(ask, temperature=3)))
    for name, value in [("n", 2), ("tools", [{"type": "function", "function": {"name": "f"}}]),
                        ("response_format", {"type": "json_object"}), ("logit_bias", {"5": 1})]:
        expect(openai.BadRequestError, f"{name}, which is not supported", 400, "unsupported_parameter", name,
               lambda: client.chat.completions.create(
                   model=model, messages=[{"role": "user", "content": "a"}], **{name: value}))
    expect(openai.BadRequestError, "a misspelt field", 400, "unknown_parameter", "temprature",
           lambda: complete(**dict(ask, extra_body={"temprature": 1})))
    expect(openai.NotFoundError, "an unknown route", 404, "unknown_url", None, lambda: client.embeddings.create(
        model=model, input="a"))
    if operator is None:
        print("skip a role that may not: --operator-token was not given, and this token may ask")
    else:
        expect(openai.PermissionDeniedError, "a role that may not", 403, "insufficient_permissions", None,
               lambda: operator.completions.create(**ask))


def raw_refusals(http, url, token):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for body in [b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b""]:
        answer = http.post(f"{url}/v1/completions", content=body, headers=headers)
        check(answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json",
              f"invalid JSON {body!r}: {answer.status_code}")
    answer = http.get(f"{url}/v1/completions", headers=headers)
    check(answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_supported", "a wrong method")
    answer = http.post(f"{url}/v1/completions", content=b"{}", headers={**headers, "Content-Type": "text/plain"})
    check(answer.status_code == 415, "a body that is not called JSON")


def large_bodies(client, http, url, token, model):
    started = time.monotonic()
    expect(openai.APIStatusError, "a body of 100 MB", 413, "request_too_large", None,
           lambda: client.completions.create(model=model, prompt="x" * (100 << 20), max_tokens=1))
    print(f"     ({time.monotonic() - started:.1f} s)")

    def pieces():
        for _ in range(1600):
            yield b" " * (64 << 10)

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = http.post(f"{url}/v1/completions", content=pieces(), headers=headers)
    check(answer.status_code == 413, "a body of 100 MB of unannounced length")


def metric(http, url, token, name):
    page = http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    page.raise_for_status()
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.text.splitlines() if line.startswith(name))


def going_away(client, http, url, operator, model):
    if operator is None:
        print("skip clients that go away: --operator-token was not given, so nothing can be observed")
        return

    def ended(outcome):
        return metric(http, url, operator, f'cloister_answers_total{{outcome="{outcome}"}}')

    context = client.models.retrieve(model).model_extra["context_length"]
    done, cancelled = ended("done"), ended("cancelled")
    # Many together are slow enough to be left in the middle, even where one answer takes milliseconds.
    crowd = 24
    streams = [client.completions.create(model=model, prompt="a", max_tokens=context - 8, stream=True,
                                         extra_body={"ignore_eos": True}) for _ in range(crowd)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 60
    while ended("done") + ended("cancelled") < done + cancelled + crowd and time.monotonic() < deadline:
        time.sleep(0.02)
    check(ended("done") + ended("cancelled") == done + cancelled + crowd, "going away: every answer is accounted for")
    if ended("cancelled") == cancelled:
        print("skip going away: this model finished every answer before its client could leave")
    else:
        check(True, f"going away: {ended('cancelled') - cancelled:.0f} of {crowd} ended with their clients")
    while metric(http, url, operator, "cloister_kv_blocks_used") > 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    check(metric(http, url, operator, "cloister_kv_blocks_used") == 0, "going away: the cache is free")


def many_at_once(client, model):
    ask = dict(model=model, prompt="This License", max_tokens=16, temperature=0)
    alone = client.completions.create(**ask).choices[0].text
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(client.completions.create(**ask).choices[0].text))
               for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    check(answers == [alone] * 16, "16 at once: each gets what it gets alone")


def feedback_and_receipt(http, url, token, answer):
    headers = {"Authorization": f"Bearer {token}"}
    kept = http.post(f"{url}/v1/feedback", headers=headers,
                     json={"answer": answer.id, "rating": -1, "correction": "better", "comment": "too vague"})
    check(kept.status_code == 200 and kept.json()["id"].startswith("fbk_"), "feedback: it is kept")
    for body in [{"answer": answer.id}, {"answer": answer.id, "rating": 9}, {"rating": 1}]:
        refused = http.post(f"{url}/v1/feedback", headers=headers, json=body)
        check(refused.status_code == 400, f"feedback: {list(body)} is refused")
    unknown = http.post(f"{url}/v1/feedback", headers=headers,
                        json={"answer": "ans_00000000000000000000000000", "rating": 1})
    check(unknown.status_code == 404, "feedback: an unknown answer")
    receipt = http.get(f"{url}/v1/receipts/{answer.id}", headers=headers)
    check(receipt.status_code == 200, "receipt: it is there")
    signed = receipt.json()
    check(signed["receipt"]["answer"] == answer.id and signed["receipt"]["model"].startswith("mdl_"),
          "receipt: it names answer and model")
    check(verifies(signed), "receipt: the signature is that of its key")
    signed["receipt"]["completion_tokens"] += 1
    check(not verifies(signed), "receipt: an altered one does not verify")
    check(http.get(f"{url}/v1/receipts/ans_00000000000000000000000000", headers=headers).status_code == 404,
          "receipt: an unknown answer")


def verifies(signed):
    """Ed25519 over the domain line and the receipt as canonical JSON, checked by openssl: nothing of ours."""
    text = "cloister receipt v1\n" + json.dumps(
        signed["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # RFC 8410: an Ed25519 key in DER is this prefix and its 32 bytes.
    key = bytes.fromhex("302a300506032b6570032100") + bytes.fromhex(signed["public_key"])
    with tempfile.TemporaryDirectory() as folder:
        files = {"key": key, "signature": bytes.fromhex(signed["signature"]), "text": text.encode()}
        for name, content in files.items():
            pathlib.Path(folder, name).write_bytes(content)
        done = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", "-inkey", "key",
             "-sigfile", "signature", "-in", "text"], cwd=folder, capture_output=True, text=True)
    if "Signature Verif" not in done.stdout + done.stderr:
        sys.exit(f"FAILED: openssl cannot check a receipt: {done.stderr}")
    return done.returncode == 0


def health(http, url):
    check(http.get(f"{url}/healthz").status_code == 200, "healthz")
    check(http.get(f"{url}/readyz").status_code == 200, "readyz")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--url", default="https://127.0.0.1:8443")
    arguments.add_argument("--cacert", required=True)
    arguments.add_argument("--token", required=True)
    arguments.add_argument("--operator-token")
    arguments.add_argument("--model")
    arguments.add_argument("--cert", help="the client's certificate, for a token that is bound to it")
    arguments.add_argument("--key")
    given = arguments.parse_args()
    # The HTTP client that this version of the package speaks through, whichever that is.
    context = ssl.create_default_context(cafile=given.cacert)
    if given.cert:
        context.load_cert_chain(given.cert, given.key)
    http = openai.DefaultHttpxClient(verify=context, timeout=120)

    def connect(token):
        return openai.OpenAI(base_url=f"{given.url}/v1", api_key=token, http_client=http, max_retries=0)

    client = connect(given.token)
    health(http, given.url)
    model = given.model or next(iter(client.models.list())).id
    models(client, model)
    answer = completion(client, model)
    chat(client, model)
    streams(client, model)
    operator = connect(given.operator_token) if given.operator_token else None
    refusals(client, model, connect("clst_user_wrong"), operator)
    raw_refusals(http, given.url, given.token)
    large_bodies(client, http, given.url, given.token, model)
    many_at_once(client, model)
    going_away(client, http, given.url, given.operator_token, model)
    feedback_and_receipt(http, given.url, given.token, answer)
    health(http, given.url)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{CHECKS} checks passed with openai {openai.__version__} (this client's peak memory: {peak} MiB)")


if __name__ == "__main__":
    main()
