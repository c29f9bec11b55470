"""py-consul's surface beyond services, keys and sessions: `consul_operations.py HOST PORT`.

Queries, events, coordinates, operator, config entries, the agent's own figures; and that
what Atoll does not do is refused and not pretended. Ends with 0 and `ok` when every step
held; an assertion says which did not.
"""

import sys
import threading
import time

import consul
import consul.exceptions
from consul import Check

HOST, PORT = sys.argv[1], int(sys.argv[2])
client = consul.Consul(host=HOST, port=PORT)


def refused(what, call):
    """501, which py-consul raises as its general error."""
    try:
        call()
    except consul.exceptions.ConsulException as error:
        assert "501" in str(error), (what, error)
        assert "not supported by Atoll" in str(error), (what, error)
        return
    raise AssertionError(f"pretended: {what}")


def woken(call, change):
    """What `call` gave after `change`, which must wake it long before its time is up."""
    got = []
    waiter = threading.Thread(target=lambda: got.append(call()))
    waiter.start()
    began = time.monotonic()
    change()
    waiter.join()
    assert time.monotonic() - began < 5, "the blocking query was not woken"
    return got[0]


def queries(node):
    agent, query = client.agent, client.query
    for number, status in ((1, "passing"), (2, "warning"), (3, "critical")):
        assert agent.service.register(
            "redis",
            service_id=f"redis-{number}",
            address=f"10.9.0.{number}",
            port=6379,
            tags=["primary" if number == 1 else "replica"],
            check=Check.ttl("10m"),
        )
        tell = {"passing": agent.check.ttl_pass, "warning": agent.check.ttl_warn}.get(status)
        assert tell is None or tell(f"service:redis-{number}")
    assert query.list() == []

    def found(name, **options):
        answer = query.execute(name, **options)
        assert answer["Datacenter"] == "dc1" and answer["Failovers"] == 0, answer
        return answer, sorted(entry["Service"]["ID"] for entry in answer["Nodes"])

    # py-consul makes every query a template; its name is then a prefix.
    made = query.create("redis", name="any", ttl="12s", nearestn=2, datacenters=["dc1", "dc7"])
    answer, ids = found("any")
    assert ids == ["redis-1", "redis-2"] and answer["DNS"]["TTL"] == "12s", answer
    assert answer["Service"] == "redis" and answer["Nodes"][0]["Node"]["Node"] == node
    assert {"Node", "Service", "Checks"} == set(answer["Nodes"][0])
    assert len(found("any", limit=1)[1]) == 1
    assert found("anything", near="_agent")[1] == ids, "by the template's prefix"
    listed = query.list()
    assert [q["ID"] for q in listed] == [made["ID"]] and listed[0]["CreateIndex"] > 0
    assert query.get(made["ID"])[0]["Service"]["Failover"]["Datacenters"] == ["dc1", "dc7"]

    assert query.update(made["ID"], "redis", name="any", onlypassing=True)
    assert found("any")[1] == ["redis-1"]
    assert query.update(made["ID"], "redis", name="any", tags=["!primary"])
    assert found("any")[1] == ["redis-2"]

    regexp = r"^shard-(.*?)-([^\-]+?)$"
    shard = query.create("${match(1)}", name="shard-", regexp=regexp, tags=["${match(2)}"])
    explained = query.explain("shard-redis-primary")["Query"]
    assert explained["ID"] == shard["ID"] and explained["Service"]["Tags"] == ["primary"]
    assert found("shard-redis-primary")[1] == ["redis-1"]

    session = client.session.create(lock_delay=0)
    bound = query.create("redis", name="bound", session=session)
    assert found("bound")[1] and client.session.destroy(session)
    assert query.execute("bound") is None, "it goes with its session"
    assert query.get(bound["ID"]) is None
    try:
        query.create("redis", name="any")
        raise AssertionError("a name was taken twice")
    except consul.exceptions.ConsulException as error:
        assert "aliases an existing query name" in str(error), error
    for known in (made, shard):
        assert query.delete(known["ID"])
    assert query.list() == [] and query.explain("any") is None


