// eureka-js-client against a running Atoll: `eureka.mjs EUREKA CONSUL GATEWAY PORT`.
//
// The first three are HOST:PORT; the gateway routes /orders/... to the service
// `orders`; PORT answers /whoami with `first`. The file of the fleet names the service
// `legacy`, and the fleet runs `echo`. Ends with 0 and `ok` when every step held.

import assert from "node:assert/strict";
import { once } from "node:events";
import eureka from "eureka-js-client";

const [EUREKA, CONSUL, GATEWAY, PORT] = process.argv.slice(2);
const PATIENCE_MS = 60_000;
const warnings = [];

const logger = {
  debug: () => {},
  info: () => {},
  warn: (...words) => warnings.push(words.join(" ")),
  error: (...words) => warnings.push(words.join(" ")),
};

function client(config) {
  const [host, port] = EUREKA.split(":");
  return new eureka.Eureka({
    logger,
    ...config,
    eureka: { host, port, servicePath: "/eureka/apps/", registryFetchInterval: 50, ...config.eureka },
  });
}

/** A method that takes a callback, as a promise. */
function done(of, method) {
  return new Promise((resolve, reject) => {
    of[method]((error) => (error ? reject(error) : resolve()));
  });
}

/** Waits for what the client's next fetch must bring. */
async function until(what, condition) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < end, `gave up waiting until ${what}; warnings: ${warnings.join("\n")}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function ask(method, url, body) {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const answer = await fetch(`http://${url}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, text, json: () => JSON.parse(text) };
}

const service = client({
  instance: {
    app: "orders",
    instanceId: "n:1",
    hostName: "localhost",
    ipAddr: "127.0.0.1",
    port: { $: Number(PORT), "@enabled": "true" },
    vipAddress: "orders,orders-too",
    dataCenterInfo: { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", name: "MyOwn" },
    leaseInfo: { renewalIntervalInSecs: 1, durationInSecs: 3 },
    metadata: { zone: "a" },
  },
  eureka: { heartbeatInterval: 300, maxRetries: 0 },
});
// By deltas, and of every status; the service fetches all, and only what is up, as is the default.
const caller = client({
  shouldUseDelta: true,
  eureka: { registerWithEureka: false, filterUpInstances: false },
});

const status = (found) => found[0]?.status;
const own = () => ask("GET", `${EUREKA}/eureka/apps/ORDERS/n:1`);

try {
  await done(caller, "start");
  for (const name of ["legacy", "echo"]) {
    assert.equal(status(caller.getInstancesByAppId(name)), "UP", `${name} by its app`);
    assert.equal(status(caller.getInstancesByVipAddress(name)), "UP", `${name} by its address`);
  }
  assert.deepEqual(caller.getInstancesByAppId("orders"), []);

  const registered = once(service, "registered");
  await done(service, "start");
  await registered;
  await until("the caller finds it", () => status(caller.getInstancesByAppId("orders")) === "UP");
  const found = caller.getInstancesByVipAddress("orders-too")[0];
  assert.equal(found.instanceId, "n:1");
  assert.equal(found.port.$, Number(PORT));
  assert.equal(found.ipAddr, "127.0.0.1");
  assert.equal(found.metadata.zone, "a");
  await until("the gateway routes to it", async () => {
    const { status, text } = await ask("GET", `${GATEWAY}/orders/whoami`);
    return status === 200 && text === "first";
  });

  // Longer than its lease of three seconds: the heartbeats keep it.
  const began = (await own()).json().instance.leaseInfo.registrationTimestamp;
  const end = Date.now() + 4_000;
  await until("more than a lease has passed", async () => {
    await once(service, "heartbeat");
    return Date.now() > end;
  });
  assert.equal((await own()).json().instance.leaseInfo.registrationTimestamp, began);

  // Out of service: the client has no method for it, but all it needs to ask.
  const override = (method, query) =>
    new Promise((resolve, reject) => {
      const uri = `ORDERS/n:1/status${query}`;
      service.eurekaRequest({ method, uri }, (error, answer) => (error ? reject(error) : resolve(answer.statusCode)));
    });
  assert.equal(await override("PUT", "?value=OUT_OF_SERVICE"), 200);
  await until("the caller sees that", () => status(caller.getInstancesByAppId("orders")) === "OUT_OF_SERVICE");
  await until("the default leaves it out", () => service.getInstancesByAppId("orders").length === 0);
  await once(service, "heartbeat");
  assert.equal((await own()).json().instance.status, "OUT_OF_SERVICE", "over heartbeats");
  assert.equal(await override("DELETE", ""), 200);
  await until("the caller sees it up", () => status(caller.getInstancesByAppId("orders")) === "UP");
  await until("the default has it", () => service.getInstancesByAppId("orders").length === 1);

  // What Consul registers is found like anything else.
  const web = { Name: "web", ID: "web-1", Address: "127.0.0.1", Port: Number(PORT) };
  assert.equal((await ask("PUT", `${CONSUL}/v1/agent/service/register`, web)).status, 200);
  await until("Consul's is found", () => caller.getInstancesByVipAddress("web")[0]?.instanceId === "web-1");
  assert.equal((await ask("PUT", `${CONSUL}/v1/agent/service/deregister/web-1`)).status, 200);
  await until("Consul's is gone", () => caller.getInstancesByVipAddress("web").length === 0);

  // Lost: the next heartbeat's 404 makes the client register again.
  const again = once(service, "registered");
  assert.equal((await ask("DELETE", `${EUREKA}/eureka/apps/ORDERS/n:1`)).status, 200);
  await again;
  await until("the caller has it again", () => status(caller.getInstancesByAppId("orders")) === "UP");

  const gone = once(service, "deregistered");
  await done(service, "stop");
  await gone;
  assert.equal((await own()).status, 404);
  await until("the caller misses it", () => caller.getInstancesByAppId("orders").length === 0);
  await done(caller, "stop");

  const unexpected = warnings.filter(
    (warning) => !/Unable to retrieves? instances/.test(warning) && !/Re-registering/.test(warning),
  );
  assert.deepEqual(unexpected, []);
  console.log("ok");
  // What is left are its sockets that are kept alive.
  process.exit(0);
} catch (error) {
  console.error(error, warnings);
  process.exit(1);
}
