"""Bearer tokens, as PyJWT makes them and as attackers would: a foreign client of the built gateway.

    ./tests/run.sh python, or:  TEST_GATEWAY=target/debug/arqon-gateway target/tools/venv/bin/python tests/verification/edge_auth.py

Ends with "N passed, N failed".
"""

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

import jwt
import websockets
from cryptography.hazmat.primitives import serialization

from _edge import ADMINS, ISSUER, Cases, Gateway, Keys, code
from _nats import nats_server

TWICE = '{"alg":"none","alg":"EdDSA","kid":"ed"}'
cases = Cases()
keys = Keys()


def b64(data):
    """base64url without padding."""
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else data.encode()).rstrip(b"=").decode()


def forged(header, claims, secret=b""):
    """A token with any header, its signature an HMAC of `secret`."""
    signed = f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def full_claims(**changes):
    """Claims that hold."""
    now = int(time.time())
    return {"iss": ISSUER, "aud": "arqon", "exp": now + 300, "tenant_id": "acme", "sub": "u1"} | changes


def tokens_that_hold(gateway):
    """Each algorithm, each lawful form."""
    for kid in ("hs", "rs", "es", "ed"):
        status, _, said = gateway.publish(token=keys.token(kid))
        cases.same((status, said.get("subject")), (202, "in.t.acme.users"), f"a token by {kid}")
    for what, token in {
        "aud as a list": keys.token(aud=["x", "arqon"]),
        "typ JWT": keys.token(headers={"typ": "JWT"}),
        "typ at+jwt": keys.token(headers={"typ": "at+jwt"}),
        "exp with a fraction": keys.token(exp=time.time() + 60),
        "headers that are not followed": keys.token(headers={"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "jwk": {"kty": "oct"}}),
        "expired within the leeway": keys.token(exp=int(time.time()) - 3),
        "unknown claims": keys.token(deep={"a": [1, {"b": None}]}),
    }.items():
        cases.same(gateway.publish(token=token)[0], 202, what)
    for scheme in ("bearer", "BEARER"):
        status, *_ = gateway.publish(headers=[("Authorization", f"{scheme} {keys.token()}")])
        cases.same(status, 202, f"the scheme {scheme}")
    for tenant in ("a", "A-b_9", "x" * 64):
        _, _, said = gateway.publish(token=keys.token(tenant_id=tenant))
        cases.same(said.get("subject"), f"in.t.{tenant}.users", f"the tenant {tenant}")


def bad_tokens():
    """What no verifier may take, by name."""
    pem = keys.rsa.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = keys.rsa.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ec_pem = keys.ec.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ed_raw = keys.ed.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    good = keys.token()
    head, body, signature = good.split(".")
    other = Keys()
    bad = {f"none as {alg!r}": forged({"alg": alg, "kid": "hs"}, full_claims(), keys.secret)
           for alg in ("none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS512", "ES384", "PS256", "dir", "A128KW")}
    bad |= {f"{name} as an HMAC secret for {kid}": forged({"alg": "HS256", "kid": kid}, full_claims(), secret)
            for name, secret in {"RSA PEM": pem, "RSA PEM without newline": pem.strip(), "RSA DER": der, "EC PEM": ec_pem, "Ed25519 raw": ed_raw,
                                 "the key set": keys.jwks().encode(), "nothing": b""}.items()
            for kid in ("rs", "es", "ed", "hs")}
    bad |= {f"kid {kid!r}": forged({"alg": "HS256", "kid": kid}, full_claims(), keys.secret)
            for kid in ("", "HS", "nope", "../keys.json", "/dev/null", "hs' OR '1'='1", "hs\0", "k" * 30_000, ["hs"], {"kid": "hs"}, 7, None, True)}
    bad |= {f"header {name}": forged({"alg": "HS256", "kid": "hs"} | more, full_claims(), keys.secret)
            for name, more in {"crit exp": {"crit": ["exp"]}, "crit unknown": {"crit": ["x"], "x": 1}, "crit empty": {"crit": []}, "b64": {"b64": False},
                               "zip": {"zip": "DEF"}, "cty": {"cty": "JWT"}, "typ": {"typ": "secevent+jwt"}, "enc": {"enc": "A128GCM"}}.items()}
    bad |= {f"other's key under {kid}": other.token(kid) for kid in ("hs", "rs", "es", "ed")}
    bad |= {f"{kid} named {named}": jwt.encode(full_claims(), keys.of(kid)[0], keys.of(kid)[1], headers={"kid": named})
            for kid in ("hs", "rs", "es", "ed") for named in ("hs", "rs", "es", "ed") if kid != named}
    bad["without a kid"] = forged({"alg": "HS256"}, full_claims(), keys.secret)
    bad["an embedded key"] = jwt.encode(full_claims(), other.ed, "EdDSA", headers={"kid": "ed", "jwk": json.loads(
        jwt.algorithms.OKPAlgorithm.to_jwk(other.ed.public_key()))})
    bad["zero ECDSA"] = f"{b64(json.dumps({'alg': 'ES256', 'kid': 'es'}))}.{body}.{b64(bytes(64))}"
    bad["DER ECDSA"] = f"{b64(json.dumps({'alg': 'ES256', 'kid': 'es'}))}.{body}.{b64(bytes([0x30, 6, 2, 1, 0, 2, 1, 0]))}"
    now = int(time.time())
    for name, value in {"past": now - 60, "zero": 0, "negative": -1, "text": str(now + 60), "null": None, "list": [now + 60], "huge": 2**53 + 1,
                        "true": True, "1e300": 1e300}.items():
        bad[f"exp {name}"] = forged({"alg": "HS256", "kid": "hs"}, full_claims(exp=value), keys.secret)
    for name, value in {"ahead": now + 60, "text": "x", "null": None, "negative": -1}.items():
        bad[f"nbf {name}"] = forged({"alg": "HS256", "kid": "hs"}, full_claims(nbf=value), keys.secret)
    for name, value in {"other": "x", "empty": "", "empty list": [], "nested": [["arqon"]], "object": {"arqon": 1}, "number": 7, "prefix": "arqo"}.items():
        bad[f"aud {name}"] = forged({"alg": "HS256", "kid": "hs"}, full_claims(aud=value), keys.secret)
    for name, value in {"other": "https://evil.example", "case": ISSUER.upper(), "slash": ISSUER + "/", "list": [ISSUER], "null": None}.items():
        bad[f"iss {name}"] = forged({"alg": "HS256", "kid": "hs"}, full_claims(iss=value), keys.secret)
    for name in ("exp", "aud", "iss"):
        bad[f"without {name}"] = keys.token(leave_out=[name])
    bad |= {"two parts": f"{head}.{body}", "four parts": f"{good}.{signature}", "five parts": f"{good}.{signature}.{signature}", "a dot more": good + ".",
            "no signature": f"{head}.{body}.", "padding": good + "=", "a space inside": f"{head}. {body}.{signature}", "no header": f".{body}.{signature}",
            "no claims": f"{head}..{signature}", "JSON form": json.dumps({"payload": body, "protected": head, "signature": signature}),
            "a nested token": jwt.encode({"jwt": good}, keys.ed, "EdDSA", headers={"kid": "ed", "cty": "JWT"}),
            "claims are a list": f"{head}.{b64('[]')}.{signature}", "names twice": f"{b64(TWICE)}.{body}.{signature}",
            "a deep one": f"{head}.{b64('[' * 3000)}.{signature}", "8 KiB and a byte": head + "." + "a" * 8_192, "60 KiB": "a" * 60_000}
    for at in range(0, len(signature) - 1, 7):
        changed = "A" if signature[at] != "A" else "B"
        bad[f"signature changed at {at}"] = f"{head}.{body}.{signature[:at]}{changed}{signature[at + 1:]}"
    for at in range(0, len(body), 11):
        changed = "A" if body[at] != "A" else "B"
        bad[f"claims changed at {at}"] = f"{head}.{body[:at]}{changed}{body[at + 1:]}.{signature}"
    return bad


def tokens_that_do_not(gateway):
    """All get the same answer but the expired, and none reaches a subscriber."""
    published = gateway.metric('shield_auth_total{result="verified"}')
    bodies = set()
    for what, token in bad_tokens().items():
        status, headers, said = gateway.publish(token=token)
        cases.same((status, code(said), headers.get("www-authenticate")), (401, "auth.invalid", 'Bearer error="invalid_token"'), what)
        if "expired" not in said.get("detail", ""):
            # What names the request is a new one each time; all else is the same.
            names = {"trace_id", "span_id", "request_id"}
            bodies.add(json.dumps({key: value for key, value in said.items() if key not in names}))
    cases.same(len(bodies), 1, "answers that differ")
    cases.same(gateway.metric('shield_auth_total{result="verified"}'), published, "verified meanwhile")

    status, headers, said = gateway.publish()
    cases.same((status, code(said), headers.get("www-authenticate")), (401, "auth.missing", "Bearer"), "no token")
    for value in ("Basic dTpw", "Digest x", "", "Bearerx", keys.token()):
        status, _, said = gateway.publish(headers=[("Authorization", value)])
        cases.same((status, code(said)), (401, "auth.missing"), f"the header {value[:20]!r}")
    for value in ("Bearer", "Bearer ", "Bearer a b"):
        status, _, said = gateway.publish(headers=[("Authorization", value)])
        cases.same((status, code(said)), (401, "auth.invalid"), f"the header {value!r}")
    good = keys.token()
    for pair in ([good, good], [good, "x"], ["x", good]):
        status, _, said = gateway.publish(headers=[("Authorization", f"Bearer {token}") for token in pair])
        cases.same((status, code(said)), (401, "auth.invalid"), "two headers")
    in_url = keys.token(sub="in the URL")
    for place in (("users?access_token=" + in_url, ()), ("nowhere/at/all?token=" + in_url, ()), ("users", [("Cookie", f"token={good}")]), ("users", [("X-Authorization", f"Bearer {good}")])):
        status, _, said = gateway.publish(place[0], headers=place[1])
        expected = (404, "not_found") if place[0].startswith("nowhere") else (401, "auth.missing")
        cases.same((status, code(said)), expected, "a token elsewhere")

    for tenant in ("", "a.b", "*", ">", "a b", "a\tb", "a\r\nPUB x 0\r\n\r\n", "$SYS", "_INBOX.x", "ａ", "x" * 65, "a%2e", "../b", 7, None, ["acme"], {}):
        status, _, said = gateway.publish(token=keys.token(tenant_id=tenant))
        cases.same((status, code(said)), (403, "tenant.invalid"), f"the tenant {tenant!r}")
    cases.same(gateway.publish(token=keys.token(leave_out=["tenant_id"]))[0], 403, "no tenant")
    said = gateway.said()
    for what, token in {"of a header": good, "of a URL": in_url}.items():
        cases.check(token.split(".")[1] not in said and token.split(".")[2] not in said, f"no token {what} is in the log")


async def session(gateway, token, *frames):
    """What each frame is answered with, and how the session ended, if it did."""
    replies = []
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", subprotocols=["arqon.v1.json"],
                                  additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        try:
            for frame in frames:
                if callable(frame):
                    await frame()
                    continue
                await socket.send(json.dumps(frame))
                replies.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
            return replies, socket, None
        except websockets.ConnectionClosed as closed:
            return replies, socket, closed.rcvd and closed.rcvd.code


async def sockets(gateway):
    """Claims reach policies per frame, the tenant is the token's, and a session ends with its token."""
    try:
        await session(gateway, "x.y.z")
        cases.check(False, "an upgrade with a bad token")
    except websockets.InvalidStatus as refused:
        cases.same((refused.response.status_code, refused.response.headers["www-authenticate"]), (401, 'Bearer error="invalid_token"'), "a bad upgrade")
    frame = {"id": 1, "subject": "users", "payload": "aGk="}
    replies, *_ = await session(gateway, keys.token(tenant_id="globex"), frame)
    cases.same(replies[0]["ack"]["subject"], "in.t.globex.users", "the tenant of a session")
    replies, *_ = await session(gateway, keys.token(role="reader"), frame | {"subject": "admin"}, frame)
    cases.same((replies[0].get("nack", {}).get("code"), "ack" in replies[1]), ("overseer.denied", True), "a policy by claim, frame by frame")
    replies, *_ = await session(gateway, keys.token(role="admin"), frame | {"subject": "admin"})
    cases.check("ack" in replies[0], "a policy by claim lets an admin publish")
    for name in ("authorization", "x-arqon-claims", "x-arqon-tenant"):
        replies, *_ = await session(gateway, keys.token(role="reader"), frame | {"subject": "admin", "headers": {name: f"Bearer {keys.token(role='admin')}"}})
        cases.same(replies[0].get("nack", {}).get("code"), "overseer.denied", f"a frame's {name} is no token")

    # A page cannot send the header: its token is one more subprotocol, which is not answered with.
    url, bearer = f"ws://127.0.0.1:{gateway.port}/v1/ws", "arqon.bearer."
    async with websockets.connect(url, subprotocols=["arqon.v1.json", bearer + keys.token(tenant_id="page")]) as page:
        await page.send(json.dumps(frame))
        reply = json.loads(await page.recv())
        cases.same((page.subprotocol, reply["ack"]["subject"]), ("arqon.v1.json", "in.t.page.users"), "a page's token")
    for what, protocols, more, status in (("a bad one", ["arqon.v1.json", bearer + "x"], {}, 401), ("two", ["arqon.v1.json", bearer + keys.token(), bearer + keys.token()], {}, 401),
                                          ("nothing else", [bearer + keys.token()], {}, 400), ("an empty one", ["arqon.v1.json", bearer], {}, 401),
                                          ("one beside a bad header", ["arqon.v1.json", bearer + keys.token()], {"Authorization": "Bearer x"}, 401)):
        try:
            async with websockets.connect(url, subprotocols=protocols, additional_headers=more):
                cases.check(False, f"a page's token: {what}")
        except websockets.InvalidStatus as refused:
            cases.same(refused.response.status_code, status, f"a page's token: {what}")
    cases.same(gateway.publish(headers=[("Sec-WebSocket-Protocol", bearer + keys.token())])[0], 401, "a publish takes no token from there")

    # Nobody hears another tenant, whatever it asks for.
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", subprotocols=["arqon.v1.json"],
                                  additional_headers={"Authorization": f"Bearer {keys.token(tenant_id='spy')}"}) as spy:
        for pattern in (">", "*", "*.>", "in.t.acme.>", "users"):
            await spy.send(json.dumps({"id": pattern, "subscribe": pattern}))
            reply = json.loads(await spy.recv())
            cases.same(reply.get("ack"), {"subscribed": f"in.t.spy.{pattern}"}, f"a subscription to {pattern}")
        for pattern in ("", ".", "..", "a..b", ">.a", "a b", "a\r\nSUB > 1", "acme.>.x", "\u0000"):
            await spy.send(json.dumps({"id": pattern, "subscribe": pattern}))
            reply = json.loads(await spy.recv())
            cases.same(reply.get("nack", {}).get("code"), "subject.invalid", f"a subscription to {pattern!r}")
        cases.same(gateway.publish("users", keys.token(tenant_id="acme"))[0], 202, "acme's message")
        cases.same(gateway.publish("users", keys.token(tenant_id="spy"), b"own")[0], 202, "spy's message")
        heard = json.loads(await asyncio.wait_for(spy.recv(), 30))
        cases.same((heard["subject"], heard["payload"]), ("users", "b3du"), "the first that the spy hears is its own")

    # The leeway is 0 here, so the token ends in two seconds.
    started = time.monotonic()
    token = keys.token(exp=int(time.time()) + 3)
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", subprotocols=["arqon.v1.json"],
                                  additional_headers={"Authorization": f"Bearer {token}"}) as silent:
        try:
            await asyncio.wait_for(silent.recv(), 30)
            cases.check(False, "a silent session outlived its token")
        except websockets.ConnectionClosed as closed:
            cases.same((closed.rcvd.code, closed.rcvd.reason), (1008, "the token has expired"), "a silent session ends with its token")
            cases.check(time.monotonic() - started < 15, "it ends in time")
    cases.same(gateway.publish(token=token)[2].get("detail"), "the bearer token has expired: get a new one", "a remembered token ends too")


