"""py-eureka-client against a running Atoll, from registration to the end.

Arguments: where Eureka's API is, where the gateway is (it routes /orders/... to the
service `orders`), and the port of something that answers /whoami. Says what went
otherwise and exits with 1.
"""

import asyncio
import sys
import time
import urllib.error
import urllib.request

from py_eureka_client.eureka_client import EurekaClient

EUREKA, GATEWAY, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
SERVER = f"http://{EUREKA}/eureka/"
PATIENCE_SECS = 60
errors = []


def note(kind, error):
    errors.append(f"{kind}: {error}")


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def until(what, condition):
    """Waits for what the next fetch of the client must bring."""
    end = time.monotonic() + PATIENCE_SECS
    while not condition():
        assert time.monotonic() < end, f"gave up waiting until {what}; errors: {errors}"
        await asyncio.sleep(0.05)


async def main():
    service = EurekaClient(
        eureka_server=SERVER, app_name="orders", instance_ip="127.0.0.1",
        instance_host="localhost", instance_port=PORT, instance_id="o:1",
        renewal_interval_in_secs=1, duration_in_secs=3, metadata={"zone": "a", "my_key": "1"},
        should_discover=False, on_error=note)
    caller = EurekaClient(
        eureka_server=SERVER, should_register=False, renewal_interval_in_secs=1, on_error=note)
    await caller.start()
    seen = [app.name for app in caller.applications.applications]
    assert "LEGACY" in seen, f"what the config file names is found: {seen}"

    await service.start()
    # Registered is found by the next fetch, and routed at once.
    status, body = get(f"{SERVER}apps/ORDERS")
    assert (status, "o:1" in body) == (200, True), (status, body)
    await until("the gateway routes to it", lambda: get(f"http://{GATEWAY}/orders/whoami") == (200, "first"))

    def orders():
        return {one.instanceId: one for one in caller.applications.get_application("ORDERS").instances}

    await until("the caller finds it", lambda: "o:1" in orders())
    found = orders()["o:1"]
    assert (found.status, found.port.port, found.ipAddr) == ("UP", PORT, "127.0.0.1"), vars(found)
    assert found.metadata["my_key"] == "1", found.metadata
    assert found.leaseInfo.durationInSecs == 3, vars(found.leaseInfo)
    answered = await caller.do_service("ORDERS", "/whoami", prefer_ip=True)
    assert answered == "first", answered

    # Longer than its lease: the heartbeats keep it.
    registered = found.leaseInfo.registrationTimestamp
    end = time.monotonic() + 5
    await until("more than a lease has passed", lambda: time.monotonic() > end)
    _, body = get(f"{SERVER}apps/ORDERS/o:1")
    assert f"<registrationTimestamp>{registered}<" in body, body

    await service.status_update("OUT_OF_SERVICE")
    status, body = get(f"{SERVER}apps/ORDERS/o:1")
    assert "<status>OUT_OF_SERVICE<" in body and "<overriddenstatus>OUT_OF_SERVICE<" in body, body
    await until("the caller sees it out of service", lambda: orders()["o:1"].status == "OUT_OF_SERVICE")
    await until("the gateway does not route to it", lambda: get(f"http://{GATEWAY}/orders/whoami")[0] == 503)
    # Heartbeats and registrations do not undo it.
    await service.send_heartbeat()
    await service.register()
    _, body = get(f"{SERVER}apps/ORDERS/o:1")
    assert "<status>OUT_OF_SERVICE<" in body, body
    await service.delete_status_override()
    await until("the caller sees it up", lambda: orders()["o:1"].status == "UP")
    await until("the gateway routes to it again", lambda: get(f"http://{GATEWAY}/orders/whoami") == (200, "first"))

    await service.register(status="DOWN")
    await until("the caller sees it down", lambda: orders()["o:1"].status == "DOWN")
    await service.register()
    await service.cancel()
    # The thread of its client beats on, fails, and registers again, as after a loss.
    await until("it is back by itself", lambda: get(f"{SERVER}apps/ORDERS/o:1")[0] == 200)
    heartbeat_errors = [error for error in errors if "404" not in error]
    assert not heartbeat_errors, heartbeat_errors
    print("ok")


asyncio.run(main())
