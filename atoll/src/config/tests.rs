//! The configuration through its doors: a text goes in, finished types or rendered
//! errors come out. What is refused, and how it is said, is in `tests/config/*.txt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_fleet::workload::{CommandLine, Condition, RestartPolicy};
use atoll_gateway::config::{Balance, HashKey, Limits, LogFormat, Retry, Rewrite, Timeouts};
use atoll_model::Probe;
use atoll_registry::SelfPreservation;

use super::diagnostic::Problems;
use super::expanded::Secrets;
use super::source::Source;
use super::variables::Variables;
use super::*;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    pairs.iter().map(owned).collect()
}

/// As `/fleet/atoll.yaml`, without a disk.
fn understand(yaml: &str, environment: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let source = Source::from_bytes("atoll.yaml", yaml.as_bytes().to_vec())?;
    let variables = Variables {
        process: variables(environment),
        file: BTreeMap::new(),
    };
    let place = Place {
        folder: Path::new("/fleet"),
        file_name: "atoll.yaml",
        reads_files: false,
    };
    read(&source, &place, &variables, Problems::default())
}

fn good(yaml: &str) -> Loaded {
    understand(yaml, &[]).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"))
}

fn refused(yaml: &str) -> String {
    match understand(yaml, &[]) {
        Ok(_) => panic!("accepted: {yaml}"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_example_fleet_is_read() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop/atoll.yaml");
    let shop = load(&file, &BTreeMap::new()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(shop.name, "shop");
    assert_eq!(shop.workloads.len(), 2);
    let users = &shop.workloads[0];
    assert_eq!(users.replicas, 2);
    assert_eq!(users.command.to_string(), "exec target/example/shop-users");
    assert_eq!(
        users.environment["DATABASE_PATH"],
        "examples/shop/data/users.db"
    );
    let root = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    assert_eq!(users.working_dir, root);
    assert_eq!(shop.gateway.routes[0].origin, "atoll.yaml:24");
    assert_eq!(shop.warnings, []);
}

#[test]
fn every_error_is_shown_at_once_with_its_place() {
    let text = refused(
        "services:\n  users:\n    command: run\n    replica: 2\n    health: healthz\nroutes:\n  /users/{path*}: usres\n",
    );
    for expected in [
        "atoll.yaml:4:5",
        "unknown key `replica`",
        "did you mean `replicas`?",
        "atoll.yaml:5:13",
        "atoll.yaml:7:19",
        "did you mean `users`?",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn an_empty_file_is_a_fleet_without_services() {
    for yaml in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "services:\nroutes:\n",
        "{}",
    ] {
        let empty = good(yaml);
        assert_eq!(empty.name, "fleet");
        assert_eq!(empty.listen.gateway.unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(empty.listen.console.unwrap().to_string(), "127.0.0.1:7070");
        assert_eq!(empty.listen.eureka.unwrap().to_string(), "127.0.0.1:8761");
        assert_eq!(empty.gateway_drain, Duration::from_secs(30));
        assert!(empty.workloads.is_empty() && empty.gateway.routes.is_empty());
    }
}

/// Between a file and what is said of it.
const EXPECTED: &str = "--- expected ---\n";

/// Cases of errors: a file, and what is said of it.
fn golden() -> Vec<(PathBuf, String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (yaml, expected) = text.split_once(EXPECTED).unwrap();
        (path, yaml.to_owned(), expected.to_owned())
    };
    paths.into_iter().map(read).collect()
}

/// Errors, then warnings if there are no errors.
fn said(yaml: &str) -> String {
    match understand(yaml, &[]) {
        Err(errors) => format!("{errors}\n"),
        Ok(loaded) => loaded
            .warnings
            .iter()
            .map(|warning| format!("{warning}\n"))
            .collect(),
    }
}

#[test]
fn what_is_wrong_is_said_as_expected() {
    let cases = golden();
    assert!(cases.len() > 20);
    for (path, yaml, expected) in cases {
        assert_eq!(said(&yaml), expected, "{}", path.display());
    }
}

#[test]
#[ignore = "writes the expected texts anew, to be read before they are kept"]
fn rewrite_what_is_expected() {
    for (path, yaml, _) in golden() {
        fs::write(path, format!("{yaml}{EXPECTED}{}", said(&yaml))).unwrap();
    }
}

fn everything() -> Loaded {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/corpus/config/everything"
    );
    let yaml = fs::read_to_string(file).unwrap();
    let environment = [
        ("NUMBER", "2"),
        ("SET", "a: [1, $SET]"),
        ("PASSED", "on"),
        ("C", "c"),
    ];
    understand(&yaml, &environment).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The long form of a file that is right.
pub(super) fn expanded(yaml: &str) -> String {
    let environment = [("NUMBER", "2"), ("SET", "a: [1, $SET]")];
    let loaded = understand(yaml, &environment);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
    to_yaml(&loaded.expanded())
}

#[test]
fn services_mean_what_they_mean_in_compose() {
    let fleet = everything();
    let api = &fleet.workloads[0];
    assert_eq!(
        api.command,
        CommandLine::Shell("./api --port $PORT --name a b --pid $ --set a: [1, $SET]".to_owned())
    );
    assert_eq!(api.build, Some(CommandLine::Shell("make api".to_owned())));
    assert_eq!(api.working_dir, Path::new("/api"));
    assert_eq!(api.replicas, 2);
    assert_eq!(
        api.environment,
        variables(&[("LEVEL", "debug"), ("PASSED", "on")])
    );
    let on_failure = RestartPolicy::OnFailure {
        restarts_max: Some(3),
    };
    assert_eq!(api.restart, on_failure);
    assert_eq!(api.stop_grace, Duration::from_secs(90));
    assert_eq!(api.drain, Duration::from_secs(10));
    assert_eq!(api.log_bytes_max, 1 << 20);
    let conditions: Vec<_> = api
        .depends_on
        .iter()
        .map(|(name, on)| (name.as_str(), *on))
        .collect();
    assert_eq!(
        conditions,
        [
            ("db", Condition::Healthy),
            ("setup", Condition::CompletedSuccessfully)
        ]
    );
    assert_eq!(
        api.check,
        Check {
            probe: Probe::Http {
                path: "/healthz?deep=1".to_owned()
            },
            interval: Duration::from_secs(1),
            start_interval: Duration::from_millis(100),
            start_period: Duration::from_secs(10),
            timeout: Duration::from_millis(500),
            success_before_passing: 2,
            failures_before_warning: 1,
            failures_before_critical: 2,
            ..Check::new(Probe::Tcp)
        }
    );
    let db = &fleet.workloads[1];
    let words = ["db", "--port=$PORT", "it's \"quoted\"", "tab\there"];
    assert_eq!(
        db.command,
        CommandLine::Exec(words.map(str::to_owned).to_vec())
    );
    assert_eq!(db.port, Some(5432));
    assert_eq!(db.check, Check::new(Probe::Tcp));
    assert_eq!(
        db.environment,
        variables(&[("A", "1"), ("B", "two words"), ("C", "c")])
    );
    let setup = &fleet.workloads[2];
    assert_eq!(
        setup.restart,
        RestartPolicy::No,
        "its own key wins over the merged"
    );
    assert_eq!(setup.stop_grace, Duration::from_secs(90));
}

#[test]
fn the_gateway_is_set_as_the_file_says() {
    let config = everything().gateway;
    let blocks: Vec<_> = config
        .trusted_proxies
        .iter()
        .map(|c| format!("{}/{}", c.address, c.prefix))
        .collect();
    assert_eq!(blocks, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(config.access_log.format, LogFormat::Json);
    assert_eq!(
        config.access_log.path.as_deref(),
        Some(Path::new("/fleet/logs/access.log"))
    );
    let limits = Limits {
        head_bytes_max: 32 << 10,
        header_count_max: 50,
        connections_max: 1000,
        connections_per_client_max: 10,
        head_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        body_progress_timeout: Duration::from_secs(20),
        h2_streams_max: 50,
    };
    assert_eq!(config.limits, limits);
    assert_eq!(everything().gateway_drain, Duration::from_secs(5));
    let usual = good("services: { a: { command: run } }\nroutes: { /a: a }").gateway;
    assert_eq!(usual.limits, Limits::default());
    assert_eq!(usual.access_log.format, LogFormat::Off);
    let route = &usual.routes[0];
    assert_eq!(route.timeouts, Timeouts::default());
    assert_eq!(route.retry, Retry::default());
    assert_eq!(
        (&route.rewrite, &route.balance),
        (&Rewrite::Keep, &Balance::LeastRequest)
    );
    assert_eq!(route.body_bytes_max, None);
}

#[test]
fn services_elsewhere_have_endpoints() {
    let fleet = everything();
    let legacy = &fleet.external[0];
    let shown: Vec<_> = legacy
        .endpoints
        .iter()
        .map(|at| format!("{} {}", at.address, at.weight))
        .collect();
    assert_eq!(shown, ["10.0.0.5:8080 2", "[fd00::1]:80 3"]);
    assert_eq!(legacy.check, None);
    assert_eq!(legacy.tags, ["old", "blue"]);
    assert_eq!(legacy.metadata, variables(&[("version", "1.10")]));
    let itself = &fleet.external[1];
    assert!(itself.endpoints.is_empty() && itself.check.is_some());
}

/// Name, hosts, matches and backends of each route.
fn shown_routes(loaded: &Loaded) -> Vec<String> {
    let expanded = loaded.expanded();
    let routes = expanded["routes"].as_object().unwrap();
    let shown = routes.iter().map(|(name, route)| {
        let matches = route["matches"].as_array().unwrap().iter();
        let matches: Vec<_> = matches
            .map(|m| {
                format!(
                    "{} {}",
                    m["method"].as_str().unwrap(),
                    m["path"].as_str().unwrap()
                )
            })
            .collect();
        let backends = route["backends"].as_array().unwrap().iter();
        let backends: Vec<_> = backends
            .map(|b| format!("{}={}", b["service"].as_str().unwrap(), b["weight"]))
            .collect();
        let hosts = route["hostnames"].as_array().unwrap().iter();
        let hosts: Vec<_> = hosts.map(|host| host.as_str().unwrap()).collect();
        format!(
            "{name} | {} | {} | {}",
            hosts.join(","),
            matches.join(","),
            backends.join(",")
        )
    });
    shown.collect()
}

#[test]
fn routes_are_taken_from_keys_objects_and_groups() {
    assert_eq!(
        shown_routes(&everything()),
        [
            "/api/{path*} |  | * /api/{path*} | api=1",
            "GET /health |  | GET /health | db=1",
            "*.example.com/{rest*} | *.example.com | * /{rest*} | api=9,legacy=1",
            "api.example.com/v1/users/{id} | api.example.com,www.example.com | * /v1/users/{id} | api=1,legacy=0",
            "make a user | api.example.com,www.example.com | POST /v1/users | api=1",
            "named | *.internal | GET /a,* /b/{c}/ | legacy=1",
        ]
    );
}

#[test]
fn a_rewrite_may_be_the_path_alone() {
    let rewritten = |rewrite: &str| {
        let yaml = format!(
            "services: {{ a: {{ command: run }} }}\nroutes: {{ \"/a/{{id}}\": {{ to: a, rewrite: {rewrite} }} }}\n"
        );
        good(&yaml).gateway.routes[0].rewrite.clone()
    };
    let template = Rewrite::Template("/b/{id}".to_owned());
    assert_eq!(rewritten("\"/b/{id}\""), template);
    assert_eq!(rewritten("{ path: \"/b/{id}\" }"), template);
}

#[test]
fn policies_merge_downward_value_by_value() {
    let fleet = everything();
    let route = |name: &str| {
        fleet
            .gateway
            .routes
            .iter()
            .find(|route| route.name == name)
            .unwrap()
    };
    let plain = route("/api/{path*}");
    assert_eq!(plain.timeouts.connect, Duration::from_millis(500));
    assert_eq!(plain.timeouts.idle, Duration::from_secs(10));
    assert_eq!(
        plain.timeouts.response_head,
        Duration::from_secs(30),
        "the default"
    );
    assert_eq!(plain.retry.attempts, 2);
    assert_eq!(plain.retry.budget_percent, 10);
    assert_eq!(plain.request_headers.remove, ["x-internal"]);
    let user = route("api.example.com/v1/users/{id}");
    assert_eq!(
        user.timeouts.request,
        Duration::from_secs(2),
        "of the group"
    );
    assert_eq!(
        user.timeouts.connect,
        Duration::from_millis(500),
        "of the gateway"
    );
    assert_eq!(user.retry.attempts, 1, "its own");
    assert_eq!(user.retry.budget_min_per_second, 5, "of the gateway");
    assert_eq!(user.request_headers.set.len(), 1);
    assert_eq!(user.response_headers.add.len(), 2);
    assert_eq!(user.rewrite, Rewrite::Template("/u/{id}".to_owned()));
    let hash = HashKey::Header("x-user".parse().unwrap());
    assert_eq!(user.balance, Balance::Hash(hash));
    assert_eq!(route("make a user").body_bytes_max, Some(8 << 20));
    assert_eq!(route("named").rewrite, Rewrite::StripPrefix);
    assert_eq!(route("named").timeouts.request, Duration::ZERO);
}

#[test]
fn a_header_is_edited_as_the_nearest_says() {
    let loaded = good(
        "services: { a: { command: run } }\nroutes:\n  /g:\n    headers: { request: { set: { X-A: outer, X-B: outer }, remove: [X-C, X-D] } }\n    routes:\n      /r:\n        to: a\n        headers: { request: { set: { x-a: inner }, add: { X-C: [1, 2] } } }\n",
    );
    let edit = &loaded.gateway.routes[0].request_headers;
    let shown = |pairs: &[(http::HeaderName, http::HeaderValue)]| {
        let pairs = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(shown(&edit.set), ["x-b=outer", "x-a=inner"]);
    assert_eq!(shown(&edit.add), ["x-c=1", "x-c=2"]);
    assert_eq!(edit.remove, ["x-d"]);
}

#[test]
fn the_expanded_form_is_read_back_to_the_same() {
    let fleet = everything();
    let once = fleet.expand(Secrets::Shown);
    let yaml = to_yaml(&once);
    let again = good(&yaml);
    assert_eq!(again.expand(Secrets::Shown), once);
    assert_eq!(again.workloads, fleet.workloads);
    assert_eq!(again.external, fleet.external);
    assert_eq!(to_yaml(&again.expand(Secrets::Shown)), yaml);
    assert_eq!(again.warnings, []);
}

#[test]
fn secrets_are_never_shown() {
    let loaded = good(
        "admin_token: hush-1\nservices:\n  a:\n    command: run\n    environment: { API_KEY: hush-2, db_password: hush-3, DATABASE_URL: \"postgres://me:hush-4@db/x\", PLAIN: shown }\n  b: { endpoints: [], metadata: { token: hush-5 } }\nroutes:\n  /a: { to: a, headers: { request: { set: { Authorization: Bearer hush-6 } } } }\n",
    );
    assert_eq!(loaded.admin_token.as_ref().unwrap().expose(), "hush-1");
    let shown = to_yaml(&loaded.expanded());
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("PLAIN: shown"), "{shown}");
    assert_eq!(shown.matches("***").count(), 6, "{shown}");
    assert_eq!(format!("{:?}", loaded.admin_token), "Some(***)");
}

#[test]
fn listeners_move_switch_off_and_need_a_token_beyond_loopback() {
    let loaded = good("listen: { gateway: 0, console: off }");
    assert_eq!(loaded.listen.gateway.unwrap().to_string(), "127.0.0.1:0");
    assert_eq!(loaded.listen.console, None);
    assert_eq!(loaded.gateway.limits.connections_per_client_max, 0);
    let open = good("listen: { gateway: 0.0.0.0:80 }\nadmin_token: abc");
    assert_eq!(
        open.gateway.limits.connections_per_client_max, 2_000,
        "a tenth"
    );
    let behind = good(
        "listen: { gateway: 0.0.0.0:80, console: off, eureka: off }\ngateway: { trusted_proxies: 10.0.0.1 }",
    );
    assert_eq!(behind.gateway.limits.connections_per_client_max, 0);
    assert!(refused("listen: { console: 0.0.0.0:80 }").contains("admin_token"));
    assert!(refused("listen: { eureka: 0.0.0.0:80, console: off }").contains("admin_token"));
    let clash = refused("listen: { eureka: 7070 }");
    assert!(
        clash.contains("`console` and `eureka` cannot both have port 7070"),
        "{clash}"
    );
    assert!(
        refused("listen: { console: \"[::]:80\" }\nadmin_token: $UNSET")
            .contains("`UNSET` is not set")
    );
}

#[test]
fn names_are_answered_where_and_how_the_file_says() {
    let usual = good("");
    assert_eq!(usual.listen.dns.unwrap().to_string(), "127.0.0.1:8600");
    let shown = |loaded: &Loaded| -> Vec<String> {
        let domains = loaded.dns.domains.iter();
        domains.map(ToString::to_string).collect()
    };
    assert_eq!(shown(&usual), ["consul", "atoll"]);
    let set = good(
        "listen: { dns: 0.0.0.0:53 }\ndns: { domains: [Example.COM., x], ttl: 5s, only_passing: true, recursors: [9.9.9.9, \"[::1]:5353\"], node: Host-1.lan, address: 10.0.0.1 }",
    );
    assert_eq!(shown(&set), ["example.com", "x"]);
    assert!(set.dns.only_passing);
    assert_eq!(set.dns.ttl.as_secs(), 5);
    assert_eq!(set.dns.recursors[0].to_string(), "9.9.9.9:53");
    assert_eq!(set.dns.recursors[1].to_string(), "[::1]:5353");
    assert_eq!(set.dns.node.as_deref(), Some("host-1.lan"));
    assert_eq!(set.restart_needed(&usual), ["listen.dns", "dns"]);
    assert!(
        set.warnings[0]
            .to_string()
            .contains("can ask the recursors")
    );
    assert_eq!(good("listen: { dns: off }").listen.dns, None);
}

#[test]
fn checks_run_programs_only_when_the_file_says_so() {
    let of = |yaml: &str| good(yaml).registry.script_checks;
    assert!(!of("") && !of("registry: { script_checks: false }"));
    let yaml = "registry: { script_checks: true }";
    assert!(of(yaml) && of(&to_yaml(&good(yaml).expanded())));
    assert!(refused("registry: { script_checks: local }").contains("`true` or `false`"));
}

#[test]
fn acls_of_consul_are_off_and_deny_when_they_are_on() {
    let acl = |yaml: &str| {
        let Acl {
            enabled,
            default_allow,
        } = good(yaml).consul.acl;
        (enabled, default_allow)
    };
    assert_eq!(acl(""), (false, false));
    assert_eq!(acl("consul: { acl: true }"), (true, false));
    assert_eq!(acl("consul: { acl: { enabled: false } }"), (false, false));
    let allow = "consul: { acl: { enabled: true, default_policy: allow } }";
    assert_eq!(acl(allow), (true, true));
    assert_eq!(acl(&to_yaml(&good(allow).expanded())), (true, true));
    assert_eq!(good(allow).restart_needed(&good("")), ["consul"]);
    let open = format!("listen: {{ consul: 0.0.0.0:8500 }}\nadmin_token: a\n{allow}");
    assert!(refused(&open).contains("without a token"));
    assert!(acl(&open.replace("allow", "deny")).0);
    // Whatever else is switched off, the API of Consul changes things.
    let bare = "listen: { consul: 0.0.0.0:8500, console: off, eureka: off }";
    assert!(refused(bare).contains("admin_token"));
}

#[test]
fn self_preservation_is_on_can_be_set_and_switched_off() {
    let of = |yaml: &str| good(yaml).registry.self_preservation;
    assert_eq!(of(""), SelfPreservation::default());
    assert!(!of("registry: { self_preservation: false }").enabled);
    let set = SelfPreservation {
        enabled: true,
        lapsed_percent_max: 30,
        leases_min: 5,
        window: Duration::from_secs(10),
    };
    let yaml = "registry: { self_preservation: { lapsed_max: 30%, leases_min: 5, window: 10s } }";
    assert_eq!(of(yaml), set);
    assert_eq!(of(&to_yaml(&good(yaml).expanded())), set, "read back");
    assert!(refused("registry: { self_preservation: off }").contains("`true` or `false`"));
    assert!(refused("registry: { self_preservation: { lapsed_max: 101% } }").contains("share"));
}

#[test]
fn the_store_is_the_data_folder_or_etcd() {
    let etcd = |yaml: &str| match good(yaml).store {
        Store::Etcd(options) => options,
        Store::Embedded => panic!("embedded"),
    };
    for yaml in ["", "store:", "store: {}", "store: embedded"] {
        assert_eq!(good(yaml).store, Store::Embedded, "{yaml}");
    }
    let short = etcd("store: { etcd: http://127.0.0.1:2379 }");
    assert_eq!(short.endpoints[0].to_string(), "http://127.0.0.1:2379");
    assert_eq!(short.prefix, "/atoll");
    assert_eq!(short.login, None);
    let yaml = "store: { etcd: [https://a:2379, https://b:2379], prefix: /mine/, tls: { ca: ca.pem, cert: /c.pem, key: k.pem }, username: me, password: \"hush$$1\" }";
    let long = etcd(yaml);
    assert_eq!((long.endpoints.len(), &long.prefix[..]), (2, "/mine"));
    assert!(long.tls.ca.as_ref().unwrap().is_absolute());
    assert_eq!(long.login.as_ref().unwrap().password, "hush$1");
    let loaded = good(yaml);
    assert!(!format!("{loaded:?}").contains("hush"));
    assert!(!to_yaml(&loaded.expanded()).contains("hush"));
    let shown = to_yaml(&loaded.expand(Secrets::Shown));
    assert_eq!(etcd(&shown), long, "read back");
    assert_eq!(loaded.restart_needed(&good("")), ["store"]);
    let sent = good("store: { etcd: http://10.0.0.1:2379, username: me, password: hush }");
    assert!(sent.warnings[0].to_string().contains("10.0.0.1"));
    let near = good("store: { etcd: http://localhost:2379, username: me, password: hush }");
    assert_eq!(near.warnings, []);
}

#[test]
fn what_needs_a_restart_is_named() {
    let before = good("name: a\nlisten: { gateway: 8080 }");
    let after = good(
        "name: b\nlisten: { gateway: 8081 }\nadmin_token: t\ngateway: { drain: 1s }\nservices: { a: { command: run } }",
    );
    assert_eq!(
        after.restart_needed(&before),
        ["name", "listen.gateway", "admin_token", "gateway.drain"]
    );
    assert!(before.restart_needed(&before.clone()).is_empty());
}

#[test]
fn values_of_variables_do_not_change_the_structure() {
    let environment = [
        ("EVIL", "x\nservices: { b: { command: rm } }"),
        ("LIST", "[a, b]"),
        ("NONE", ""),
    ];
    let yaml = "name: fleet\nservices: { a: { command: echo $EVIL, environment: { L: $LIST, N: $NONE } } }";
    let loaded = understand(yaml, &environment).unwrap();
    assert_eq!(loaded.workloads.len(), 1);
    assert_eq!(
        loaded.workloads[0].environment,
        variables(&[("L", "[a, b]"), ("N", "")])
    );
    // Types are looked at once they are in.
    let loaded = understand(
        "services: { a: { command: run, replicas: \"$N\" } }",
        &[("N", "3")],
    );
    assert_eq!(loaded.unwrap().workloads[0].replicas, 3);
}

#[test]
fn hostile_files_are_refused_quickly_and_clearly() {
    let bomb = {
        let mut yaml = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let before = format!("*a{}", level - 1);
            yaml.push_str(&format!(
                "x-{level}: &a{level} [{}]\n",
                vec![before; 10].join(", ")
            ));
        }
        yaml
    };
    let long = "y".repeat(100_000);
    let text_bomb = format!("x-a: &a {long}\nx-b: [{}]\n", vec!["*a"; 1000].join(", "));
    let merges = "x-a: &a { b: 1 }\nx-b:\n".to_owned() + &"  - { <<: *a }\n".repeat(60_000);
    let variables = format!("name: {}{}", "${A:-".repeat(100_000), "}".repeat(100_000));
    let wide = "q: 1\n".repeat(100_000);
    let errors = "services:\n".to_owned()
        + &(0..5_000)
            .map(|n| format!("  s{n}: {{ x: 1 }}\n"))
            .collect::<String>();
    let inherited = {
        let hosts: String = (0..5_000).map(|n| format!("h{n}.x,")).collect();
        let routes: String = (0..3_000).map(|n| format!("      /{n}: a\n")).collect();
        format!(
            "services: {{ a: {{ command: run }} }}\nroutes:\n  /g:\n    hostnames: [{hosts}]\n    routes:\n{routes}"
        )
    };
    let unknown: String = (0..5_000)
        .map(|n| format!("  s{n}: {{ command: run, depends_on: [t{n}] }}\n"))
        .collect();
    let chain: String = (0..5_000)
        .map(|n| {
            format!(
                "  s{n}: {{ command: run, depends_on: [s{}] }}\n",
                (n + 1) % 5_000
            )
        })
        .collect();
    for (yaml, expected) in [
        (bomb, "aliases repeat"),
        (text_bomb, "aliases repeat"),
        (merges, "more than 200000 values"),
        ("[".repeat(500_000), "nested more than"),
        ("- ".repeat(100_000), "nested more than"),
        ("{a: ".repeat(200_000), "nested more than"),
        ("? ".repeat(100_000), "a key must be text"),
        ("a: 1\n".repeat(150_000), "stands here twice"),
        (variables, "nested more than"),
        (wide, "stands here twice"),
        (errors, "more errors"),
        (inherited, "hosts and headers of the groups"),
        (format!("services:\n{unknown}"), "more errors"),
        (format!("services:\n{chain}"), "wait for each other"),
        (format!("{}: 1", "k".repeat(2000)), "not YAML"),
        (
            format!("? {}\n: 1", "k".repeat(2000)),
            "a key may have at most",
        ),
    ] {
        let said = refused(&yaml);
        let shown: String = said.chars().take(300).collect();
        assert!(said.contains(expected), "{expected}: {shown}");
        assert!(said.len() < 100_000, "{expected}: {} bytes", said.len());
    }
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

#[test]
fn the_file_is_found_by_its_folder_or_itself() {
    let world = folder(&[
        ("a/atoll.yaml", b""),
        ("b/atoll.yml", b""),
        ("c/other.yaml", b""),
        ("d/atoll.yaml", b""),
        ("d/atoll.yml", b""),
    ]);
    let at = |path: &str| find(Some(&world.path().join(path)));
    assert_eq!(at("a").unwrap(), world.path().join("a/atoll.yaml"));
    assert_eq!(at("b").unwrap(), world.path().join("b/atoll.yml"));
    assert_eq!(
        at("c/other.yaml").unwrap(),
        world.path().join("c/other.yaml")
    );
    let missing = at("c").unwrap_err().to_string();
    assert!(
        missing.contains("c/atoll.yaml") && missing.contains("c/atoll.yml"),
        "{missing}"
    );
    let nowhere = at("nowhere").unwrap_err().to_string();
    assert!(nowhere.contains("nowhere"), "{nowhere}");
    let both = at("d").unwrap_err().to_string();
    assert!(both.contains("remove one"), "{both}");
}

#[test]
fn variables_come_from_the_process_first_then_from_dotenv() {
    let yaml = b"name: $A-$B-$C\nservices:\n  a:\n    command: run\n    env_file: [one.env, { path: two.env, required: false }, raw.env]\n    environment: { OWN: $B }\n";
    let world = folder(&[
        ("atoll.yaml", yaml),
        (".env", b"A=file\nB=file\nC=\"${A}\"\n"),
        ("one.env", b"OWN=lost\nONE=${B}\nTWICE=1\n"),
        ("raw.env", b"TWICE=2\n"),
    ]);
    let loaded = load(
        &world.path().join("atoll.yaml"),
        &variables(&[("A", "process")]),
    )
    .unwrap();
    assert_eq!(loaded.name, "process-file-process");
    assert_eq!(
        loaded.workloads[0].environment,
        variables(&[("OWN", "file"), ("ONE", "file"), ("TWICE", "2")])
    );
    let root = fs::canonicalize(world.path()).unwrap();
    let watched: Vec<_> = loaded
        .watched
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap())
        .collect();
    let expected = ["atoll.yaml", ".env", "one.env", "two.env", "raw.env"];
    assert_eq!(watched, expected.map(Path::new));
}

#[test]
fn what_is_wrong_in_other_files_is_said_with_their_place() {
    let said = |files: &[(&str, &[u8])]| {
        let world = folder(files);
        let shown = world.path().display().to_string();
        let loaded = load(&world.path().join("atoll.yaml"), &BTreeMap::new());
        loaded.unwrap_err().to_string().replace(&shown, "")
    };
    let text = said(&[("atoll.yaml", b"nam: x\n"), (".env", b"A=1\nB='\n")]);
    assert!(
        text.contains("/.env:2:1") && text.contains("/atoll.yaml:1:1"),
        "{text}"
    );
    let text = said(&[(
        "atoll.yaml",
        b"services: { a: { command: run, env_file: no.env } }",
    )]);
    assert!(
        text.contains("there is no file /no.env") && text.contains("1:42"),
        "{text}"
    );
    let text = said(&[
        (
            "atoll.yaml",
            b"services: { a: { command: run, build: sub } }",
        ),
        ("sub/Dockerfile", b""),
    ]);
    assert!(text.contains("container driver"), "{text}");
    let text = said(&[("atoll.yaml", b"name: a\nservices: # caf\xe9\n")]);
    assert!(
        text.contains("/atoll.yaml:2:16") && text.contains("0xe9 is not UTF-8"),
        "{text}"
    );
    let text = said(&[("atoll.yaml", &b"# 0123456789\n".repeat(800_000))]);
    assert!(
        text.contains("has 10400000 bytes; at most 1048576"),
        "{text}"
    );
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let world = folder(&[]);
    let text = load(world.path(), &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(text.contains("is not a file"), "{text}");
    let text = load(&world.path().join("a.yaml"), &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("a.yaml") && text.contains("cannot be read"),
        "{text}"
    );
}

#[test]
fn colours_are_only_for_terminals() {
    let errors = understand("nme: a", &[]).unwrap_err();
    assert_eq!(errors.count(), 1);
    assert!(!errors.render(false).contains('\x1b'));
    let coloured = errors.render(true);
    assert!(coloured.contains("\x1b[1;31merror\x1b[0m"), "{coloured}");
    let first = errors.iter().next().unwrap();
    assert_eq!(
        (first.line, first.column, first.severity),
        (1, 1, Severity::Error)
    );
}
