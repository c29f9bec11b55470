//! What a definition of a check comes to (reference: Consul's API documentation, "Agent
//! Checks" and "Register Check"); pure.

use std::time::Duration;

use atoll_model::{Address, Alias, Check, Health, HttpRequest, InstanceId, Probe, Tls};
use atoll_net::url::Url;
use serde_json::{Map, Value, json};

use crate::stored::CheckDefinition;
use crate::translate::{Node, status};
use crate::wire::{Fields, Refusal, go_duration};

/// Consul asks no more often than each second.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Consul's time-out when none is given, and that of a program.
const TIMEOUT: Duration = Duration::from_secs(10);
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Consul's `check_deregister_interval_min`.
const DEREGISTER_MIN: Duration = Duration::from_secs(60);

/// Whose check it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// An instance's, of this service at this address.
    Instance {
        service: &'a str,
        address: &'a Address,
    },
    /// A node's.
    Node,
}

/// A check and what is shown of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) check: Check,
    pub(crate) shown: CheckDefinition,
    /// How it stands before anybody said anything, if it is told.
    pub(crate) first: Option<(Health, String)>,
}

/// How a check asks, and what is shown of that.
struct Kind {
    name: &'static str,
    probe: Probe,
    at: Option<Address>,
    shown: Value,
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::bad(format!("Invalid check: {what}"))
}

/// What a check is called when it does not say so: one of several of the instance `of`.
pub(crate) fn usual_id(of: &str, number: usize, many: bool) -> String {
    match many {
        true => format!("service:{of}:{number}"),
        false => format!("service:{of}"),
    }
}

/// What a check is called.
pub(crate) fn id_of(fields: &Fields, usual: &str) -> Result<String, Refusal> {
    let mut id = fields.text("checkid")?;
    if id.is_empty() {
        id = fields.text("id")?;
    }
    Ok(if id.is_empty() { usual.to_owned() } else { id })
}

fn named(fields: &Fields, owner: Owner<'_>, usual: &str) -> Result<CheckDefinition, Refusal> {
    let mut name = fields.text("name")?;
    if name.is_empty() {
        name = match owner {
            Owner::Instance { service, .. } => format!("Service '{service}' check"),
            Owner::Node => usual.to_owned(),
        };
    }
    Ok(CheckDefinition {
        id: id_of(fields, usual)?,
        name,
        notes: fields.text("notes")?,
        ..CheckDefinition::default()
    })
}

/// A check of the catalogue: whoever registers it runs it and tells how it stands.
pub(crate) fn told(fields: &Fields, owner: Owner<'_>, usual: &str) -> Result<Parsed, Refusal> {
    let mut shown = named(fields, owner, usual)?;
    // How it is to be run, for whoever runs the checks of others (consul-esm).
    shown.definition = fields.raw("definition").cloned().unwrap_or_default();
    let mut check = Check::new(Probe::Told { ttl: None });
    check.name.clone_from(&shown.id);
    let health = status(&fields.text("status")?)?.unwrap_or(Health::Critical);
    let first = Some((health, fields.text("output")?));
    Ok(Parsed {
        check,
        shown,
        first,
    })
}

