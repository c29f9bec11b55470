package main

import (
	"github.com/hashicorp/consul/api"
)

func (w *world) queries() {
	queries := w.PreparedQuery()
	definition := &api.PreparedQueryDefinition{
		Name:    "blue-web",
		Service: api.ServiceQuery{Service: "web", OnlyPassing: true, Tags: []string{"blue", "!red"}},
		DNS:     api.QueryDNSOptions{TTL: "10s"},
	}
	id := got2(queries.Create(definition, nil))
	kept := got2(queries.Get(id, nil))
	equal(len(kept), 1)
	equal(kept[0].Service.Tags, definition.Service.Tags)
	for _, name := range []string{id, "blue-web"} {
		found := got2(queries.Execute(name, nil))
		equal(found.Service, "web")
		equal(found.DNS.TTL, "10s")
		equal(len(found.Nodes), 1)
		equal(found.Nodes[0].Service.ID, "web:1")
	}
	definition.ID = id
	definition.Service.Tags = []string{"red"}
	got(queries.Update(definition, nil))
	equal(len(got2(queries.Execute(id, nil)).Nodes), 0)
	equal(len(got2(queries.List(nil))), 1)
	got(queries.Delete(id, nil))
	equal(len(got2(queries.List(nil))), 0)
	_, _, err := queries.Execute("blue-web", nil)
	refused(404, err)
}

func (w *world) events() {
	event := w.Event()
	told, plan := w.plan(map[string]any{"type": "event", "name": "deploy"})
	id := got2(event.Fire(&api.UserEvent{Name: "deploy", Payload: []byte("v2")}, nil))
	heard := func() bool {
		for _, one := range received("the event", told).([]*api.UserEvent) {
			if one.ID == id && string(one.Payload) == "v2" {
				return true
			}
		}
		return false
	}
	eventually("the watch hears of it", heard)
	plan.Stop()
	events, meta, err := event.List("deploy", nil)
	must(err)
	equal(events[len(events)-1].ID, id)
	that(meta.LastIndex > 0, "the list has an index")
	equal(len(got2(event.List("another", nil))), 0)
}

// What monitors and dashboards ask.
func (w *world) standing() {
	raft := got(w.Operator().RaftGetConfiguration(nil))
	equal(len(raft.Servers), 1)
	that(raft.Servers[0].Leader && raft.Servers[0].Voter, "it leads")
	health := got(w.Operator().AutopilotServerHealth(nil))
	that(health.Healthy && len(health.Servers) == 1, "it is healthy")
	that(got(w.Operator().AutopilotGetConfiguration(nil)).CleanupDeadServers, "as is the default")
	coordinates := got2(w.Coordinate().Nodes(nil))
	equal(coordinates[0].Node, w.node)
	equal(got(w.Coordinate().Datacenters())[0].Datacenter, "dc1")
	that(len(got(w.Agent().Metrics()).Gauges) > 0, "there are figures")
	that(got(w.Agent().Version())["HumanVersion"] != nil, "it has a version")
	that(got(w.Agent().Host())["Memory"] != nil, "the host is described")
}

func (w *world) configEntries() {
	entries := w.ConfigEntries()
	entry := &api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "web", Protocol: "http"}
	done, _, err := entries.Set(entry, nil)
	must(err)
	that(done, "it is kept")
	kept := got2(entries.Get(api.ServiceDefaults, "web", nil)).(*api.ServiceConfigEntry)
	equal(kept.Protocol, "http")
	equal(len(got2(entries.List(api.ServiceDefaults, nil))), 1)
	entry.Protocol = "grpc"
	that(!got2(entries.CAS(entry, kept.ModifyIndex+1, nil)), "the index is another")
	that(got2(entries.CAS(entry, kept.ModifyIndex, nil)), "the index is right")
	got(entries.Delete(api.ServiceDefaults, "web", nil))
	_, _, err = entries.Get(api.ServiceDefaults, "web", nil)
	refused(404, err)
}

// The whole node in maintenance, and out of it again.
func (w *world) maintenance() {
	must(w.Agent().EnableNodeMaintenance("new rack"))
	equal(got2(w.Health().Node(w.node, nil)).AggregatedStatus(), api.HealthMaint)
	equal(len(got2(w.Health().Service("web", "", true, nil))), 0)
	must(w.Agent().DisableNodeMaintenance())
	equal(len(got2(w.Health().Service("web", "", true, nil))), 1)
}

// A session that stands on a check of a service falls with it.
func (w *world) sessionOnACheck() {
	id := got2(w.Session().Create(&api.SessionEntry{
		ServiceChecks: []api.ServiceCheck{{ID: "beat"}}, Behavior: api.SessionBehaviorRelease,
	}, nil))
	that(got2(w.KV().Acquire(&api.KVPair{Key: "leader", Session: id}, nil)), "it is free")
	must(w.Agent().FailTTL("beat", "ill"))
	eventually("the session falls", func() bool { return got2(w.Session().Info(id, nil)) == nil })
	eventually("what it held is free", func() bool { return got2(w.KV().Get("leader", nil)).Session == "" })
	must(w.Agent().PassTTL("beat", ""))
}
