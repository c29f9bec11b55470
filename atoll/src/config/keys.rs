//! Every key that the file may hold: one table that the decoder takes its keys
//! from, that unknown ones are compared with, and that the JSON Schema is made of.

/// A map with keys of its own.
#[derive(Debug)]
pub(crate) struct Object {
    /// Its name in the schema, and in messages after "of".
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static [Key]],
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) effect: Effect,
}

/// What became of a key of Compose's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It does what it says.
    Works,
    /// Accepted with a warning that says why it does nothing.
    Nothing(&'static str),
    /// An error that says what to do instead.
    Refused(&'static str),
}

/// What may stand under a key.
#[derive(Debug)]
pub(crate) enum Kind {
    Text,
    Flag,
    Count(u64, u64),
    Duration,
    Size,
    Percent,
    /// One of these words.
    Word(&'static [&'static str]),
    Object(&'static Object),
    List(&'static Kind),
    /// Keys are free.
    Map(&'static Kind),
    /// May be left empty.
    Empty,
    Either(&'static [Kind]),
    Anything,
}

impl Object {
    pub(crate) fn all(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().copied().flatten()
    }

    pub(crate) fn find(&self, name: &str) -> Option<&'static Key> {
        self.all().find(|key| key.name == name)
    }

    /// Those that are worth suggesting.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let working = self.all().filter(|key| key.effect == Effect::Works);
        working.map(|key| key.name).collect()
    }
}

/// Whether a key is free for anyone's use.
pub(crate) fn is_extension(name: &str) -> bool {
    name.starts_with("x-")
}

const fn key(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key {
        name,
        about,
        kind,
        effect: Effect::Works,
    }
}

const fn idle(name: &'static str, why: &'static str) -> Key {
    Key {
        name,
        about: "Known from Compose; has no effect.",
        kind: Kind::Anything,
        effect: Effect::Nothing(why),
    }
}

const fn refused(name: &'static str, instead: &'static str) -> Key {
    Key {
        name,
        about: "Known from Compose; refused.",
        kind: Kind::Anything,
        effect: Effect::Refused(instead),
    }
}

use Kind::{Anything, Count, Duration, Either, Empty, Flag, List, Map, Percent, Size, Text, Word};

const TEXTS: Kind = Either(&[Text, List(&Text)]);
const TEXT_MAP: Kind = Map(&Either(&[Text, Empty]));
const TEXT_PAIRS: Kind = Either(&[TEXT_MAP, List(&Text)]);
const HEALTH: Kind = Either(&[Text, Kind::Object(&HEALTHCHECK)]);
const LIMITLESS: Kind = Either(&[Size, Word(&["none"])]);

pub(crate) static ROOT: Object = Object {
    name: "file",
    keys: &[&[
        key("name", Text, "Name of the fleet; by default the folder's."),
        key("listen", Kind::Object(&LISTEN), "Where Atoll listens."),
        key(
            "admin_token",
            Text,
            "Asked of whoever calls the admin API. Required once a listener leaves loopback.",
        ),
        key(
            "services",
            Map(&Kind::Object(&SERVICE)),
            "What runs, or runs elsewhere, by name; keys mean what they mean in compose.yaml.",
        ),
        key(
            "routes",
            Map(&Either(&[Text, Kind::Object(&ROUTE)])),
            "Which requests go where, by path: `/users/{path*}: users`.",
        ),
        key(
            "registry",
            Kind::Object(&REGISTRY),
            "Settings of the registry.",
        ),
        key(
            "gateway",
            Kind::Object(&GATEWAY),
            "Settings of the gateway, and policies for all routes.",
        ),
        key("dns", Kind::Object(&DNS), "What names are answered by DNS."),
        key(
            "store",
            Either(&[Word(&["embedded"]), Kind::Object(&STORE)]),
            "Where registrations and keys are kept: `embedded`, the default, is the data folder.",
        ),
        key(
            "consul",
            Kind::Object(&CONSUL),
            "Settings of Consul's HTTP API.",
        ),
        idle("version", "Compose itself ignores it"),
        idle("networks", "processes share the network of this machine"),
        idle("volumes", "processes share the disk of this machine"),
        refused(
            "configs",
            "needs the container driver, which does not exist yet; let the service read the file itself",
        ),
        refused(
            "secrets",
            "needs the container driver, which does not exist yet; give secrets under `environment`",
        ),
        refused(
            "include",
            "one file holds all; services of another may be copied",
        ),
    ]],
};

pub(crate) static LISTEN: Object = Object {
    name: "listen",
    keys: &[&[
        key(
            "gateway",
            Text,
            "Where requests are taken: PORT, IP:PORT or `off`. Default 127.0.0.1:8080; port 0 is any free one.",
        ),
        key(
            "console",
            Text,
            "Where the admin API and the metrics are: PORT, IP:PORT or `off`. Default 127.0.0.1:7070.",
        ),
        key(
            "dns",
            Text,
            "Where names are answered as Consul does, by UDP and TCP: PORT, IP:PORT or `off`. Default 127.0.0.1:8600.",
        ),
        key(
            "consul",
            Text,
            "Where Consul's HTTP API is: PORT, IP:PORT or `off`. Default 127.0.0.1:8500.",
        ),
        key(
            "eureka",
            Text,
            "Where clients of Netflix Eureka register and ask: PORT, IP:PORT or `off`. Default 127.0.0.1:8761.",
        ),
    ]],
};

pub(crate) static DNS: Object = Object {
    name: "dns",
    keys: &[&[
        key(
            "domains",
            TEXTS,
            "What the names end in. Default `consul` and `atoll`; reverse names point into the first.",
        ),
        key(
            "ttl",
            Duration,
            "How long an answer may be kept, in whole seconds. Default 0s.",
        ),
        key(
            "only_passing",
            Flag,
            "Whether instances in `warning` are left out, too. Default false.",
        ),
        key(
            "recursors",
            TEXTS,
            "Name servers, as IP or IP:PORT, that are asked about all other names, one after the other. Default none: they are refused.",
        ),
        key("node", Text, "Name of this machine. Default its host name."),
        key(
            "address",
            Text,
            "IP address of this machine. Default the listener's; for a listener on all, that of the default route.",
        ),
    ]],
};

pub(crate) static STORE: Object = Object {
    name: "store",
    keys: &[&[
        key(
            "etcd",
            TEXTS,
            "Members of an etcd cluster, as http://HOST:PORT or https://HOST:PORT: all Atolls that name it are one.",
        ),
        key(
            "prefix",
            Text,
            "What stands before each key, so that others may use the same etcd. Default /atoll.",
        ),
        key(
            "tls",
            Kind::Object(&STORE_TLS),
            "Certificates for `https` addresses.",
        ),
        key("username", Text, "A user of etcd's, when it asks for one."),
        key("password", Text, "Its password; never shown."),
    ]],
};

pub(crate) static STORE_TLS: Object = Object {
    name: "store_tls",
    keys: &[&[
        key(
            "ca",
            Text,
            "A PEM file of authorities that are believed. Default those of the system.",
        ),
        key(
            "cert",
            Text,
            "A PEM file with our certificate, when etcd asks for one.",
        ),
        key("key", Text, "A PEM file with its key."),
    ]],
};

pub(crate) static CONSUL: Object = Object {
    name: "consul",
    keys: &[&[key(
        "acl",
        Either(&[Flag, Kind::Object(&CONSUL_ACL)]),
        "Whether tokens with policies say who may do what. Default false.",
    )]],
};

pub(crate) static CONSUL_ACL: Object = Object {
    name: "consul_acl",
    keys: &[&[
        key("enabled", Flag, "Default true, as this form is written."),
        key(
            "default_policy",
            Word(&["allow", "deny"]),
            "Whether what no policy speaks of is allowed. Default deny.",
        ),
    ]],
};

pub(crate) static SERVICE: Object = Object {
    name: "service",
    keys: &[
        &[
            key(
                "command",
                TEXTS,
                "What each replica runs: a text for the shell, or a list as it is. Gets $PORT.",
            ),
            key(
                "build",
                Either(&[Text, Map(&Anything)]),
                "A shell command, run to its end before the first replica starts.",
            ),
            key(
                "working_dir",
                Text,
                "Where both run; from the folder of this file, the default.",
            ),
            key(
                "environment",
                TEXT_PAIRS,
                "Variables for the command; nothing else of Atoll's own environment is given.",
            ),
            key(
                "env_file",
                Either(&[Text, List(&Either(&[Text, Kind::Object(&ENV_FILE)]))]),
                "Files of variables; `environment` wins.",
            ),
            key("replicas", Count(0, 1000), "How many copies. Default 1."),
            key(
                "deploy",
                Kind::Object(&DEPLOY),
                "Compose's long form of `replicas`.",
            ),
            key(
                "port",
                Count(1, 65535),
                "A fixed port for a single replica; by default any free one, told in $PORT.",
            ),
            key("ports", List(&Anything), "Compose's form of `port`."),
            key(
                "health",
                HEALTH,
                "A path that answers 2xx, or `tcp` (the default).",
            ),
            key("healthcheck", HEALTH, "Compose's word for `health`."),
            key(
                "depends_on",
                Either(&[
                    List(&Text),
                    Map(&Either(&[Kind::Object(&DEPENDENCY), Empty])),
                ]),
                "Services that must have come to a condition before this one starts.",
            ),
            key(
                "restart",
                Text,
                "`always` (the default), `unless-stopped`, `on-failure`, `on-failure:3` or `no`.",
            ),
            key(
                "stop_grace_period",
                Duration,
                "From SIGTERM to SIGKILL. Default 10s.",
            ),
            key(
                "drain",
                Duration,
                "Longest wait for requests in flight before a replica is told to stop. Default 30s.",
            ),
            key("logs", Kind::Object(&LOGS), "What is kept of the output."),
            key(
                "endpoints",
                List(&Either(&[Text, Kind::Object(&ENDPOINT)])),
                "Where a service that Atoll does not run listens. Empty: its instances register themselves.",
            ),
            key(
                "weight",
                Count(0, 65535),
                "Share of each of the `endpoints` that has none of its own. Default 1.",
            ),
            key("tags", List(&Text), "Words to select the `endpoints` by."),
            key("metadata", TEXT_PAIRS, "Free pairs on the `endpoints`."),
        ],
        COMPOSE_IDLE,
        COMPOSE_REFUSED,
    ],
};

const NEEDS_CONTAINERS: &str = "needs the container driver, which does not exist yet";

static COMPOSE_IDLE: &[Key] = &[
    idle("annotations", NEEDS_CONTAINERS),
    idle("attach", "use `atoll logs SERVICE`"),
    idle("container_name", NEEDS_CONTAINERS),
    idle("cpu_count", NEEDS_CONTAINERS),
    idle("cpu_percent", NEEDS_CONTAINERS),
    idle("cpu_shares", NEEDS_CONTAINERS),
    idle("cpus", "processes are not limited yet"),
    idle("cpuset", "processes are not limited yet"),
    idle("dns", NEEDS_CONTAINERS),
    idle("dns_search", NEEDS_CONTAINERS),
    idle("domainname", NEEDS_CONTAINERS),
    idle("expose", "the port is told in $PORT"),
    idle("extra_hosts", NEEDS_CONTAINERS),
    idle("hostname", NEEDS_CONTAINERS),
    idle("init", NEEDS_CONTAINERS),
    idle("labels", "use `metadata` with `endpoints`"),
    idle("links", "services find each other through the gateway"),
    idle("logging", "use `logs: { max_size: 8MiB }`"),
    idle("mem_limit", "processes are not limited yet"),
    idle("mem_reservation", "processes are not limited yet"),
    idle("memswap_limit", "processes are not limited yet"),
    idle("networks", "processes share the network of this machine"),
    idle("oom_score_adj", "processes are not limited yet"),
    idle("pids_limit", "processes are not limited yet"),
    idle("platform", NEEDS_CONTAINERS),
    idle("pull_policy", NEEDS_CONTAINERS),
    idle("shm_size", NEEDS_CONTAINERS),
    idle("stdin_open", NEEDS_CONTAINERS),
    idle("tmpfs", NEEDS_CONTAINERS),
    idle("tty", NEEDS_CONTAINERS),
    idle("ulimits", "processes are not limited yet"),
    idle("volumes", "processes see the disk of this machine as it is"),
];

/// Those whose silence would be dangerous or change what runs.
static COMPOSE_REFUSED: &[Key] = &[
    refused(
        "image",
        "needs the container driver, which does not exist yet; give a `command`",
    ),
    refused("cap_add", NEEDS_CONTAINERS),
    refused("cap_drop", NEEDS_CONTAINERS),
    refused("configs", NEEDS_CONTAINERS),
    refused("devices", NEEDS_CONTAINERS),
    refused("develop", NEEDS_CONTAINERS),
    refused("entrypoint", "give the whole command under `command`"),
    refused("extends", "use a YAML anchor and `<<: *name`"),
    refused("group_add", "a process has the groups of Atoll"),
    refused("ipc", NEEDS_CONTAINERS),
    refused("network_mode", NEEDS_CONTAINERS),
    refused("pid", NEEDS_CONTAINERS),
    refused("post_start", "put it into `command`"),
    refused("pre_stop", "let the command do it on SIGTERM"),
    refused("privileged", NEEDS_CONTAINERS),
    refused(
        "profiles",
        "every service of the file is started; use a second file",
    ),
    refused("provider", NEEDS_CONTAINERS),
    refused("read_only", NEEDS_CONTAINERS),
    refused("runtime", NEEDS_CONTAINERS),
    refused("scale", "use `replicas`"),
    refused("secrets", "give secrets under `environment`"),
    refused("security_opt", NEEDS_CONTAINERS),
    refused("stop_signal", "a replica is told to stop with SIGTERM"),
    refused("sysctls", NEEDS_CONTAINERS),
    refused("user", "a process runs as the user of Atoll"),
    refused("userns_mode", NEEDS_CONTAINERS),
    refused("volumes_from", NEEDS_CONTAINERS),
];

pub(crate) static ENV_FILE: Object = Object {
    name: "env_file",
    keys: &[&[
        key("path", Text, "The file, from the folder of this one."),
        key(
            "required",
            Flag,
            "Whether it is an error that it is missing. Default true.",
        ),
        key(
            "format",
            Word(&["raw"]),
            "`raw` takes values as they stand, without quotes and variables.",
        ),
    ]],
};

pub(crate) static DEPLOY: Object = Object {
    name: "deploy",
    keys: &[&[
        key("replicas", Count(0, 1000), "How many copies. Default 1."),
        idle("resources", "processes are not limited yet"),
        idle("labels", NEEDS_CONTAINERS),
        idle("mode", "use `replicas`"),
        idle("placement", "there is one machine"),
        idle("endpoint_mode", NEEDS_CONTAINERS),
        idle(
            "update_config",
            "replicas are replaced one by one, the new one first",
        ),
        idle("rollback_config", NEEDS_CONTAINERS),
        refused("restart_policy", "use `restart`"),
    ]],
};

pub(crate) static HEALTHCHECK: Object = Object {
    name: "healthcheck",
    keys: &[&[
        key(
            "path",
            Text,
            "Asked with GET; any 2xx passes, 429 warns, the rest fails.",
        ),
        key("http", Text, "The same as `path`."),
        key(
            "tcp",
            Flag,
            "`true`: a connection that is accepted passes. The default.",
        ),
        key(
            "disable",
            Flag,
            "Only with `endpoints`: they are not checked.",
        ),
        key("interval", Duration, "Between two questions. Default 5s."),
        key(
            "timeout",
            Duration,
            "An answer that takes longer is a failure. Default 2s.",
        ),
        key(
            "start_period",
            Duration,
            "Failures this long after the start do not count. Default 60s.",
        ),
        key(
            "start_interval",
            Duration,
            "Between two questions while it starts. Default 200ms.",
        ),
        key(
            "retries",
            Count(1, 1000),
            "Failures in a row before it takes no more requests. Default 3.",
        ),
        key(
            "failures_before_warning",
            Count(1, 1000),
            "Failures in a row before it is shown with a warning. Default 1.",
        ),
        key(
            "success_before_passing",
            Count(1, 1000),
            "Successes in a row before it takes requests. Default 1.",
        ),
        refused(
            "test",
            "no program is run to check; give `path: /healthz` or `tcp: true`",
        ),
    ]],
};

pub(crate) static DEPENDENCY: Object = Object {
    name: "depends_on",
    keys: &[&[
        key(
            "condition",
            Word(&[
                "service_started",
                "service_healthy",
                "service_completed_successfully",
            ]),
            "What it must have come to. Default service_started.",
        ),
        key(
            "required",
            Flag,
            "Whether it is an error that there is no such service. Default true.",
        ),
        idle(
            "restart",
            "a replica finds the others again through the gateway",
        ),
    ]],
};

pub(crate) static LOGS: Object = Object {
    name: "logs",
    keys: &[&[key(
        "max_size",
        Size,
        "Output kept for each replica, oldest lost first. Default 8MiB.",
    )]],
};

pub(crate) static ENDPOINT: Object = Object {
    name: "endpoint",
    keys: &[&[
        key("address", Text, "HOST:PORT."),
        key("weight", Count(0, 65535), "Share relative to the others."),
    ]],
};

static POLICIES: &[Key] = &[
    key(
        "balance",
        Either(&[
            Word(&["least_request", "round_robin"]),
            Kind::Object(&BALANCE),
        ]),
        "How an instance is chosen. Default least_request.",
    ),
    key(
        "rewrite",
        Either(&[Text, Kind::Object(&REWRITE)]),
        "What the service sees as path, with parameters of the match: `/v2/{path}`; by default what the client sent.",
    ),
    key("headers", Kind::Object(&HEADERS), "Changes to headers."),
    key("timeout", Duration, "The same as `timeouts.request`."),
    key(
        "timeouts",
        Kind::Object(&TIMEOUTS),
        "How long anything may take; 0 is no limit.",
    ),
    key(
        "retry",
        Either(&[Count(1, 100), Word(&["off"]), Kind::Object(&RETRY)]),
        "When a failed attempt is repeated: attempts in all, or in detail.",
    ),
    key(
        "body_limit",
        LIMITLESS,
        "Larger request bodies are answered 413. Default none.",
    ),
];

pub(crate) static ROUTE: Object = Object {
    name: "route",
    keys: &[
        &[
            key("to", BACKENDS, "The service, or several by weight."),
            key("backends", BACKENDS, "The same as `to`."),
            key(
                "hostnames",
                TEXTS,
                "Any of these hosts instead of the key's; `*.example.com` takes any below it.",
            ),
            key(
                "matches",
                List(&Kind::Object(&MATCH)),
                "Any of these instead of what the key says.",
            ),
            key(
                "name",
                Text,
                "Label in logs and metrics; by default the key.",
            ),
            key(
                "routes",
                Map(&Either(&[Text, Kind::Object(&ROUTE)])),
                "Makes it a group: routes below this prefix, which take over what is set here.",
            ),
        ],
        POLICIES,
    ],
};

/// What may stand beside `routes` in a group.
pub(crate) const GROUP_KEYS: [&str; 2] = ["routes", "hostnames"];

/// Whether `name` is a policy, which groups and the gateway may set too.
pub(crate) fn is_policy(name: &str) -> bool {
    POLICIES.iter().any(|key| key.name == name)
}

const BACKENDS: Kind = Either(&[
    Text,
    List(&Either(&[Text, Kind::Object(&BACKEND)])),
    Map(&Count(0, 1_000_000)),
]);

pub(crate) static BACKEND: Object = Object {
    name: "backend",
    keys: &[&[
        key("service", Text, "The service."),
        key(
            "weight",
            Count(0, 1_000_000),
            "Share relative to the others. Default 1.",
        ),
    ]],
};

pub(crate) static MATCH: Object = Object {
    name: "match",
    keys: &[&[
        key(
            "path",
            Text,
            "A path such as `/users/{id}`; by default the key's.",
        ),
        key(
            "method",
            Text,
            "A method, or `*` for every one; by default the key's.",
        ),
        key(
            "headers",
            Map(&VALUE),
            "Headers that must have these values.",
        ),
        key(
            "query",
            Map(&VALUE),
            "Query parameters that must have these values.",
        ),
    ]],
};

const VALUE: Kind = Either(&[Text, Kind::Object(&VALUE_MATCH)]);

pub(crate) static VALUE_MATCH: Object = Object {
    name: "value",
    keys: &[&[
        key("exact", Text, "Exactly this."),
        key("present", Flag, "`true`: anything, as long as it is there."),
    ]],
};

pub(crate) static BALANCE: Object = Object {
    name: "balance",
    keys: &[&[key(
        "hash",
        Text,
        "The same instance for the same `header:NAME`, `cookie:NAME` or `client.ip`.",
    )]],
};

pub(crate) static REWRITE: Object = Object {
    name: "rewrite",
    keys: &[&[
        key(
            "strip_prefix",
            Flag,
            "Without the segments before the first parameter.",
        ),
        key(
            "path",
            Text,
            "A path with parameters of the match: `/v2/{path}`.",
        ),
    ]],
};

pub(crate) static HEADERS: Object = Object {
    name: "headers",
    keys: &[&[
        key(
            "request",
            Kind::Object(&HEADER_EDIT),
            "Of the request, before the service gets it.",
        ),
        key(
            "response",
            Kind::Object(&HEADER_EDIT),
            "Of the response, before the client gets it.",
        ),
    ]],
};

pub(crate) static HEADER_EDIT: Object = Object {
    name: "header_edit",
    keys: &[&[
        key("set", Map(&Text), "Replaced or made."),
        key("add", Map(&TEXTS), "Added beside what is there."),
        key("remove", TEXTS, "Taken away; done first."),
    ]],
};

pub(crate) static TIMEOUTS: Object = Object {
    name: "timeouts",
    keys: &[&[
        key(
            "connect",
            Duration,
            "To open a connection to an instance. Default 1s.",
        ),
        key(
            "response_head",
            Duration,
            "Last byte of the request to the first of the response. Default 30s.",
        ),
        key(
            "idle",
            Duration,
            "Between two pieces of the response's body. Default 30s.",
        ),
        key(
            "request",
            Duration,
            "The whole request, retries included. Default none.",
        ),
    ]],
};

pub(crate) static RETRY: Object = Object {
    name: "retry",
    keys: &[&[
        key(
            "attempts",
            Count(1, 100),
            "Attempts in all; 1 is no retry. Default 3.",
        ),
        key(
            "budget",
            Percent,
            "Retries for each hundred requests of the last seconds. Default 20%.",
        ),
        key(
            "min_per_second",
            Count(0, 1_000_000),
            "Retries each second that are allowed whatever the budget. Default 10.",
        ),
    ]],
};

pub(crate) static REGISTRY: Object = Object {
    name: "registry",
    keys: &[&[
        key(
            "self_preservation",
            Either(&[Flag, Kind::Object(&SELF_PRESERVATION)]),
            "Whether leases of Eureka's clients are kept when many lapse at once. Default true.",
        ),
        key(
            "script_checks",
            Flag,
            "Whether whoever may register an instance may have it checked by a program that runs on this machine, as this user. Default false.",
        ),
    ]],
};

pub(crate) static SELF_PRESERVATION: Object = Object {
    name: "self_preservation",
    keys: &[&[
        key(
            "lapsed_max",
            Percent,
            "Share of the leases that may expire within the window; with more, all are kept. Default 15%.",
        ),
        key(
            "leases_min",
            Count(0, 1_000_000),
            "With fewer leases it never holds. Default 20.",
        ),
        key("window", Kind::Duration, "Default 60s."),
    ]],
};

pub(crate) static GATEWAY: Object = Object {
    name: "gateway",
    keys: &[
        &[
            key(
                "trusted_proxies",
                TEXTS,
                "Whose `Forwarded` and `X-Forwarded-*` are believed: addresses or blocks. Default nobody's.",
            ),
            key(
                "access_log",
                Either(&[Word(&["off", "text", "json"]), Kind::Object(&ACCESS_LOG)]),
                "What is written for each request. Default off.",
            ),
            key(
                "limits",
                Kind::Object(&LIMITS),
                "Limits of client connections.",
            ),
            key(
                "drain",
                Duration,
                "How long requests in flight are waited for at the end. Default 30s.",
            ),
        ],
        POLICIES,
    ],
};

pub(crate) static ACCESS_LOG: Object = Object {
    name: "access_log",
    keys: &[&[
        key(
            "format",
            Word(&["off", "text", "json"]),
            "How a line looks. Default text.",
        ),
        key("path", Text, "The file; by default `.atoll/access.log`."),
    ]],
};

pub(crate) static LIMITS: Object = Object {
    name: "limits",
    keys: &[&[
        key(
            "head_size",
            Size,
            "Request line and headers together; more is answered 431. Default 64KiB.",
        ),
        key(
            "header_count",
            Count(1, 10_000),
            "Header lines; more is answered 431. Default 100.",
        ),
        key(
            "connections",
            Count(1, 10_000_000),
            "Open client connections. Default 20000.",
        ),
        key(
            "connections_per_client",
            Count(0, 10_000_000),
            "Of one client address; 0 is no limit, the default on loopback and behind `trusted_proxies`. Otherwise a tenth of `connections`.",
        ),
        key(
            "head_timeout",
            Duration,
            "First to last byte of a head; then 408. Default 10s.",
        ),
        key(
            "idle_timeout",
            Duration,
            "A connection without a request. Default 75s.",
        ),
        key(
            "body_progress_timeout",
            Duration,
            "A client that neither sends nor reads. Default 30s.",
        ),
        key(
            "h2_streams",
            Count(1, 100_000),
            "Streams at once in one HTTP/2 connection. Default 100.",
        ),
    ]],
};