/// A check of the agent on `node`.
pub(crate) fn check(
    fields: &Fields,
    owner: Owner<'_>,
    usual: &str,
    node: &Node,
) -> Result<Parsed, Refusal> {
    refuse_others(fields)?;
    let mut shown = named(fields, owner, usual)?;
    let kind = kind(fields, node)?;
    shown.kind = kind.name.to_owned();
    shown.definition = kind.shown;
    let mut check = Check::new(kind.probe);
    check.name.clone_from(&shown.id);
    check.at = match owner {
        Owner::Instance { address, .. } => kind.at.filter(|at| at != address),
        Owner::Node => kind.at,
    };
    thresholds(fields, &mut check)?;
    if let Owner::Node = owner {
        // It takes services along, and a node is none.
        check.deregister_after = None;
    }
    let interval = fields.duration("interval")?;
    let interval = interval.filter(|interval| !interval.is_zero());
    match (check.probe.is_asked(), interval) {
        (true, Some(interval)) => {
            let timeout = fields.duration("timeout")?;
            let timeout = timeout.filter(|timeout| !timeout.is_zero());
            let usual = match check.probe {
                Probe::Script { .. } => SCRIPT_TIMEOUT,
                _ => TIMEOUT,
            };
            check.interval = interval.max(INTERVAL_MIN);
            check.timeout = timeout.unwrap_or(usual);
            shown.interval = go_duration(interval);
            shown.timeout = timeout.map(go_duration).unwrap_or_default();
        }
        (true, None) => {
            let text = "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or GRPC checks";
            return Err(invalid(text));
        }
        (false, Some(_)) => return Err(invalid("Interval and TTL cannot both be specified")),
        (false, None) => {}
    }
    let first = match (&check.probe, status(&fields.text("status")?)?) {
        (Probe::Told { .. }, Some(health)) => Some((health, String::new())),
        _ => None,
    };
    Ok(Parsed {
        check,
        shown,
        first,
    })
}

/// What SPEC.md says that there is not.
fn refuse_others(fields: &Fields) -> Result<(), Refusal> {
    for (key, what) in [
        ("dockercontainerid", "DockerContainerID"),
        ("osservice", "OSService"),
    ] {
        if !fields.text(key)?.is_empty() {
            return Err(Refusal::unsupported(format_args!("a check with {what}")));
        }
    }
    if !fields.text("script")?.is_empty() {
        let text = "Script was taken out of Consul in 1.0; use Args, as in [\"sh\", \"-c\", \"…\"]";
        return Err(invalid(text));
    }
    match fields.number("outputmaxsize")? {
        Some(0) => Err(invalid("MaxOutputMaxSize must be positive")),
        _ => Ok(()),
    }
}

/// The one kind of check that this is.
fn kind(fields: &Fields, node: &Node) -> Result<Kind, Refusal> {
    let ttl = fields.duration("ttl")?.filter(|ttl| !ttl.is_zero());
    let mut args = fields.texts("args")?;
    if args.is_empty() {
        args = fields.texts("scriptargs")?;
    }
    let text = |key| fields.text(key);
    let (http, tcp, udp) = (text("http")?, text("tcp")?, text("udp")?);
    let (grpc, h2ping) = (text("grpc")?, text("h2ping")?);
    let alias = alias(fields, node)?;
    let given = [
        ttl.is_some(),
        !args.is_empty(),
        !http.is_empty(),
        !tcp.is_empty(),
        !udp.is_empty(),
        !grpc.is_empty(),
        !h2ping.is_empty(),
        alias.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        let text =
            "exactly one of TTL, HTTP, TCP, UDP, GRPC, H2PING, Args and an alias must be set";
        return Err(invalid(text));
    }
    let simple = |name, probe, at: &str, shown| {
        let at = Some(at.parse::<Address>().map_err(invalid)?);
        Ok(Kind {
            name,
            probe,
            at,
            shown,
        })
    };
    if let Some(alias) = alias {
        let shown = json!({
            "AliasNode": text("aliasnode")?, "AliasService": text("aliasservice")?,
        });
        return Ok(Kind::nowhere("alias", Probe::Alias(alias), shown));
    }
    if !http.is_empty() {
        return request(fields, &http);
    }
    if !tcp.is_empty() {
        let secure = fields.flag("tcpusetls")?;
        let probe = match secure {
            true => Probe::Tls(tls(fields)?),
            false => Probe::Tcp,
        };
        let mut shown = json!({ "TCP": tcp });
        if secure {
            shown["TCPUseTLS"] = json!(true);
        }
        return simple("tcp", probe, &tcp, shown);
    }
    if !udp.is_empty() {
        return simple("udp", Probe::Udp, &udp, json!({ "UDP": udp }));
    }
    if !grpc.is_empty() {
        let (at, service) = grpc.split_once('/').unwrap_or((&grpc, ""));
        let secure = fields.flag("grpcusetls")?;
        let tls = secure.then(|| tls(fields)).transpose()?;
        let service = service.to_owned();
        let shown = json!({ "GRPC": grpc, "GRPCUseTLS": secure });
        return simple("grpc", Probe::Grpc { service, tls }, at, shown);
    }
    if !h2ping.is_empty() {
        // Of all of them the one that speaks TLS unless told not to.
        let secure = !fields.has("h2pingusetls") || fields.flag("h2pingusetls")?;
        let tls = secure.then(|| tls(fields)).transpose()?;
        let shown = json!({ "H2PING": h2ping, "H2PingUseTLS": secure });
        return simple("h2ping", Probe::H2Ping { tls }, &h2ping, shown);
    }
    if !args.is_empty() {
        // Arguments may be secrets.
        return Ok(Kind::nowhere("script", Probe::Script { args }, json!({})));
    }
    Ok(Kind::nowhere("ttl", Probe::Told { ttl }, Value::Null))
}