async def withdrawn(gateway):
    """A key that is taken out of the set ends the sessions of its tokens, silent or not, and no others."""
    other = Keys()
    protocol = {"subprotocols": ["arqon.v1.json"]}

    def opened(kid):
        return websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/ws", additional_headers={"Authorization": f"Bearer {keys.token(kid)}"}, **protocol)

    def put(change):
        found = {key["kid"]: key for key in json.loads(keys.jwks())["keys"]}
        new = gateway.folder / "new.json"
        new.write_text(json.dumps({"keys": list(change(found).values())}), encoding="utf-8")
        new.replace(gateway.folder / "keys.json")

    async def ended(socket):
        """How it ended, once it has."""
        try:
            while True:
                await asyncio.wait_for(socket.recv(), 60)
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code, closed.rcvd.reason

    async def talks(socket):
        """Publishes until it is ended; then the answers behind the last ack."""
        refused = []
        try:
            for n in range(100_000):
                await socket.send(json.dumps({"id": n, "subject": "users"}))
                reply = json.loads(await asyncio.wait_for(socket.recv(), 60))
                if "nack" in reply:
                    refused.append(reply["nack"]["code"])
                await asyncio.sleep(0.01)
        except websockets.ConnectionClosed as closed:
            return refused, closed.rcvd.code
        return refused, None

    async with opened("ed") as silent, opened("ed") as hears, opened("ed") as busy, opened("es") as stays:
        await hears.send(json.dumps({"id": 1, "subscribe": "quiet"}))
        cases.check("ack" in json.loads(await hears.recv()), "a subscription")
        talking = asyncio.create_task(talks(busy))
        put(lambda found: {kid: key for kid, key in found.items() if kid != "ed"})
        for what, socket in {"silent": silent, "with a subscription": hears}.items():
            cases.same(await ended(socket), (1008, "the key of the token was withdrawn"), f"a session whose key is gone, {what}")
        refused, code_ = await talking
        cases.check(code_ == 1008 and refused in ([], ["auth.invalid"]), f"one that publishes: {refused} {code_}")
        cases.same((gateway.publish(token=keys.token("ed"))[0], gateway.publish(token=keys.token("es"))[0]), (401, 202), "requests")
        await stays.send(json.dumps({"id": 1, "subject": "users"}))
        cases.check("ack" in json.loads(await stays.recv()), "the session of another key goes on")
        # The same name, another key.
        es = next(key for key in json.loads(other.jwks())["keys"] if key["kid"] == "es")
        put(lambda found: found | {"es": es})
        cases.same((await ended(stays))[0], 1008, "a key of the same name is another")


