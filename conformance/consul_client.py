"""py-consul against a running Atoll: `consul_client.py HOST PORT SERVICE_PORT`.

SERVICE_PORT is that of a service of the test's own, which answers `/healthz`. Ends
with 0 and `ok` when every step held; an assertion says which did not.
"""

import sys
import threading
import time
import urllib.request

import consul
import consul.exceptions
from consul import Check

HOST, PORT, SERVICE_PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = consul.Consul(host=HOST, port=PORT)


def eventually(what, probe, within=20.0):
    """Waits on a condition."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {within} s: {what}")


def agent():
    me = client.agent.self()
    assert me["Config"]["Datacenter"] == "dc1", me
    node = me["Config"]["NodeName"]
    assert [m["Name"] for m in client.agent.members()] == [node]
    assert client.catalog.datacenters() == ["dc1"]
    assert client.status.leader() in client.status.peers()
    return node


def ttl_service(node):
    agent = client.agent
    assert agent.service.register(
        "Web",
        service_id="web:1",
        address="127.0.0.1",
        port=SERVICE_PORT,
        tags=["blue", "v1"],
        meta={"zone": "a"},
        weights={"Passing": 5, "Warning": 2},
        check=Check.ttl("20s"),
    )
    service = agent.services()["web:1"]
    assert service["Service"] == "Web", service
    assert service["Tags"] == ["blue", "v1"] and service["Meta"] == {"zone": "a"}
    assert service["Port"] == SERVICE_PORT and service["Weights"]["Passing"] == 5

    index, nodes = client.health.service("Web", passing=True)
    assert nodes == [] and int(index) > 0, "a TTL check begins critical"
    waked = []

    def wait():
        waked.append(client.health.service("Web", passing=True, index=index, wait="10s"))

    waiter = threading.Thread(target=wait)
    waiter.start()
    began = time.monotonic()
    assert agent.check.ttl_pass("service:web:1", notes="fine")
    waiter.join()
    assert time.monotonic() - began < 5, "the blocking query was not woken"
    changed, nodes = waked[0]
    assert int(changed) > int(index), (index, changed)
    entry = nodes[0]
    assert entry["Service"]["ID"] == "web:1" and entry["Node"]["Node"] == node
    assert entry["Node"]["ID"], "clients key by it"
    checks = {check["CheckID"]: check for check in entry["Checks"]}
    assert checks["service:web:1"]["Output"] == "fine"
    assert checks["serfHealth"]["Status"] == "passing"

    # Nothing changes: the same index after the time is up.
    again, _ = client.health.service("Web", index=changed, wait="1s")
    assert again == changed, (changed, again)

    assert client.health.service("Web", tag="blue")[1]
    assert client.health.service("Web", tag="red")[1] == []
    assert client.health.service("nobody")[1] == []
    flat = client.catalog.service("Web")[1][0]
    assert flat["ServiceID"] == "web:1" and flat["ServicePort"] == SERVICE_PORT
    assert client.catalog.services()[1]["Web"] == ["blue", "v1"]
    assert "web:1" in client.catalog.node(node)[1]["Services"]
    assert client.health.checks("Web")[1][0]["Status"] == "passing"

    assert agent.check.ttl_warn("service:web:1")
    assert client.health.checks("Web")[1][0]["Status"] == "warning"
    assert agent.check.ttl_fail("service:web:1")
    assert client.health.service("Web", passing=True)[1] == []
    assert [c["CheckID"] for c in client.health.state("critical")[1]] == ["service:web:1"]
    assert agent.check.ttl_pass("service:web:1")

    assert agent.service.maintenance("web:1", "true", "new disk")
    maintained = {c["CheckID"]: c for c in client.health.checks("Web")[1]}
    assert maintained["_service_maintenance:web:1"]["Notes"] == "new disk"
    assert client.health.service("Web", passing=True)[1] == []
    assert agent.service.maintenance("web:1", "false")
    assert client.health.service("Web", passing=True)[1]


def http_service():
    url = f"http://127.0.0.1:{SERVICE_PORT}/healthz"
    assert client.agent.service.register(
        "api", address="127.0.0.1", port=SERVICE_PORT, check=Check.http(url, "1s", timeout="2s")
    )
    eventually("the HTTP check passes", lambda: client.health.service("api", passing=True)[1])
    assert client.agent.check.register(
        "extra", Check.tcp("127.0.0.1", SERVICE_PORT, "1s"), service_id="api"
    )
    eventually(
        "both checks pass",
        lambda: [c["Status"] for c in client.health.checks("api")[1]] == ["passing"] * 2,
    )
    assert "extra" in client.agent.checks()
    assert client.agent.check.deregister("extra")
    assert "extra" not in client.agent.checks()
    assert client.agent.service.deregister("api")
    assert client.catalog.service("api")[1] == []


def keys():
    kv = client.kv
    index, nothing = kv.get("app/absent")
    assert nothing is None and int(index) > 0
    assert kv.put("app/a", "one", flags=7)
    assert kv.put("app/b/c", b"\x00\xff")
    index, a = kv.get("app/a")
    assert a["Value"] == b"one" and a["Flags"] == 7 and int(index) == a["ModifyIndex"], (index, a)
    assert kv.get("app/b/c")[1]["Value"] == b"\x00\xff"
    assert [k["Key"] for k in kv.get("app/", recurse=True)[1]] == ["app/a", "app/b/c"]
    assert kv.get("app/", keys=True, separator="/")[1] == ["app/a", "app/b/"]

    assert kv.put("app/a", "two", cas=a["ModifyIndex"]) is True
    assert kv.put("app/a", "three", cas=a["ModifyIndex"]) is False
    assert kv.put("app/a", "three", cas=0) is False
    assert kv.put("app/new", "", cas=0) is True
    assert kv.get("app/new")[1]["Value"] is None

    index, _ = kv.get("app/a")
    waked = []
    waiter = threading.Thread(target=lambda: waked.append(kv.get("app/a", index=index, wait="10s")))
    waiter.start()
    assert kv.put("elsewhere", "1") and kv.delete("elsewhere")
    waiter.join(0.3)
    assert not waked, "woken by another key"
    assert kv.put("app/a", "four")
    waiter.join()
    assert waked[0][1]["Value"] == b"four"
    same, _ = kv.get("app/", recurse=True, index=kv.get("app/", recurse=True)[0], wait="1s")
    assert int(same) > 0

    assert kv.delete("app/b", recurse=True)
    assert kv.get("app/b/c")[1] is None
    assert kv.delete("app/a", cas=1) is False
    assert kv.delete("app/a", cas=kv.get("app/a")[1]["ModifyIndex"]) is True
    try:
        kv.put("app/big", "x" * (512 * 1024 + 1))
        raise AssertionError("a value above 512 KiB was taken")
    except consul.exceptions.ClientError as error:
        assert "413" in str(error), error
    assert kv.put("app/big", "x" * (512 * 1024))


def locks(node):
    kv, session = client.kv, client.session
    first = session.create(name="first", ttl=30, lock_delay=0)
    second = session.create(name="second", behavior="delete", lock_delay=0)
    assert {s["ID"] for s in session.list()[1]} >= {first, second}
    assert {s["ID"] for s in session.node(node)[1]} >= {first, second}
    assert session.info(first)[1]["TTL"] == "30s"
    assert session.renew(first)["Name"] == "first"
    assert kv.put("lock", "mine", acquire=first) is True
    assert kv.put("lock", "theirs", acquire=second) is False
    held = kv.get("lock")[1]
    assert held["Session"] == first and held["LockIndex"] == 1 and held["Value"] == b"mine"
    assert kv.put("lock", "x", release=second) is False
    assert kv.put("lock", "free", release=first) is True
    assert "Session" not in kv.get("lock")[1]
    assert kv.put("lock", "theirs", acquire=second) is True
    assert kv.get("lock")[1]["LockIndex"] == 2
    assert kv.put("gone", "x", acquire=second) is True
    assert session.destroy(second)
    assert kv.get("lock")[1] is None and kv.get("gone")[1] is None, "behavior delete"
    third = session.create(lock_delay=15)
    assert kv.put("slow", "x", acquire=third)
    assert session.destroy(third)
    assert "Session" not in kv.get("slow")[1]
    assert kv.put("slow", "x", acquire=first) is False, "within the lock-delay"
    try:
        kv.put("lock", "x", acquire=third)
        raise AssertionError("a session that is gone took a lock")
    except consul.exceptions.ConsulException as error:
        assert "invalid session" in str(error), error
    try:
        session.renew(third)
        raise AssertionError("a session that is gone was renewed")
    except consul.exceptions.NotFound:
        pass
    assert session.info(third)[1] is None


def transactions():
    value = "b25l"
    done = client.txn.put(
        [
            {"KV": {"Verb": "set", "Key": "t/a", "Value": value}},
            {"KV": {"Verb": "get", "Key": "t/a"}},
            {"KV": {"Verb": "check-not-exists", "Key": "t/b"}},
        ]
    )
    assert done["Errors"] is None and done["Results"][1]["KV"]["Value"] == value, done
    assert done["Results"][0]["KV"]["ModifyIndex"] == client.kv.get("t/a")[1]["ModifyIndex"]
    try:
        client.txn.put(
            [
                {"KV": {"Verb": "set", "Key": "t/c", "Value": value}},
                {"KV": {"Verb": "cas", "Key": "t/a", "Value": value, "Index": 1}},
            ]
        )
        raise AssertionError("a transaction that fails was committed")
    except consul.exceptions.ClientError as error:
        assert "409" in str(error) and "OpIndex" in str(error), error
    assert client.kv.get("t/c")[1] is None, "all or nothing"


def catalog():
    assert client.catalog.register(
        "outside", "10.1.2.3", service={"Service": "mysql", "ID": "mysql", "Port": 3306}
    )
    assert "outside" in [n["Node"] for n in client.catalog.nodes()[1]]
    row = client.catalog.service("mysql")[1][0]
    assert row["Address"] == "10.1.2.3" and row["ServicePort"] == 3306 and row["ServiceID"] == "mysql"
    assert "mysql" not in client.agent.services(), "it is another node's"
    assert client.catalog.deregister("outside", service_id="mysql")
    assert client.catalog.service("mysql")[1] == []
    assert client.catalog.deregister("outside")
    assert client.catalog.node("outside")[1] is None


def refusals():
    for call in (
        lambda: client.acl.tokens.list(),
        lambda: client.snapshot.save(),
        lambda: client.catalog.service("x", dc="elsewhere"),
    ):
        try:
            call()
            raise AssertionError("pretended")
        except consul.exceptions.ConsulException:
            pass
    try:
        urllib.request.urlopen(f"http://{HOST}:{PORT}/v1/kv/x?index=1&wait=never")
    except urllib.error.HTTPError as error:
        assert error.code == 400 and error.read() == b"Invalid wait time"


def main():
    node = agent()
    ttl_service(node)
    http_service()
    keys()
    locks(node)
    transactions()
    catalog()
    refusals()
    # Left for the test to route to: `web:1`.
    print("ok")


main()