impl Kind {
    fn nowhere(name: &'static str, probe: Probe, shown: Value) -> Self {
        Self {
            name,
            probe,
            at: None,
            shown,
        }
    }
}

fn tls(fields: &Fields) -> Result<Tls, Refusal> {
    let name = fields.text("tlsservername")?;
    Ok(Tls {
        name: (!name.is_empty()).then_some(name),
        verify: !fields.flag("tlsskipverify")?,
    })
}

fn request(fields: &Fields, url: &str) -> Result<Kind, Refusal> {
    let at: Url = url.parse().map_err(invalid)?;
    let mut method = fields.text("method")?;
    if method.is_empty() {
        method = "GET".to_owned();
    }
    // Headers and the body may be secrets, so that they are not shown.
    let shown = json!({ "HTTP": url, "Method": method });
    let redirects = !fields.flag("disableredirects")?;
    let headers = headers(fields)?;
    let body = fields.text("body")?;
    let plain = method == "GET" && headers.is_empty() && body.is_empty();
    let probe = if plain && !redirects && !at.secure {
        Probe::Http { path: at.path }
    } else {
        Probe::Request(Box::new(HttpRequest {
            method,
            path: at.path,
            headers,
            body,
            tls: at.secure.then(|| tls(fields)).transpose()?,
            redirects,
        }))
    };
    Ok(Kind {
        name: "http",
        probe,
        at: Some(at.address),
        shown,
    })
}

