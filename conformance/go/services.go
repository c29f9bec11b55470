package main

import (
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

func (w *world) agent() {
	self := got(w.Agent().Self())
	equal(self["Config"]["Datacenter"], "dc1")
	w.node = got(w.Agent().NodeName())
	members := got(w.Agent().Members(false))
	equal(len(members), 1)
	equal(members[0].Name, w.node)
	that(members[0].IsConsulServer(), "the member is a server")
	equal(got(w.Catalog().Datacenters()), []string{"dc1"})
	leader := got(w.Status().Leader())
	equal(got(w.Status().Peers()), []string{leader})
}

func (w *world) ttlService() {
	agent, health := w.Agent(), w.Health()
	service := &api.AgentServiceRegistration{
		ID:              "web:1",
		Name:            "web",
		Tags:            []string{"blue", "v1"},
		Address:         "127.0.0.1",
		Port:            w.port,
		Meta:            map[string]string{"zone": "a"},
		Weights:         &api.AgentWeights{Passing: 5, Warning: 2},
		TaggedAddresses: map[string]api.ServiceAddress{"lan": {Address: "127.0.0.1", Port: w.port}},
		Checks: api.AgentServiceChecks{
			{CheckID: "beat", Name: "beat", TTL: "30s", Notes: "beats"},
			{CheckID: "extra", TTL: "30s", Status: api.HealthPassing},
		},
	}
	must(agent.ServiceRegister(service))
	// Registered again with fewer checks: what is not said again stays, unless asked.
	service.Checks = service.Checks[:1]
	must(agent.ServiceRegister(service))
	that(got(agent.Checks())["extra"] != nil, "a check that is not said again stays")
	must(agent.ServiceRegisterOpts(service, api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	that(got(agent.Checks())["extra"] == nil, "it is replaced when asked")

	kept, meta, err := agent.Service("web:1", nil)
	must(err)
	equal(kept.Tags, service.Tags)
	equal(kept.Meta, service.Meta)
	equal(kept.Weights, *service.Weights)
	equal(kept.TaggedAddresses["lan"], service.TaggedAddresses["lan"])
	that(kept.ContentHash != "" && meta.LastContentHash == kept.ContentHash, "it has a hash")
	equal(len(got(agent.ServicesWithFilter(`Meta.zone == "a"`))), 1)
	equal(len(got(agent.ServicesWithFilter(`Meta.zone == "b"`))), 0)
	equal(got(agent.Checks())["beat"].Status, api.HealthCritical)

	// A query that blocks is woken by what changes its answer.
	entries, query, err := health.Service("web", "", true, nil)
	must(err)
	equal(len(entries), 0)
	that(query.LastIndex > 0 && query.KnownLeader, "the query has an index")
	type answer struct {
		entries []*api.ServiceEntry
		meta    *api.QueryMeta
		err     error
	}
	woken := make(chan answer, 1)
	go func() {
		options := &api.QueryOptions{WaitIndex: query.LastIndex, WaitTime: patience}
		entries, meta, err := health.Service("web", "", true, options)
		woken <- answer{entries, meta, err}
	}()
	must(agent.UpdateTTL("beat", "fine", api.HealthPassing))
	now := received("the blocked query", woken)
	must(now.err)
	that(now.meta.LastIndex > query.LastIndex, "the index went on")
	equal(len(now.entries), 1)
	entry := now.entries[0]
	equal(entry.Node.Node, w.node)
	equal(entry.Service.ID, "web:1")
	equal(entry.Checks.AggregatedStatus(), api.HealthPassing)
	// Nothing changes: the same index when the time is up.
	_, meta2, err := health.Service("web", "", true, &api.QueryOptions{
		WaitIndex: now.meta.LastIndex, WaitTime: 300 * time.Millisecond,
	})
	must(err)
	equal(meta2.LastIndex, now.meta.LastIndex)

	must(agent.WarnTTL("beat", "slow"))
	equal(got2(health.Checks("web", nil))[0].Status, api.HealthWarning)
	must(agent.FailTTL("beat", "ill"))
	critical := got2(health.State(api.HealthCritical, nil))
	equal(critical[0].Output, "ill")
	equal(critical[0].Notes, "beats")
	status, info, err := agent.AgentHealthServiceByID("web:1")
	must(err)
	equal(status, api.HealthCritical)
	equal(info.Service.ID, "web:1")
	must(agent.PassTTL("beat", ""))
	status, infos, err := agent.AgentHealthServiceByName("web")
	must(err)
	equal(status, api.HealthPassing)
	equal(len(infos), 1)
	status, _, err = agent.AgentHealthServiceByID("nobody")
	must(err)
	equal(status, api.HealthCritical)

	equal(len(got2(health.ServiceMultipleTags("web", []string{"blue", "v1"}, true, nil))), 1)
	equal(len(got2(health.Service("web", "red", true, nil))), 0)
	equal(len(got2(health.Service("web", "", true, &api.QueryOptions{
		Filter: `Service.Meta.zone == "a" and "blue" in Service.Tags`, Near: "_agent", UseCache: true,
	}))), 1)
	that(len(got2(health.Node(w.node, nil))) >= 2, "the node has its check and the service's")

	must(agent.EnableServiceMaintenance("web:1", "new disk"))
	equal(got2(health.Checks("web", nil)).AggregatedStatus(), api.HealthMaint)
	equal(len(got2(health.Service("web", "", true, nil))), 0)
	must(agent.DisableServiceMaintenance("web:1"))
	equal(len(got2(health.Service("web", "", true, nil))), 1)
}

func (w *world) checks() {
	agent, health := w.Agent(), w.Health()
	must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Name: "api", Address: "127.0.0.1", Port: w.port,
		Check: &api.AgentServiceCheck{
			HTTP:                           fmt.Sprintf("http://127.0.0.1:%d/healthz", w.port),
			Interval:                       "1s",
			Timeout:                        "2s",
			SuccessBeforePassing:           1,
			FailuresBeforeCritical:         2,
			DeregisterCriticalServiceAfter: "1m",
		},
	}))
	must(agent.CheckRegister(&api.AgentCheckRegistration{
		ID: "port", Name: "port", ServiceID: "api",
		AgentServiceCheck: api.AgentServiceCheck{TCP: fmt.Sprintf("127.0.0.1:%d", w.port), Interval: "1s"},
	}))
	eventually("both checks pass", func() bool {
		checks := got2(health.Checks("api", nil))
		return len(checks) == 2 && checks.AggregatedStatus() == api.HealthPassing
	})
	equal(got(agent.ChecksWithFilter(`CheckID == "port"`))["port"].ServiceName, "api")
	must(agent.CheckDeregister("port"))
	equal(len(got2(health.Checks("api", nil))), 1)
	refused(404, agent.PassTTL("port", ""))
	must(agent.ServiceDeregister("api"))
	equal(len(got2(w.Catalog().Service("api", "", nil))), 0)
	refused(404, agent.ServiceDeregister("api"))
}

