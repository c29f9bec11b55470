// HashiCorp's own Go client against a running Atoll: `conformance ADDRESS SERVICE_PORT`.
//
// ADDRESS is where Consul's API is, SERVICE_PORT that of a service of the test's own,
// which answers /healthz. Ends with 0 and `ok` when every step held; otherwise it says
// which did not.
package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

// How long a condition may take before a step gives up on it.
const patience = 20 * time.Second

// A client, and where its agent and the test's service are.
type world struct {
	*api.Client
	address string
	port    int
	node    string
}

func main() {
	port, err := strconv.Atoi(os.Args[2])
	must(err)
	w := &world{Client: connect(os.Args[1]), address: os.Args[1], port: port}
	w.agent()
	w.ttlService()
	w.checks()
	w.catalog()
	w.watches()
	w.keys()
	w.transactions()
	w.sessions()
	w.locks()
	w.semaphores()
	w.queries()
	w.events()
	w.standing()
	w.configEntries()
	w.maintenance()
	w.sessionOnACheck()
	w.refusals()
	// Left for the test to route to: `web:1`.
	fmt.Println("ok")
}

func connect(address string) *api.Client {
	config := api.DefaultConfig()
	config.Address = address
	client, err := api.NewClient(config)
	must(err)
	return client
}

func fail(format string, arguments ...any) {
	_, file, line, _ := runtime.Caller(2)
	fmt.Fprintf(os.Stderr, "%s:%d: %s\n", file, line, fmt.Sprintf(format, arguments...))
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// Of a call's results and its error, the results.
func got[T any](value T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

// As got, for calls that tell of the query, too.
func got2[T, M any](value T, _ M, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

func equal(value, wanted any) {
	if !reflect.DeepEqual(value, wanted) {
		fail("%#v, not %#v", value, wanted)
	}
}

func that(holds bool, what string) {
	if !holds {
		fail("not so: %s", what)
	}
}

// Waits on a condition.
func eventually(what string, condition func() bool) {
	end := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(end) {
			fail("gave up waiting until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// What a channel brings.
func received[T any](what string, from <-chan T) T {
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		fail("gave up waiting for %s", what)
		panic("unreachable")
	}
}

// That it is refused with this status, and says why.
func refused(code int, err error) {
	var status api.StatusError
	if !errors.As(err, &status) || status.Code != code || status.Body == "" {
		fail("%v, not a refusal with %d", err, code)
	}
}