/// `{"Name": ["value", …]}`.
fn headers(fields: &Fields) -> Result<Vec<(String, String)>, Refusal> {
    let wrong =
        || Refusal::bad("Request decode failed: 'header' must be a map of lists of strings");
    let none = Map::new();
    let given = match fields.raw("header") {
        None => &none,
        Some(value) => value.as_object().ok_or_else(wrong)?,
    };
    let mut headers = Vec::new();
    for (name, values) in given {
        for value in values.as_array().ok_or_else(wrong)? {
            let value = value.as_str().ok_or_else(wrong)?;
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

/// What is meant by `AliasService` (an id) on `AliasNode`, which is ours if not given.
fn alias(fields: &Fields, node: &Node) -> Result<Option<Alias>, Refusal> {
    let (on, service) = (fields.text("aliasnode")?, fields.text("aliasservice")?);
    let id = |id: &str| id.parse::<InstanceId>().map_err(invalid);
    let foreign = !on.is_empty() && !on.eq_ignore_ascii_case(&node.name);
    Ok(match (foreign, &service[..]) {
        (_, "") if on.is_empty() => None,
        (true, "") => Some(Alias::Node(Some(id(&on)?))),
        (false, "") => Some(Alias::Node(None)),
        (true, service) => Some(Alias::Instance(id(&format!("{service}@{on}"))?)),
        (false, service) => Some(Alias::Instance(id(service)?)),
    })
}

fn thresholds(fields: &Fields, check: &mut Check) -> Result<(), Refusal> {
    // Consul counts from the first answer on, which decides alone; and it never warns
    // between, unless told so.
    check.start_period = Duration::ZERO;
    check.first_decides = true;
    let count = |key| -> Result<u32, Refusal> {
        let count = fields.number(key)?.unwrap_or(0);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    };
    // 0 and 1 both act at once.
    check.success_before_passing = count("successbeforepassing")?.max(1);
    check.failures_before_critical = count("failuresbeforecritical")?.max(1);
    check.failures_before_warning = match count("failuresbeforewarning")? {
        0 => check.failures_before_critical,
        count => count,
    };
    if check.failures_before_warning > check.failures_before_critical {
        let text = "FailuresBeforeWarning can't be higher than FailuresBeforeCritical";
        return Err(invalid(text));
    }
    let deregister = fields.duration("deregistercriticalserviceafter")?;
    check.deregister_after = deregister
        .filter(|after| !after.is_zero())
        .map(|after| after.max(DEREGISTER_MIN));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node {
            name: "n".to_owned(),
            ..Node::default()
        }
    }

    fn parse(body: &Value) -> Result<Parsed, Refusal> {
        let fields = Fields::of_body(body.to_string().as_bytes()).unwrap();
        let owner = Owner::Instance {
            service: "web",
            address: &"10.0.0.1:80".parse().unwrap(),
        };
        check(&fields, owner, "service:web", &node())
    }

    /// What a definition asks, with the address if it is another than the instance's.
    fn asks(definition: Value) -> (Probe, Option<String>) {
        let mut body = json!({ "Interval": "10s" });
        for (key, value) in definition.as_object().unwrap() {
            body[key] = value.clone();
        }
        let check = parse(&body).unwrap().check;
        (check.probe, check.at.map(|at| at.to_string()))
    }

    fn refused(body: Value) -> String {
        parse(&body).unwrap_err().text
    }

    fn strict() -> Tls {
        Tls {
            name: None,
            verify: true,
        }
    }

    fn get(path: &str) -> HttpRequest {
        HttpRequest {
            method: "GET".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            tls: None,
            redirects: true,
        }
    }

    #[test]
    fn requests_have_all_that_consul_lets_them_have() {
        let request = |request| Probe::Request(Box::new(request));
        let plain = json!({ "HTTP": "http://10.0.0.1:80/x?y=1" });
        assert_eq!(asks(plain), (request(get("/x?y=1")), None));
        let bare = json!({ "HTTP": "http://h/x", "DisableRedirects": true });
        let path = "/x".to_owned();
        assert_eq!(asks(bare), (Probe::Http { path }, Some("h:80".to_owned())));
        let full = json!({
            "HTTP": "https://h/", "Method": "POST", "Body": "{}", "TLSSkipVerify": true,
            "TLSServerName": "web", "Header": { "X-A": ["1", "2"], "Host": ["h2"] },
        });
        let headers = [("X-A", "1"), ("X-A", "2"), ("Host", "h2")];
        let wanted = HttpRequest {
            method: "POST".to_owned(),
            headers: headers.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            body: "{}".to_owned(),
            tls: Some(Tls {
                name: Some("web".to_owned()),
                verify: false,
            }),
            ..get("/")
        };
        assert_eq!(asks(full), (request(wanted), Some("h:443".to_owned())));
    }

    #[test]
    fn every_other_kind_is_taken_for_what_it_is() {
        let at = |at: &str| Some(at.to_owned());
        assert_eq!(asks(json!({ "TCP": "h:1" })), (Probe::Tcp, at("h:1")));
        let secure = json!({ "TCP": "h:1", "TCPUseTLS": true });
        assert_eq!(asks(secure), (Probe::Tls(strict()), at("h:1")));
        assert_eq!(asks(json!({ "UDP": "h:1" })), (Probe::Udp, at("h:1")));
        let service = "a.B".to_owned();
        let grpc = Probe::Grpc { service, tls: None };
        assert_eq!(asks(json!({ "GRPC": "h:1/a.B" })), (grpc, at("h:1")));
        let whole = json!({ "GRPC": "h:1", "GRPCUseTLS": true });
        let grpc = Probe::Grpc {
            service: String::new(),
            tls: Some(strict()),
        };
        assert_eq!(asks(whole), (grpc, at("h:1")));
        let ping = |tls| (Probe::H2Ping { tls }, at("h:1"));
        assert_eq!(asks(json!({ "H2PING": "h:1" })), ping(Some(strict())));
        let clear = json!({ "H2PING": "h:1", "H2PingUseTLS": false });
        assert_eq!(asks(clear), ping(None));
        let args = vec!["/bin/true".to_owned()];
        let script = (Probe::Script { args }, None);
        assert_eq!(asks(json!({ "Args": ["/bin/true"] })), script);
        assert_eq!(asks(json!({ "ScriptArgs": ["/bin/true"] })), script);
    }

    #[test]
    fn an_alias_is_of_a_service_on_a_node_or_of_a_node() {
        let alias = |body: Value| parse(&body).unwrap().check.probe;
        let id = |id: &str| id.parse().unwrap();
        let instance = |text: &str| Probe::Alias(Alias::Instance(id(text)));
        assert_eq!(alias(json!({ "AliasService": "db1" })), instance("db1"));
        let ours = json!({ "AliasService": "db1", "AliasNode": "N" });
        assert_eq!(alias(ours), instance("db1"));
        let theirs = json!({ "AliasService": "db1", "AliasNode": "m" });
        assert_eq!(alias(theirs), instance("db1@m"));
        let node = |node| Probe::Alias(Alias::Node(node));
        assert_eq!(alias(json!({ "AliasNode": "n" })), node(None));
        assert_eq!(alias(json!({ "AliasNode": "m" })), node(Some(id("m"))));
    }

    #[test]
    fn thresholds_and_times_are_consuls() {
        let check = parse(&json!({
            "Args": ["x"], "Interval": "1ms", "SuccessBeforePassing": 3,
            "FailuresBeforeCritical": 4, "DeregisterCriticalServiceAfter": "1s",
        }));
        let check = check.unwrap().check;
        assert_eq!(check.interval, Duration::from_secs(1));
        assert_eq!(check.timeout, Duration::from_secs(30));
        assert_eq!(check.deregister_after, Some(Duration::from_secs(60)));
        assert!(check.first_decides);
        let counts = (check.success_before_passing, check.failures_before_warning);
        assert_eq!(
            counts,
            (3, 4),
            "without a threshold of its own it never warns"
        );
        let text = refused(json!({ "TTL": "1s", "FailuresBeforeWarning": 2 }));
        assert!(text.contains("can't be higher"), "{text}");
    }

    #[test]
    fn what_is_no_check_is_refused_with_the_reason() {
        for (body, why) in [
            (json!({}), "exactly one of TTL"),
            (
                json!({ "TTL": "1s", "TCP": "h:1", "Interval": "1s" }),
                "exactly one of TTL",
            ),
            (
                json!({ "TTL": "1s", "Interval": "1s" }),
                "Interval and TTL cannot both",
            ),
            (json!({ "UDP": "h:1" }), "Interval must be > 0"),
            (
                json!({ "HTTP": "ftp://h", "Interval": "1s" }),
                "neither http:// nor",
            ),
            (json!({ "GRPC": "h", "Interval": "1s" }), "not an address"),
            (
                json!({ "HTTP": "http://h", "Interval": "1s", "Header": {"a": "b"} }),
                "map of lists",
            ),
            (json!({ "Script": "true", "Interval": "1s" }), "use Args"),
            (
                json!({ "OSService": "nginx", "Interval": "1s" }),
                "OSService",
            ),
            (
                json!({ "DockerContainerID": "c", "Args": ["x"], "Interval": "1s" }),
                "DockerContainerID",
            ),
            (
                json!({ "TTL": "1s", "OutputMaxSize": 0 }),
                "must be positive",
            ),
        ] {
            let text = refused(body.clone());
            assert!(text.contains(why), "{body}: {text}");
        }
    }
}
