"""py-consul's ACLs against a running Atoll: `consul_acl.py HOST PORT`.

The Atoll has `consul: { acl: true }`, no `admin_token` and no token yet. Ends with 0 and
`ok` when every step held; an assertion says which did not.
"""

import sys

import consul
import consul.exceptions

HOST, PORT = sys.argv[1], int(sys.argv[2])
ANONYMOUS = "00000000-0000-0000-0000-000000000002"


def client(token=None):
    return consul.Consul(host=HOST, port=PORT, token=token)


def denied(call, words="Permission denied"):
    try:
        call()
    except consul.exceptions.ACLPermissionDenied as error:
        assert words in str(error), error
        return
    raise AssertionError("was allowed")


def refused(call):
    try:
        call()
    except consul.exceptions.ConsulException as error:
        assert "not supported by Atoll" in str(error), error
        return
    raise AssertionError("pretended")


def bootstrap():
    first = client().acl.bootstrap()
    assert first["SecretID"] and first["Policies"][0]["Name"] == "global-management", first
    denied(lambda: client().acl.bootstrap(), "bootstrap no longer allowed")
    root = client(first["SecretID"])
    assert root.acl.token.read_self()["AccessorID"] == first["AccessorID"]
    return root


def policies(root):
    policy = root.acl.policy
    rules = {
        "key_prefix": {"app/": {"policy": "write"}, "": {"policy": "read"}},
        "key": {"app/secret": {"policy": "deny"}},
        "service": {"web": {"policy": "write"}},
        "node_prefix": {"": {"policy": "read"}},
        "session_prefix": {"": {"policy": "write"}},
    }
    made = policy.create("app", description="of the app", rules=rules)
    assert made["Name"] == "app" and "app/secret" in made["Rules"]
    assert policy.read(made["ID"])["Description"] == "of the app"
    listed = {p["Name"]: p for p in policy.list()}
    assert set(listed) == {"app", "global-management"} and "Rules" not in listed["app"]
    changed = policy.update(made["ID"], "app", description="new", rules=rules)
    assert changed["ModifyIndex"] > changed["CreateIndex"] == made["CreateIndex"]
    for wrong in ({"keys": {"": {"policy": "read"}}}, {"key": {"": {"policy": "all"}}}):
        try:
            policy.create("wrong", rules=wrong)
            raise AssertionError("wrong rules were taken")
        except consul.exceptions.BadRequest as error:
            assert "line 1, column" in str(error), error
    gone = policy.create("gone")
    assert policy.delete(gone["ID"]) is True
    assert policy.read(gone["ID"]) is None
    return made["ID"]


def tokens(root, policy):
    token = root.acl.token
    made = token.create(policies_id=[policy], description="of the app", expiration_ttl="1h")
    assert made["ExpirationTime"] and made["Policies"] == [{"ID": policy, "Name": "app"}]
    assert token.read(made["AccessorID"])["SecretID"] == made["SecretID"]
    own = token.create(
        accessor_id="8b1247ef-0000-4bb5-9ebe-bd8d61b6dd24",
        secret_id="8b1247ef-1111-4bb5-9ebe-bd8d61b6dd24",
        policies_name=["app"],
        node_identities=["n:dc1"],
        service_identities=[{"ServiceName": "api"}],
    )
    assert own["SecretID"] == "8b1247ef-1111-4bb5-9ebe-bd8d61b6dd24"
    accessors = lambda **by: {t["AccessorID"] for t in token.list(**by)}
    assert accessors(policy=policy) == {made["AccessorID"], own["AccessorID"]}
    assert accessors(servicename="api") == {own["AccessorID"]}
    assert ANONYMOUS in accessors()
    updated = token.update(own["AccessorID"], description="other", policies_id=[policy])
    assert updated["Description"] == "other" and "NodeIdentities" not in updated
    clone = token.clone(own["AccessorID"], description="clone")
    assert clone["SecretID"] != own["SecretID"] and clone["Policies"] == updated["Policies"]
    assert token.delete(clone["AccessorID"]) is True
    denied(lambda: client(clone["SecretID"]).kv.get("a"), "ACL not found")
    return client(made["SecretID"])


def roles(root, policy):
    role = root.acl.role
    made = role.create("r", policies_id=[policy], service_identities=[{"ServiceName": "db"}])
    assert role.read(made["ID"])["Policies"][0]["ID"] == policy
    assert role.read_by_name("r")["ID"] == made["ID"]
    assert [r["Name"] for r in role.list(policy=policy)] == ["r"]
    token = root.acl.token.create(roles_name=["r"])
    assert token["Roles"] == [{"ID": made["ID"], "Name": "r"}]
    member = client(token["SecretID"])
    assert member.agent.service.register("db", port=1)
    assert member.kv.put("app/by-role", "1")
    assert role.update(made["ID"], "r", description="without")["Description"] == "without"
    denied(lambda: member.kv.put("app/by-role", "2"))
    assert role.delete(made["ID"]) is True
    denied(lambda: member.agent.service.register("db", port=1))


def enforced(root, app):
    nobody = client()
    assert root.kv.put("other", "1") and app.kv.put("app/a", "1")
    assert root.kv.put("app/secret", "1")
    assert app.kv.get("other")[1]["Value"] == b"1"
    denied(lambda: app.kv.put("other", "2"), "lacks permission 'key:write' on \"other\"")
    denied(lambda: app.kv.get("app/secret"))
    denied(lambda: app.kv.delete("app/", recurse=True))
    assert "app/secret" not in app.kv.get("", keys=True)[1]
    assert nobody.kv.get("", recurse=True)[1] is None
    denied(lambda: nobody.kv.get("other"), "anonymous token lacks permission")
    assert app.agent.service.register("web", port=1)
    assert root.agent.service.register("hidden", port=1)
    assert list(app.catalog.services()[1]) == ["db", "web"] or list(app.catalog.services()[1]) == ["web"]
    assert app.health.service("web")[1] and app.health.service("hidden")[1] == []
    assert list(app.agent.services()) == ["web"]
    denied(lambda: app.agent.service.deregister("hidden"))
    denied(lambda: app.agent.self())
    denied(lambda: app.acl.token.list())
    session = app.session.create()
    assert app.kv.put("app/lock", "1", acquire=session) is True
    assert nobody.session.list()[1] == [] and nobody.catalog.nodes()[1] == []
    denied(lambda: nobody.session.destroy(session))
    assert app.session.destroy(session)
    # What everybody may do is what the anonymous token may do.
    root.acl.token.update(ANONYMOUS, policies_name=["app"])
    assert nobody.kv.get("other")[1]["Value"] == b"1"
    root.acl.token.update(ANONYMOUS)
    denied(lambda: nobody.kv.get("other"))


def refusals(root):
    refused(lambda: root.acl.auth_method.list())
    refused(lambda: root.acl.binding_rule.list())
    refused(lambda: root.acl.templated_policy.list())
    refused(lambda: root.acl.login(auth_method="m", bearer_token="t"))


def main():
    root = bootstrap()
    policy = policies(root)
    app = tokens(root, policy)
    roles(root, policy)
    enforced(root, app)
    refusals(root)
    # For the test, which looks whether they outlive a kill.
    print("ok", root.token, app.token)


main()