def events():
    event = client.event
    index, before = event.list(name="deploy")
    assert before == []
    fired = event.fire("deploy", "v1.2.3")
    assert fired["Name"] == "deploy" and fired["ID"] and fired["Version"] == 1, fired
    assert event.fire("deploy", "elsewhere", node="^nobody$")["NodeFilter"] == "^nobody$"
    index, listed = event.list(name="deploy")
    assert [(e["ID"], e["Payload"]) for e in listed] == [(fired["ID"], b"v1.2.3")], listed
    _, later = woken(
        lambda: event.list(name="deploy", index=index, wait="30s"),
        lambda: event.fire("deploy", "v2"),
    )
    assert [e["Payload"] for e in later] == [b"v1.2.3", b"v2"]
    assert later[0]["LTime"] < later[1]["LTime"]
    for number in range(300):
        event.fire("many", str(number))
    latest = event.list()[1]
    assert len(latest) == 256 and latest[-1]["Payload"] == b"299", len(latest)
    try:
        event.fire("big", "x" * 1000)
        raise AssertionError("too large an event was taken")
    except consul.exceptions.ConsulException as error:
        assert "512 bytes" in str(error), error


def coordinates(node):
    coordinate = client.coordinate
    areas = coordinate.datacenters()
    assert areas[0]["Datacenter"] == "dc1" and areas[0]["Coordinates"], areas
    index, nodes = coordinate.nodes()
    ours = {entry["Node"]: entry["Coord"] for entry in nodes}[node]
    assert ours["Vec"] == [0] * 8 and ours["Error"] == 1.5
    moved = {"Adjustment": 0.5, "Error": 0.25, "Height": 1e-05, "Vec": [1, 0, 0, 0, 0, 0, 0, 2]}
    _, nodes = woken(
        lambda: coordinate.nodes(index=index, wait="30s"),
        lambda: coordinate.update(node, moved),
    )
    assert nodes[0]["Coord"] == moved
    assert coordinate.node(node)[1][0]["Coord"] == moved
    assert coordinate.node("nobody")[1] is None


def operator(node):
    operator = client.operator
    raft = operator.raft_config()
    assert [s["Node"] for s in raft["Servers"]] == [node] and raft["Servers"][0]["Leader"]
    assert operator.autopilot_configuration()["CleanupDeadServers"] is True
    health = operator.autopilot_health()
    assert health["Healthy"] and health["Servers"][0]["Name"] == node, health
    usage = operator.usage()["Usage"]["dc1"]
    services = client.catalog.services()[1]
    assert usage["Services"] == len(set(services) - {"consul"}), (usage, services)
    for what, call in {
        "raft_remove_peer": lambda: operator.raft_remove_peer(address="127.0.0.1:8300"),
        "raft_transfer_leader": operator.raft_transfer_leader,
        "autopilot": lambda: operator.update_autopilot_configuration(min_quorum=3),
        "keyring_list": operator.keyring_list,
        "keyring_install": lambda: operator.keyring_install("a"),
        "keyring_use": lambda: operator.keyring_use("a"),
        "keyring_remove": lambda: operator.keyring_remove("a"),
    }.items():
        refused(what, call)


def config_entries():
    config = client.config
    assert config.list("service-defaults") == []
    assert config.set("service-defaults", "web", {"Protocol": "http"}) is True
    entry = config.get("service-defaults", "web")
    assert entry["Protocol"] == "http" and entry["ModifyIndex"] > 0, entry
    assert config.set("service-defaults", "web", {"Protocol": "grpc"}, cas=1) is False
    index = entry["ModifyIndex"]
    assert config.set("service-defaults", "web", {"Protocol": "grpc"}, cas=index) is True
    assert [e["Protocol"] for e in config.list("service-defaults")] == ["grpc"]
    assert config.delete("service-defaults", "web", cas=1) is False
    assert config.delete("service-defaults", "web")
    assert config.get("service-defaults", "web") is None
    try:
        config.set("odd", "web")
        raise AssertionError("an unknown kind was taken")
    except consul.exceptions.BadRequest:
        pass