class KeyServer(http.server.BaseHTTPRequestHandler):
    """Serves what `answer` says."""

    answer = (503, b"")
    asked = 0

    def do_GET(self):
        """One fetch."""
        type(self).asked += 1
        status, body = self.answer
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


def fetched_keys():
    """Keys from a URL: readiness waits for them, bad answers change nothing, rotation is taken over."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), KeyServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/keys"
    old, new = Keys(), Keys()
    KeyServer.answer = (200, old.jwks().encode())
    config = f'[auth]\nissuers = [{{ issuer = "{ISSUER}", audience = "arqon", jwks_url = "{url}", refresh_seconds = 10 }}]\n'
    with Gateway(config) as gateway:
        cases.same(gateway.publish(token=old.token("ed"))[0], 202, "a fetched key")
        cases.same(gateway.publish(token=old.token("hs"))[0], 401, "a fetched secret is no key")
        for status, body in ((500, b""), (302, new.jwks().encode()), (200, b"{"), (200, b'{"keys":[]}'), (200, b" " * 300_000)):
            before, KeyServer.answer = KeyServer.asked, (status, body)
            end = time.monotonic() + 60
            while KeyServer.asked == before and time.monotonic() < end:
                # A key that is not known asks for a fetch.
                gateway.publish(token=new.token("ed", headers={"kid": "unknown"}))
                time.sleep(0.2)
            cases.same((KeyServer.asked > before, gateway.publish(token=old.token("ed"))[0]), (True, 202), f"after {status} {body[:12]!r}")
        KeyServer.answer = (200, new.jwks().encode())
        end = time.monotonic() + 90
        while gateway.publish(token=new.token("es"))[0] != 202 and time.monotonic() < end:
            time.sleep(0.2)
        cases.same(gateway.publish(token=new.token("es"))[0], 202, "a rotated key")
        cases.same(gateway.publish(token=old.token("ed"))[0], 401, "the old key, remembered or not")
    server.shutdown()


def main():
    """Everything."""
    policy = '[platform.overseer]\ndeadline = "1s"\n[[platform.overseer.policies]]\nname = "admins"\npath = "admins.wat"\nsubject = "in.t.*.admin"\nmethods = ["POST"]\n'
    with Gateway(policy, keys=keys, files={"admins.wat": ADMINS}) as gateway:
        tokens_that_hold(gateway)
        tokens_that_do_not(gateway)
    with Gateway(policy + "", keys=keys, files={"admins.wat": ADMINS}, environment={"ARQON_AUTH__LEEWAY_SECONDS": "0"}) as gateway:
        asyncio.run(sockets(gateway))
    with Gateway(gateway="[gateway.websocket]\nping_seconds = 1\nidle_seconds = 60", keys=keys) as gateway:
        asyncio.run(withdrawn(gateway))
    # The same with NATS below, and with every line of log that there is.
    with nats_server() as url:
        policy += f'[nats]\nurl = "{url}"\n[telemetry]\naccess_log = true\nlog_repeats_per_min = 1000000\n'
        with Gateway(policy, keys=keys, files={"admins.wat": ADMINS}, environment={"RUST_LOG": "trace,cranelift_codegen=warn,cranelift_frontend=warn,regalloc2=warn,wasmtime_internal_cranelift=warn"}) as gateway:
            tokens_that_hold(gateway)
            tokens_that_do_not(gateway)
            cases.check(gateway.said().count("\n") > 1_000, "the log was on")
        with Gateway(policy, keys=keys, files={"admins.wat": ADMINS}, environment={"ARQON_AUTH__LEEWAY_SECONDS": "0"}) as gateway:
            asyncio.run(sockets(gateway))
    fetched_keys()
    cases.end()


if __name__ == "__main__":
    main()
