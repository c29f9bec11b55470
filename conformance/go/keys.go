package main

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

func (w *world) keys() {
	kv := w.KV()
	pair, meta, err := kv.Get("app/absent", nil)
	must(err)
	that(pair == nil && meta.LastIndex > 0, "what is absent has an index")
	got(kv.Put(&api.KVPair{Key: "app/a", Value: []byte("one"), Flags: 7}, nil))
	got(kv.Put(&api.KVPair{Key: "app/b/c d", Value: []byte{0, 255}}, nil))
	a := got2(kv.Get("app/a", nil))
	equal(string(a.Value), "one")
	equal(a.Flags, uint64(7))
	equal(got2(kv.Get("app/b/c d", nil)).Value, []byte{0, 255})
	equal(len(got2(kv.List("app/", nil))), 2)
	equal(got2(kv.Keys("app/", "", nil)), []string{"app/a", "app/b/c d"})
	equal(got2(kv.Keys("app/", "/", nil)), []string{"app/a", "app/b/"})

	a.Value = []byte("two")
	that(got2(kv.CAS(a, nil)), "the index is right")
	that(!got2(kv.CAS(a, nil)), "the index is old")
	that(!got2(kv.CAS(&api.KVPair{Key: "app/a"}, nil)), "it is there")
	that(got2(kv.CAS(&api.KVPair{Key: "app/new"}, nil)), "it was not there")
	that(!got2(kv.DeleteCAS(a, nil)), "the index is old")

	// Woken by its own key, not by another; a list by whatever is below it, and gone.
	_, meta, err = kv.Get("app/a", nil)
	must(err)
	woken := make(chan *api.KVPair, 1)
	go func() {
		woken <- got2(kv.Get("app/a", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: patience}))
	}()
	got(kv.Put(&api.KVPair{Key: "elsewhere"}, nil))
	got(kv.Put(&api.KVPair{Key: "app/a", Value: []byte("four")}, nil))
	equal(string(received("the key", woken).Value), "four")
	_, meta, err = kv.List("app/", nil)
	must(err)
	listed := make(chan api.KVPairs, 1)
	go func() {
		listed <- got2(kv.List("app/", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: patience}))
	}()
	that(got2(kv.DeleteCAS(got2(kv.Get("app/new", nil)), nil)), "the index is right")
	equal(len(received("the list", listed)), 2)

	got(kv.DeleteTree("app/", nil))
	equal(len(got2(kv.List("app/", nil))), 0)
	large := bytes.Repeat([]byte("x"), 512*1024)
	got(kv.Put(&api.KVPair{Key: "large", Value: large}, nil))
	equal(len(got2(kv.Get("large", nil)).Value), len(large))
	_, err = kv.Put(&api.KVPair{Key: "large", Value: append(large, 'x')}, nil)
	refused(413, err)
	got(kv.Delete("large", nil))
}

func (w *world) transactions() {
	done, results, _, err := w.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "t/a", Value: []byte("one")}},
		{KV: &api.KVTxnOp{Verb: api.KVGet, Key: "t/a"}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "t/b"}},
		{KV: &api.KVTxnOp{Verb: api.KVGetTree, Key: "t/"}},
	}, nil)
	must(err)
	that(done, "it was committed")
	equal(string(results.Results[1].KV.Value), "one")
	index := results.Results[0].KV.ModifyIndex
	equal(got2(w.KV().Get("t/a", nil)).ModifyIndex, index)

	done, old, _, err := w.KV().Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "t/c", Value: []byte("one")},
		{Verb: api.KVCAS, Key: "t/a", Value: []byte("two"), Index: 1},
	}, nil)
	must(err)
	that(!done, "all or nothing")
	equal(len(old.Errors), 1)
	equal(old.Errors[0].OpIndex, 1)
	that(got2(w.KV().Get("t/c", nil)) == nil, "all or nothing")
	done, _, _, err = w.KV().Txn(api.KVTxnOps{
		{Verb: api.KVCheckIndex, Key: "t/a", Index: index},
		{Verb: api.KVDeleteTree, Key: "t/"},
	}, nil)
	must(err)
	that(done, "it was committed")
}