func (w *world) catalog() {
	catalog := w.Catalog()
	got(catalog.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.1.2.3", NodeMeta: map[string]string{"rack": "r1"},
		Service: &api.AgentService{ID: "mysql", Service: "mysql", Port: 3306, Tags: []string{"main"}},
		Checks: api.HealthChecks{{
			Node: "outside", CheckID: "alive", Name: "alive", Status: api.HealthPassing, ServiceID: "mysql",
		}},
	}, nil))
	row := got2(catalog.ServiceMultipleTags("mysql", []string{"main"}, nil))[0]
	equal(row.Address, "10.1.2.3")
	equal(row.ServicePort, 3306)
	equal(row.NodeMeta["rack"], "r1")
	nodes := got2(catalog.Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r1"}}))
	equal(len(nodes), 1)
	equal(nodes[0].Node, "outside")
	equal(got2(catalog.Services(nil))["web"], []string{"blue", "v1"})
	that(got2(catalog.Node(w.node, nil)).Services["web:1"] != nil, "the node has the service")
	equal(len(got2(catalog.NodeServiceList("outside", nil)).Services), 1)
	equal(len(got2(w.Health().Service("mysql", "", true, nil))), 1)

	got(catalog.Deregister(&api.CatalogDeregistration{Node: "outside", ServiceID: "mysql"}, nil))
	equal(len(got2(catalog.Service("mysql", "", nil))), 0)
	got(catalog.Deregister(&api.CatalogDeregistration{Node: "outside"}, nil))
	that(got2(catalog.Node("outside", nil)) == nil, "the node is gone")
}