def transactions():
    def op(kind, verb, **fields):
        return {kind: {"Verb": verb, **fields}}

    service = {"ID": "db-1", "Service": "db", "Port": 5432}
    check = {"Node": "outside", "CheckID": "db-alive", "ServiceID": "db-1", "Status": "passing"}
    done = client.txn.put(
        [
            op("Node", "set", Node={"Node": "outside", "Address": "10.9.9.9"}),
            op("Service", "set", Node="outside", Service=service),
            op("Check", "set", Check=check),
            op("KV", "set", Key="t/db", Value="b25l"),
            op("Check", "get", Check={"Node": "outside", "CheckID": "db-alive"}),
        ]
    )
    kinds = [list(result) for result in done["Results"]]
    assert kinds == [["Node"], ["Service"], ["Check"], ["KV"], ["Check"]], done
    index = done["Results"][4]["Check"]["ModifyIndex"]
    assert client.health.service("db", passing=True)[1][0]["Node"]["Node"] == "outside"
    worse = dict(check, Status="critical", ModifyIndex=index)
    try:
        client.txn.put(
            [op("Check", "cas", Check=worse), op("KV", "cas", Key="t/db", Value="eA==", Index=1)]
        )
        raise AssertionError("a transaction that fails was done in part")
    except consul.exceptions.ClientError as error:
        assert "409" in str(error) and "t/db" in str(error), error
    assert client.health.service("db", passing=True)[1], "all or nothing"
    client.txn.put([op("Check", "cas", Check=worse)])
    assert client.health.service("db", passing=True)[1] == []
    try:
        client.txn.put([op("Check", "cas", Check=worse)])
        raise AssertionError("a stale index was taken")
    except consul.exceptions.ClientError as error:
        assert "index is stale" in str(error), error
    client.txn.put([op("Node", "delete", Node={"Node": "outside"})])
    assert client.catalog.service("db")[1] == []


def agent(node):
    agent = client.agent
    metrics = agent.metrics()
    gauges = {gauge["Name"]: gauge["Value"] for gauge in metrics["Gauges"]}
    assert gauges["consul.state.service_instances"] == len(agent.services()), gauges
    samples = {(s["Labels"]["path"], s["Labels"]["method"]): s for s in metrics["Samples"]}
    fired = samples["v1_event_fire", "PUT"]
    assert fired["Count"] >= 300 and fired["Min"] <= fired["Mean"] <= fired["Max"], fired
    text = agent.metrics(format_prometheus=True)
    assert "\nconsul_state_services " in text, text
    assert 'consul_api_http_count{method="PUT",path="v1_event_fire"}' in text
    assert agent.service_definition("redis-1")["Port"] == 6379
    assert set(agent.services(filter_expr='ID == "redis-2"')) == {"redis-2"}
    assert [m["Name"] for m in agent.members(wan=True)] == [node]
    for what, call in {
        "join": lambda: agent.join("10.0.0.1"),
        "force_leave": lambda: agent.force_leave("nobody"),
        "leave": agent.leave,
        "reload": agent.reload,
        "monitor": agent.monitor,
        "authorize": lambda: agent.connect.authorize("web", "spiffe://x", "00"),
        "agent roots": agent.connect.ca.roots,
        "agent leaf": lambda: agent.connect.ca.leaf("web"),
    }.items():
        refused(what, call)


def mesh():
    assert client.catalog.connect("redis")[1] == []
    assert client.catalog.gateway_services("gateway") == []
    assert client.health.connect("redis")[1] == []
    assert client.health.ingress("redis")[1] == []
    intentions = client.connect.intentions
    for what, call in {
        "roots": client.connect.ca.roots,
        "configuration": client.connect.ca.configuration,
        "intentions": intentions.list,
        "upsert": lambda: intentions.upsert("a", "b", action="allow"),
        "read": lambda: intentions.read("a", "b"),
        "delete": lambda: intentions.delete("a", "b"),
        "check": lambda: intentions.check("a", "b"),
        "chain": lambda: client.discovery_chain.get("redis"),
        "save": client.snapshot.save,
        "restore": lambda: client.snapshot.restore(b"x"),
    }.items():
        refused(what, call)


def main():
    node = client.agent.self()["Config"]["NodeName"]
    queries(node)
    events()
    coordinates(node)
    operator(node)
    config_entries()
    transactions()
    agent(node)
    mesh()
    print("ok")


main()