func (w *world) sessions() {
	session := w.Session()
	plain := got2(session.Create(nil, nil))
	first := got2(session.Create(&api.SessionEntry{
		Name: "first", TTL: "15s", LockDelay: time.Millisecond, Behavior: api.SessionBehaviorDelete,
	}, nil))
	bare := got2(session.CreateNoChecks(&api.SessionEntry{Name: "bare", TTL: "15s"}, nil))
	info := got2(session.Info(first, nil))
	equal(info.Name, "first")
	equal(info.TTL, "15s")
	equal(info.LockDelay, time.Millisecond)
	equal(info.Behavior, api.SessionBehaviorDelete)
	equal(info.Node, w.node)
	equal(len(got2(session.List(nil))), 3)
	equal(len(got2(session.Node(w.node, nil))), 3)
	equal(got2(session.Renew(first, nil)).ID, first)
	that(got2(w.KV().Acquire(&api.KVPair{Key: "held", Session: first}, nil)), "it is free")
	that(!got2(w.KV().Acquire(&api.KVPair{Key: "held", Session: plain}, nil)), "it is held")
	that(!got2(w.KV().Release(&api.KVPair{Key: "held", Session: plain}, nil)), "it is another's")

	// Renewed until told to end, which ends the session and what it held.
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- session.RenewPeriodic("15s", first, nil, stop) }()
	close(stop)
	must(received("the end of the renewals", ended))
	that(got2(session.Info(first, nil)) == nil, "the session is gone")
	that(got2(w.KV().Get("held", nil)) == nil, "and its key with it")
	that(got2(session.Renew(first, nil)) == nil, "what is gone is not renewed")
	for _, id := range []string{plain, bare} {
		got(session.Destroy(id, nil))
	}
}

func (w *world) lock(client *api.Client) *api.Lock {
	options := &api.LockOptions{
		Key: "lock", Value: []byte("mine"), LockDelay: time.Millisecond, LockWaitTime: patience,
		SessionOpts: &api.SessionEntry{TTL: "15s", LockDelay: time.Millisecond},
	}
	return got(client.LockOpts(options))
}

// Two clients contend for one lock: never do both hold it, and it goes from one to the other.
func (w *world) locks() {
	clients := []*api.Client{w.Client, connect(w.address)}
	const rounds = 10
	var inside, taken atomic.Int32
	var workers sync.WaitGroup
	for _, client := range clients {
		lock := w.lock(client)
		workers.Add(1)
		go func() {
			defer workers.Done()
			for range rounds {
				lost := got(lock.Lock(nil))
				that(lost != nil, "the lock is had")
				that(inside.Add(1) == 1, "one at a time")
				taken.Add(1)
				inside.Add(-1)
				must(lock.Unlock())
			}
		}()
	}
	workers.Wait()
	equal(taken.Load(), int32(2*rounds))

	// Who holds it hears when its session ends, and who waits gets it.
	first, second := w.lock(clients[0]), w.lock(clients[1])
	lost := got(first.Lock(nil))
	equal(second.Destroy(), api.ErrLockInUse)
	waits := make(chan (<-chan struct{}), 1)
	go func() { waits <- got(second.Lock(nil)) }()
	holder := got2(w.KV().Get("lock", nil))
	equal(string(holder.Value), "mine")
	got(w.Session().Destroy(holder.Session, nil))
	received("the loss of the lock", lost)
	received("the lock", waits)
	must(second.Unlock())
	must(second.Destroy())
	that(got2(w.KV().Get("lock", nil)) == nil, "the lock is destroyed")
}

// Three contend for two places.
func (w *world) semaphores() {
	const limit, contenders, rounds = 2, 3, 4
	var inside, most atomic.Int32
	var workers sync.WaitGroup
	for number := range contenders {
		semaphore := got(connect(w.address).SemaphoreOpts(&api.SemaphoreOptions{
			Prefix: "places", Limit: limit, Value: []byte(fmt.Sprint(number)), SessionTTL: "15s",
		}))
		workers.Add(1)
		go func() {
			defer workers.Done()
			for range rounds {
				lost := got(semaphore.Acquire(nil))
				that(lost != nil, "a place is had")
				now := inside.Add(1)
				that(now <= limit, "no more than two at a time")
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				inside.Add(-1)
				must(semaphore.Release())
			}
		}()
	}
	workers.Wait()
	that(most.Load() >= 1, "somebody was inside")

	one := got(w.SemaphorePrefix("few", 1))
	held := got(one.Acquire(nil))
	that(held != nil, "the place is had")
	other := got(connect(w.address).SemaphoreOpts(&api.SemaphoreOptions{
		Prefix: "few", Limit: 1, SemaphoreTryOnce: true, SemaphoreWaitTime: 300 * time.Millisecond,
	}))
	none := got(other.Acquire(nil))
	that(none == nil, "there is no place")
	must(one.Release())
	must(one.Destroy())
}