// Runs a watch plan; what its handler is given.
func (w *world) plan(parameters map[string]any) (<-chan any, *watch.Plan) {
	plan := got(watch.Parse(parameters))
	told := make(chan any, 64)
	// For plans that block on an index and those that block on a hash.
	plan.HybridHandler = func(_ watch.BlockingParamVal, data any) { told <- data }
	go func() { must(plan.Run(w.address)) }()
	return told, plan
}

func (w *world) watches() {
	agent := w.Agent()
	services, plan1 := w.plan(map[string]any{"type": "services"})
	entries, plan2 := w.plan(map[string]any{"type": "service", "service": "news", "passingonly": true})
	checks, plan3 := w.plan(map[string]any{"type": "checks", "state": "passing"})
	nodes, plan4 := w.plan(map[string]any{"type": "nodes"})
	key, plan5 := w.plan(map[string]any{"type": "key", "key": "watched/a"})
	below, plan6 := w.plan(map[string]any{"type": "keyprefix", "prefix": "watched/"})
	that(received("services", services).(map[string][]string)["web"] != nil, "web is there")
	equal(len(received("the service", entries).([]*api.ServiceEntry)), 0)
	equal(received("nodes", nodes).([]*api.Node)[0].Node, w.node)
	equal(received("the key", key), nil)
	equal(len(received("keys", below).(api.KVPairs)), 0)

	must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Name: "news", ID: "news", Address: "127.0.0.1", Port: w.port,
		Check: &api.AgentServiceCheck{CheckID: "news", TTL: "30s", Status: api.HealthPassing},
	}))
	eventually("the watch tells of the name", func() bool {
		return received("services", services).(map[string][]string)["news"] != nil
	})
	eventually("the watch tells of the instance", func() bool {
		return len(received("the service", entries).([]*api.ServiceEntry)) == 1
	})
	eventually("the watch tells of the check", func() bool {
		for _, check := range received("checks", checks).([]*api.HealthCheck) {
			if check.CheckID == "news" {
				return true
			}
		}
		return false
	})
	one, plan7 := w.plan(map[string]any{"type": "agent_service", "service_id": "news"})
	equal(received("one service", one).(*api.AgentService).ID, "news")
	must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Name: "news", ID: "news", Address: "127.0.0.1", Port: w.port, Tags: []string{"late"},
	}))
	eventually("the hash wakes the watch", func() bool {
		return len(received("one service", one).(*api.AgentService).Tags) == 1
	})
	plan7.Stop()
	must(agent.ServiceDeregister("news"))
	eventually("the watch tells that it left", func() bool {
		return len(received("the service", entries).([]*api.ServiceEntry)) == 0
	})

	got(w.KV().Put(&api.KVPair{Key: "watched/a", Value: []byte("1")}, nil))
	equal(received("the key", key).(*api.KVPair).Value, []byte("1"))
	equal(received("keys", below).(api.KVPairs)[0].Key, "watched/a")
	got(w.KV().DeleteTree("watched/", nil))
	equal(received("the key", key), nil)
	equal(len(received("keys", below).(api.KVPairs)), 0)
	for _, plan := range []*watch.Plan{plan1, plan2, plan3, plan4, plan5, plan6} {
		plan.Stop()
		that(plan.IsStopped(), "the plan stops")
	}
}

// What Atoll does not do it refuses; SPEC.md says why.
func (w *world) refusals() {
	agent := w.Agent()
	// As Consul where scripts are not enabled.
	script := &api.AgentServiceCheck{Args: []string{"/bin/true"}, Interval: "1s"}
	refused(400, agent.ServiceRegister(&api.AgentServiceRegistration{Name: "x", Check: script}))
	native := &api.AgentServiceConnect{Native: true}
	refused(501, agent.ServiceRegister(&api.AgentServiceRegistration{Name: "x", Connect: native}))
	equal(len(got2(w.Catalog().Service("x", "", nil))), 0)
	refused(501, agent.Join("10.0.0.1", false))
	equal(len(got2(w.Catalog().Connect("web", "", nil))), 0)
	_, _, err := w.Connect().Intentions(nil)
	refused(501, err)
	_, _, err = w.Catalog().Service("web", "", &api.QueryOptions{Datacenter: "elsewhere"})
	refused(500, err)
	_, _, err = w.Health().Service("web", "", false, &api.QueryOptions{Filter: "Service.Port =="})
	refused(400, err)
}
